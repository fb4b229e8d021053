"""Track files: finding the one for a video, and reading its tracks in any supported format."""

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
"""Tried only if there is none of ``TRACK_SUFFIXES``, because cameras write such files next to their videos."""


class TrackBox(NamedTuple):
    """One box: frame number from 0, box in pixels, and its line (or its row in a binary table) from 1."""

    frame: int
    box: Box
    line: int


@dataclass(frozen=True, slots=True)
class TrackFile:
    """The content of one file for one video: the boxes of every track by its id, sorted by id and frame.

    Frames have the file's numbers: from ``numbered_from`` if its format defines that, otherwise from 0 or 1.
    ``lowest`` and ``highest`` are its lowest and highest frame numbers, including frames without boxes.
    """

    path: Path
    tracks: Mapping[int, list[TrackBox]]
    lowest: int
    highest: int
    numbered_from: int | None = None
    frame_column: str | None = None
    """The name of the frame column; None if the columns have no names."""
    picture_size: tuple[int, int] | None = None
    """Width and height of the pictures that the boxes are for, if the file says so."""


def find_track_file(video: Path, folders: Sequence[Path], log: ProblemLog) -> Path | None:
    """The track file of a video in ``folders``; none or several are an error.

    Candidates are ``STEM.txt``, ``STEM.csv``, ``STEM.tsv``, ``STEM.parquet`` and, as in MOTChallenge, ``STEM/gt.txt``
    and ``STEM/gt/gt.txt`` (a folder may itself be the sequence's folder ``STEM``); if none exists, ``STEM.xml`` and
    ``STEM.json``. Suffixes may be in capitals.
    """
    found, searched = list_track_files(video, folders)
    if len(found) == 1:
        return found[0]
    what = "has several track files" if found else "has no track file; looked for"
    log.error(video, None, f"{what}: {', '.join(map(str, found or searched))}")
    return None


def list_track_files(video: Path, folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The track files of a video that are there, of those that ``find_track_file`` looks for; and all of the latter."""
    stem = stem_of(video)
    tables: dict[Path, None] = {}  # in order, each once
    documents: dict[Path, None] = {}
    for folder in folders:
        tables |= dict.fromkeys(folder / f"{stem}{suffix}" for suffix in TRACK_SUFFIXES)
        documents |= dict.fromkeys(folder / f"{stem}{suffix}" for suffix in DOCUMENT_SUFFIXES)
        for sequence in (folder / stem, folder):
            if sequence.name == stem:
                tables |= dict.fromkeys((sequence / "gt.txt", sequence / "gt" / "gt.txt"))
    return _present(tables) or _present(documents), [*tables, *documents]


def _present(candidates: Iterable[Path]) -> list[Path]:
    """Existing files, with the suffix as given or in capitals; a file found under two names is listed once."""
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
    """Read a video's tracks from the file; None if no box remains.

    Args:
        path: ``.parquet``, ``.xml`` (CVAT), ``.json`` (COCO-style, or a list of boxes), or text with any other suffix.
        log: gets an error for every row that is not a box, and counts of dropped boxes.
        video: the video's name, for files with several videos.
        classes: see ``select_persons``.
        minimum_confidence: boxes with a lower confidence are dropped; a row without one is kept.
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
        reason = f"none of its {len(rows)} boxes belongs to a track (id -1 or empty)"
        log.error(path, None, f"{reason}: are these detections without tracking?")
    elif len(tracked) < len(rows):
        count = len(rows) - len(tracked)
        log.warn(path, None, f"{count} of {len(rows)} boxes belong to no track (id -1 or empty) and were dropped")
    return tracked


def _confident(rows: list[TrackRow], minimum: float, truth: bool, path: Path, log: ProblemLog) -> list[TrackRow]:
    if truth or all(row.confidence is None for row in rows):
        why = "column 7 is the ground truth flag" if truth else "the file has no confidence column"
        log.error(path, None, f"minimum_confidence {minimum:g} has no effect, because {why}; remove it")
        return rows
    kept = [row for row in rows if row.confidence is None or row.confidence >= minimum]
    if len(kept) < len(rows):
        log.warn(path, None, f"{len(rows) - len(kept)} of {len(rows)} boxes below confidence {minimum:g} were dropped")
    return kept


def _by_track(rows: Iterable[TrackRow], path: Path, log: ProblemLog) -> dict[int, list[TrackBox]]:
    tracks: dict[int, dict[int, TrackBox]] = {}
    for row in rows:
        assert row.track is not None
        box = TrackBox(row.frame, row.box, row.line)
        earlier = tracks.setdefault(row.track, {}).setdefault(row.frame, box)
        if earlier is not box:
            message = f"duplicate box of track {row.track} in frame {row.frame}, first seen in line {earlier.line}"
            log.error(path, row.line, message)
    return {track: [boxes[frame] for frame in sorted(boxes)] for track, boxes in sorted(tracks.items())}
