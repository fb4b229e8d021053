"""A tracker's boxes: MOTChallenge text, or the same columns as CSV with a header or as Parquet."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_tools.datasets.annotation_lines import (
    number,
    numbered,
    read_csv_table,
    read_lines,
    shown,
    whole_number,
)
from data_tools.datasets.problems import ProblemLog
from data_tools.errors import InputError
from data_tools.tracklet import Box

COLUMNS = ("frame", "id", "x", "y", "w", "h", "conf")
REQUIRED_COLUMNS = COLUMNS[:6]
TRACK_SUFFIXES = (".txt", ".csv", ".parquet")


class TrackBox(NamedTuple):
    """One box: frame number from 0, box in pixels, and its line (or row of a Parquet file) from 1."""

    frame: int
    box: Box
    line: int


Row = tuple[int, Mapping[str, object]]


def find_track_file(video: Path, folders: Sequence[Path], log: ProblemLog) -> Path | None:
    """The one track file of a video in ``folders``; none or several are an error.

    Looked for are ``STEM.txt``, ``STEM.csv``, ``STEM.parquet``, and as in MOTChallenge ``STEM/gt.txt`` and
    ``STEM/gt/gt.txt``, where a folder may itself be the sequence's folder ``STEM``.
    """
    candidates: dict[Path, None] = {}  # in order, each once
    for folder in folders:
        candidates |= dict.fromkeys(folder / f"{video.stem}{suffix}" for suffix in TRACK_SUFFIXES)
        for sequence in (folder / video.stem, folder):
            if sequence.name == video.stem:
                candidates |= dict.fromkeys((sequence / "gt.txt", sequence / "gt" / "gt.txt"))
    found = [path for path in candidates if os.path.isfile(path)]
    if len(found) == 1:
        return found[0]
    what = "has several track files" if found else "has no track file; looked for"
    log.error(video, None, f"{what}: {', '.join(str(path) for path in found or candidates)}")
    return None


def read_track_file(
    path: Path, log: ProblemLog, *, first_frame: int = 1, minimum_confidence: float | None = None
) -> dict[int, list[TrackBox]]:
    """The boxes of every track by its id, ordered by id; each track's boxes ordered by frame.

    Args:
        path: ``.csv``, ``.parquet``, or MOT text with any other suffix (``COLUMNS``; more are ignored).
        log: gets an error for every row that is not a box of a track.
        first_frame: the number that the file gives to the video's first frame.
        minimum_confidence: boxes whose ``conf`` is lower are left out; a row without one is kept.
    """
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    rows = readers.get(path.suffix.lower(), _mot_rows)(path, log)
    tracks: dict[int, dict[int, TrackBox]] = {}
    for line, row in rows:
        try:
            box = _track_box(row, line, first_frame)
            track = whole_number(row, "id")
            if minimum_confidence is not None and _confidence(row) < minimum_confidence:
                continue
            earlier = tracks.setdefault(track, {}).setdefault(box.frame, box)
            if earlier is not box:
                raise InputError(f"track {track} has a box in frame {row['frame']} already, in line {earlier.line}")
        except InputError as error:
            log.error(path, line, str(error))
    return {track: [boxes[frame] for frame in sorted(boxes)] for track, boxes in sorted(tracks.items())}


def _track_box(row: Mapping[str, object], line: int, first_frame: int) -> TrackBox:
    frame = whole_number(row, "frame", least=first_frame) - first_frame
    box = (number(row, "x"), number(row, "y"), number(row, "w"), number(row, "h"))
    for name, side in zip("wh", box[2:], strict=True):
        if side <= 0:
            raise InputError(f"{name} is {shown(row[name])}, expected more than 0 pixels")
    return TrackBox(frame, box, line)


def _confidence(row: Mapping[str, object]) -> float:
    """The row's ``conf``; a row without one is as sure as can be."""
    return math.inf if row.get("conf") in (None, "") else number(row, "conf")


def _mot_rows(path: Path, log: ProblemLog) -> Iterator[Row]:
    for line, text in numbered(read_lines(path, log)):
        fields = text.split(",")
        if len(fields) < len(REQUIRED_COLUMNS):
            log.error(path, line, f"has {len(fields)} columns, expected {','.join(COLUMNS)}: {shown(text)}")
        else:
            yield line, dict(zip(COLUMNS, fields, strict=False))


def _csv_rows(path: Path, log: ProblemLog) -> Iterator[Row]:
    yield from read_csv_table(path, REQUIRED_COLUMNS, log)


def _parquet_rows(path: Path, log: ProblemLog) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            columns = [name for name in COLUMNS if name in present]
            for name in REQUIRED_COLUMNS:
                if present.count(name) != 1:
                    log.error(path, None, f"has {present.count(name)} columns named {name}, expected one")
                    return
            for name in columns:
                kind = file.schema_arrow.field(name).type
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                    log.error(path, None, f"column {name} is of type {kind}, expected numbers")
                    return
            row = 0
            for batch in file.iter_batches(columns=columns):
                for values in batch.to_pylist():
                    row += 1
                    yield row, values
    except (pa.ArrowException, OSError, ValueError) as error:
        log.error(path, None, f"is not a Parquet file that can be read: {shown(str(error))}")
