"""Track files: which one belongs to a video, and the boxes of every track in it, in whatever format."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_tools.datasets.cvat_tracks import read_cvat
from data_tools.datasets.json_tracks import read_json
from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.table_tracks import read_parquet, read_text
from data_tools.datasets.track_classes import is_ground_truth, select_persons
from data_tools.datasets.track_columns import TrackRow
from data_tools.datasets.track_rows import FileRows
from data_tools.datasets.video_files import stem_of
from data_tools.tracklet import Box

TRACK_SUFFIXES = (".txt", ".csv", ".tsv", ".parquet")
DOCUMENT_SUFFIXES = (".xml", ".json")
"""Looked for where none of ``TRACK_SUFFIXES`` is there, for cameras write such files about their videos."""


class TrackBox(NamedTuple):
    """One box: frame number from 0, box in pixels, and its line (or row of a table without lines) from 1."""

    frame: int
    box: Box
    line: int


@dataclass(frozen=True, slots=True)
class TrackFile:
    """What one file says of one video: boxes of every track by its id, ordered by id and frame.

    The frames are numbered as the file numbers them: by ``numbered_from`` where its format tells that, else from 0 or
    1. ``lowest`` and ``highest`` are the ends of what it numbers, with boxes or without.
    """

    path: Path
    tracks: Mapping[int, list[TrackBox]]
    lowest: int
    highest: int
    numbered_from: int | None = None
    frame_column: str | None = None
    """The name of the column of frames; None where the columns have no names."""
    picture_size: tuple[int, int] | None = None
    """Width and height of the pictures that the boxes are for, where the file tells."""


def find_track_file(video: Path, folders: Sequence[Path], log: ProblemLog) -> Path | None:
    """The one track file of a video in ``folders``; none or several are an error.

    Looked for are ``STEM.txt``, ``STEM.csv``, ``STEM.tsv``, ``STEM.parquet`` and, as in MOTChallenge, ``STEM/gt.txt``
    and ``STEM/gt/gt.txt``, where a folder may itself be the sequence's folder ``STEM``; where there is none of them
    ``STEM.xml`` and ``STEM.json``. Suffixes may be in capitals.
    """
    stem = stem_of(video)
    tables: dict[Path, None] = {}  # in order, each once
    documents: dict[Path, None] = {}
    for folder in folders:
        tables |= dict.fromkeys(folder / f"{stem}{suffix}" for suffix in TRACK_SUFFIXES)
        documents |= dict.fromkeys(folder / f"{stem}{suffix}" for suffix in DOCUMENT_SUFFIXES)
        for sequence in (folder / stem, folder):
            if sequence.name == stem:
                tables |= dict.fromkeys((sequence / "gt.txt", sequence / "gt" / "gt.txt"))
    found = _present(tables) or _present(documents)
    if len(found) == 1:
        return found[0]
    what = "has several track files" if found else "has no track file; looked for"
    log.error(video, None, f"{what}: {', '.join(map(str, found or [*tables, *documents]))}")
    return None


def _present(candidates: Iterable[Path]) -> list[Path]:
    """Those that are files, with the suffix as it stands or in capitals; one file of two names once."""
    found: dict[tuple[int, int], Path] = {}
    for path in candidates:
        for spelt in (path, path.with_suffix(path.suffix.upper()), path.with_suffix(path.suffix.capitalize())):
            if os.path.isfile(spelt):
                facts = os.stat(spelt)
                found.setdefault((facts.st_dev, facts.st_ino), spelt)
    return list(found.values())


def read_track_file(
    path: Path,
    log: ProblemLog,
    *,
    video: str = "",
    classes: Collection[str] | None = None,
    minimum_confidence: float | None = None,
) -> TrackFile | None:
    """What the file says of a video; None where it holds no box that is taken.

    Args:
        path: ``.parquet``, ``.xml`` (CVAT), ``.json`` (COCO-style, or a list of boxes), or text with any other suffix.
        log: gets an error for every row that is not a box, and counts of what is left out.
        video: the video's name, for files of several videos.
        classes: see ``select_persons``.
        minimum_confidence: boxes whose confidence is lower are left out; a row without one is kept.
    """
    readers: Mapping[str, Callable[[Path, str, ProblemLog], FileRows]] = {
        ".parquet": read_parquet,
        ".xml": read_cvat,
        ".json": read_json,
    }
    found = readers.get(path.suffix.lower(), read_text)(path, video, log)
    rows = _of_tracks(found.rows, path, log)
    truth = is_ground_truth(rows)
    rows = select_persons(rows, classes, found.class_names, path, log)
    if minimum_confidence is not None and rows:
        rows = _confident(rows, minimum_confidence, truth, path, log)
    tracks = _by_track(rows, path, log)
    if not tracks:
        return None
    frames = [row.frame for row in found.rows]
    lowest, highest = (end((end(frames), *found.numbered)) for end in (min, max))
    return TrackFile(path, tracks, lowest, highest, found.numbered_from, found.frame_column, found.picture_size)


def _of_tracks(rows: list[TrackRow], path: Path, log: ProblemLog) -> list[TrackRow]:
    tracked = [row for row in rows if row.track is not None]
    if rows and not tracked:
        log.error(path, None, f"none of its {len(rows)} boxes belongs to a track (id -1 or empty): detections alone")
    elif len(tracked) < len(rows):
        count = len(rows) - len(tracked)
        log.warn(path, None, f"{count} of {len(rows)} boxes belong to no track (id -1 or empty) and were left out")
    return tracked


def _confident(rows: list[TrackRow], minimum: float, truth: bool, path: Path, log: ProblemLog) -> list[TrackRow]:
    if truth or all(row.confidence is None for row in rows):
        why = "its seventh column is ground truth's flag" if truth else "it has no column of confidences"
        log.error(path, None, f"minimum_confidence {minimum:g} can have no effect: {why}; leave it out")
        return rows
    kept = [row for row in rows if row.confidence is None or row.confidence >= minimum]
    if len(kept) < len(rows):
        log.warn(path, None, f"{len(rows) - len(kept)} of {len(rows)} boxes below confidence {minimum:g} were left out")
    return kept


def _by_track(rows: Iterable[TrackRow], path: Path, log: ProblemLog) -> dict[int, list[TrackBox]]:
    tracks: dict[int, dict[int, TrackBox]] = {}
    for row in rows:
        assert row.track is not None
        box = TrackBox(row.frame, row.box, row.line)
        earlier = tracks.setdefault(row.track, {}).setdefault(row.frame, box)
        if earlier is not box:
            message = f"track {row.track} has a box in frame {row.frame} already, in line {earlier.line}"
            log.error(path, row.line, message)
    return {track: [boxes[frame] for frame in sorted(boxes)] for track, boxes in sorted(tracks.items())}
