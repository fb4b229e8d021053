"""Writing a user's track file anew, with persons in place of or beside its tracks.

Format, columns, frame numbers, boxes and the order of rows stay as they are: MOT text, text with a header, Parquet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.datasets.problems import ProblemLog, list_problems
from data_tools.datasets.table_tracks import columns_of
from data_tools.datasets.text_tables import SPACES, is_header, read_cells, with_points
from data_tools.datasets.track_columns import UNKNOWN_TRACKS, TrackColumns
from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.parquet_files import open_parquet

Way = Literal["replace", "beside"]
"""Whether persons take the place of the track numbers, or stand in a column of their own."""

UNIDENTIFIED = 1_000_000_000
"""Added to the number of a track that is no person's, for example because it is too short for a tracklet."""
PERSON_COLUMN = "person"
MOT_FRAME, MOT_TRACK = 0, 1
"""Columns of text without a header."""


class Part(NamedTuple):
    """A part of a track, from the row (or line) of its first box on: whom it shows."""

    row: int
    person: int


class Key(NamedTuple):
    """Track and frame of one row, as in the file."""

    row: int
    track: int
    frame: int


@dataclass(frozen=True, slots=True)
class _Persons:
    """The person of every row."""

    parts_of: Mapping[int, Sequence[tuple[int, int]]]
    """For each track the first frames of its parts, ascending, each with its person."""

    @classmethod
    def of(cls, parts_of: Mapping[int, Sequence[Part]], keys: Sequence[Key]) -> _Persons:
        frame_of = {key.row: key.frame for key in keys}
        return cls(
            {
                track: sorted((frame_of[part.row], part.person) for part in parts if part.row in frame_of)
                for track, parts in parts_of.items()
            }
        )

    def each(self, keys: Sequence[Key]) -> dict[int, int]:
        """By row; nobody is twice in a frame."""
        found: dict[int, int] = {}
        taken: set[tuple[int, int]] = set()
        for key in keys:
            person = self._of(key)
            if person is None or (key.frame, person) in taken:
                person = UNIDENTIFIED + key.track
            taken.add((key.frame, person))
            found[key.row] = person
        return found

    def _of(self, key: Key) -> int | None:
        parts = self.parts_of.get(key.track)
        if not parts:
            return None
        return next((person for frame, person in reversed(parts) if frame <= key.frame), parts[0][1])


def rewrite_tracks(source: Path, target: Path, parts_of: Mapping[int, Sequence[Part]], way: Way) -> int:
    """Write ``source`` anew to ``target``, atomically; returns how many boxes show a person of ``parts_of``.

    Args:
        parts_of: the parts of each track that became tracklets.
        way: ``replace``: persons stand where the tracks stood; a track of nobody keeps its number, with
            ``UNIDENTIFIED`` added. ``beside``: the tracks stay, and persons stand in a column ``person`` after the
            others, empty (in MOT text -1) for nobody.

    Raises:
        InputError: the file is no such table, or cannot be read or written.
    """
    write = _rewrite_parquet if source.suffix.lower() == ".parquet" else _rewrite_text
    if source.suffix.lower() in (".xml", ".json"):
        raise InputError(f"{source}: tracks in {source.suffix} are not written anew, only text and Parquet")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return write(source, target, parts_of, way)
    except OSError as error:
        raise InputError(f"{error.filename or target}: cannot be written: {error.strerror}") from error


def _rewrite_text(source: Path, target: Path, parts_of: Mapping[int, Sequence[Part]], way: Way) -> int:
    log = ProblemLog()
    separator, cells = read_cells(source, log)
    table = list(cells)
    _raise(log)
    header, frame_at, track_at = _text_columns(table, separator, source, log)
    rows = table[1:] if header else table
    points = separator != ","
    keys = [
        key
        for line, row in rows
        if (key := _key(line, with_points(row) if points else row, frame_at, track_at)) is not None
    ]
    person_of = _Persons.of(parts_of, keys).each(keys)
    shown = _shown(person_of, "" if header else "-1", way)
    text = io.StringIO()
    put = _writer(text, separator)
    if header:
        put([*table[0][1], *([_free_name(table[0][1])] if way == "beside" else [])])
    for line, row in rows:
        new = shown(line, row[track_at] if len(row) > track_at else "")
        put([*row, new] if way == "beside" else [*row[:track_at], new, *row[track_at + 1 :]])
    with atomic_file(target) as file:
        file.write(text.getvalue().encode())
    return _identified(person_of)


def _text_columns(
    table: Sequence[tuple[int, Sequence[str]]], separator: str, source: Path, log: ProblemLog
) -> tuple[bool, int, int]:
    """Whether there is a header, and where frame and track stand."""
    if not table:
        _raise(log)
        return False, MOT_FRAME, MOT_TRACK
    line, first = table[0]
    names = [first[0].removeprefix("#").strip(), *first[1:]]
    if any(_is_number(cell) for cell in (with_points(names) if separator != "," else names)):
        return False, MOT_FRAME, MOT_TRACK
    columns = columns_of(names, source, line, log) if is_header(names, (), source, line, log) else None
    _raise(log)
    assert columns is not None
    return True, names.index(columns.of["frame"]), names.index(columns.of["track"])


def _key(line: int, row: Sequence[str], frame_at: int, track_at: int) -> Key | None:
    """None for a row without a track, or that is not a box; the reader of tracks tells of those."""
    try:
        frame, track = float(row[frame_at]), row[track_at]
        if track.strip().lower() in UNKNOWN_TRACKS or not frame.is_integer() or not float(track).is_integer():
            return None
        return Key(line, int(float(track)), int(frame))
    except (ValueError, OverflowError, IndexError):
        return None


def _shown(person_of: Mapping[int, int], nobody: str, way: Way) -> Callable[[int, str], str]:
    def shown(row: int, old: str) -> str:
        person = person_of.get(row)
        if way == "replace":
            return old if person is None else str(person)
        return nobody if person is None or person >= UNIDENTIFIED else str(person)

    return shown


def _writer(text: io.StringIO, separator: str) -> Callable[[Sequence[str]], None]:
    if separator == SPACES:
        return lambda row: print(" ".join(row), file=text)
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    return lambda row: writer.writerow(row) and None


def _rewrite_parquet(source: Path, target: Path, parts_of: Mapping[int, Sequence[Part]], way: Way) -> int:
    log = ProblemLog()
    with open_parquet(source) as file:
        table = file.read()
    columns = columns_of(table.column_names, source, None, log)
    _raise(log)
    assert columns is not None
    keys = _parquet_keys(table, columns)
    person_of = _Persons.of(parts_of, keys).each(keys)
    name, track = columns.of["track"], table[columns.of["track"]]
    if way == "replace":
        values = [person_of.get(row, old) for row, old in enumerate(track.to_pylist(), start=1)]
        new = table.set_column(table.column_names.index(name), name, pa.array(values, _wide(track.type)))
    else:
        people = [person_of.get(row, UNIDENTIFIED) for row in range(1, table.num_rows + 1)]
        found = pa.array([None if person >= UNIDENTIFIED else person for person in people], pa.int64())
        new = table.append_column(_free_name(table.column_names), found)
    with atomic_file(target) as out:
        pq.write_table(new, out)
    return _identified(person_of)


def _parquet_keys(table: pa.Table, columns: TrackColumns) -> list[Key]:
    frames, tracks = (table[columns.of[role]].to_pylist() for role in ("frame", "track"))
    texts = [["" if cell is None else str(cell) for cell in both] for both in zip(frames, tracks, strict=True)]
    return [key for row, cells in enumerate(texts, start=1) if (key := _key(row, cells, 0, 1)) is not None]


def _wide(kind: pa.DataType) -> pa.DataType:
    """A type that holds all persons: the column's own, if it does."""
    return kind if pa.types.is_float64(kind) or kind in (pa.uint64(), pa.int64(), pa.uint32()) else pa.int64()


def _free_name(names: Sequence[str]) -> str:
    taken = {name.casefold() for name in names}
    numbered = (PERSON_COLUMN if number == 1 else f"{PERSON_COLUMN}_{number}" for number in range(1, len(names) + 2))
    return next(name for name in numbered if name not in taken)


def _identified(person_of: Mapping[int, int]) -> int:
    return sum(person < UNIDENTIFIED for person in person_of.values())


def _raise(log: ProblemLog) -> None:
    if errors := [problem for problem in log.problems() if problem.severity == "error"]:
        raise InputError(list_problems(errors, 10).strip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
