"""Boxes in tables: text with or without a header, Parquet, and rows from other formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.text_tables import Cells, has_width, is_header, read_cells, with_points
from data_tools.datasets.track_columns import TrackColumns, TrackRow, find_columns
from data_tools.datasets.track_rows import FileRows
from data_tools.errors import InputError
from data_tools.wording import shown

COLUMNS = ("frame", "id", "x", "y", "w", "h", "conf", "class", "visibility")
"""Columns of MOT text, which has no header; in results, the last ones are -1."""
NEEDED = 6
TRUTH_COLUMNS = 9
CLASS_LIST = "labels.txt"
"""File beside a ``gt.txt`` written by CVAT or Datumaro: line n is the name of class n."""


def read_text(path: Path, video: str, log: ProblemLog) -> FileRows:  # noqa: ARG001
    """Read a text table; without a header it has MOT's ``COLUMNS``."""
    separator, cells = read_cells(path, log)
    first = next(cells, None)
    if first is None:  # a tracker's output without detections may be empty, but not a table with a header
        if path.suffix.lower() in (".csv", ".tsv"):
            log.error(path, None, f"has no header, expected {','.join(COLUMNS[:7])}")
        return FileRows()
    line, names = first
    names = [names[0].removeprefix("#").strip(), *names[1:]]
    points = separator != ","
    if any(_is_number(cell) for cell in (with_points(names) if points else names)):
        return _without_header(chain([first], cells), path, points, log)
    columns = columns_of(names, path, line, log) if is_header(names, (), path, line, log) else None
    if columns is None:
        return FileRows()
    rows = _read_rows(_named(cells, names, points, path, log), columns, path, log)
    return FileRows(rows, frame_column=columns.of["frame"])


def columns_of(names: Sequence[str], path: Path, line: int | None, log: ProblemLog) -> TrackColumns | None:
    """The roles of the columns; None, with an error, if one is missing. Warns of unused columns that look useful."""
    try:
        columns = find_columns(names)
    except InputError as error:
        log.error(path, line, str(error))
        return None
    if columns.unused:
        log.warn(path, line, f"unused columns: {', '.join(columns.unused)}")
    return columns


def read_records(records: Iterable[tuple[int, Mapping[str, object]]], path: Path, log: ProblemLog) -> FileRows:
    """Read boxes given as mappings from column to value; the first one has every column."""
    records = iter(records)
    first = next(records, None)
    if first is None:
        return FileRows()
    columns = columns_of([str(name) for name in first[1]], path, None, log)
    if columns is None:
        return FileRows()
    return FileRows(_read_rows(chain([first], records), columns, path, log), frame_column=columns.of["frame"])


def _read_rows(
    table: Iterable[tuple[int, Mapping[str, object]]], columns: TrackColumns, path: Path, log: ProblemLog
) -> list[TrackRow]:
    rows: list[TrackRow] = []
    for line, cells in table:
        try:
            rows.append(columns.row(cells, line))
        except InputError as error:
            log.error(path, line, str(error))
    return rows


def _named(
    cells: Iterable[Cells], names: Sequence[str], points: bool, path: Path, log: ProblemLog
) -> Iterator[tuple[int, Mapping[str, str]]]:
    for line, row in cells:
        if has_width(row, names, path, line, log):
            yield line, dict(zip(names, with_points(row) if points else row, strict=True))


def _without_header(cells: Iterable[Cells], path: Path, points: bool, log: ProblemLog) -> FileRows:
    widths: set[int] = set()

    def table() -> Iterator[tuple[int, Mapping[str, str]]]:
        for line, row in cells:
            if len(row) < NEEDED:
                log.error(
                    path, line, f"has {len(row)} columns, expected {','.join(COLUMNS[:7])}: {shown(','.join(row))}"
                )
            else:
                widths.add(len(row))
                mot = dict(zip(COLUMNS, with_points(row) if points else row, strict=False))
                if len(row) != TRUTH_COLUMNS or not _is_number(mot["visibility"]):
                    mot.pop("visibility", None)
                yield line, mot

    columns = TrackColumns({name: name for name in COLUMNS} | _MOT_ROLES, ("left", "top", "width", "height"))
    rows = _read_rows(table(), columns, path, log)
    if not _have_classes(rows):
        rows = [row._replace(kind=None) for row in rows]
    if widths != {TRUTH_COLUMNS}:
        rows = [row._replace(visibility=None) for row in rows]
    return FileRows(rows, class_names=_class_list(path))


_MOT_ROLES = {"track": "id", "left": "x", "top": "y", "width": "w", "height": "h", "confidence": "conf"}


def _have_classes(rows: Sequence[TrackRow]) -> bool:
    """Whether the column after the confidence has classes: in results it is -1, or a world coordinate."""
    kinds = {row.kind for row in rows if row.kind}
    return not kinds <= {"-1"} and all(kind.isdecimal() or not _is_number(kind) for kind in kinds)


def _class_list(path: Path) -> dict[str, str]:
    names = path.with_name(CLASS_LIST)
    try:
        if path.name.lower() != "gt.txt" or not names.is_file() or names.stat().st_size > 2**20:
            return {}
        lines = names.read_text("utf-8").split("\n")
    except (OSError, ValueError):
        return {}
    return {str(number): name.strip()[:100] for number, name in enumerate(lines, start=1) if name.strip()}


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def read_parquet(path: Path, video: str, log: ProblemLog) -> FileRows:  # noqa: ARG001
    """Read a Parquet table, by its column names."""
    import pyarrow as pa

    from data_tools.parquet_files import open_parquet

    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            if len(set(schema.names)) < len(schema.names):
                log.error(path, None, f"has two columns with the same name: {shown(','.join(schema.names))}")
                return FileRows()
            columns = columns_of(schema.names, path, None, log)
            if columns is None:
                return FileRows()
            read = {role: columns.of[role] for role in (*_OTHER_ROLES, *columns.form) if role in columns.of}
            for role, name in read.items():
                kind = schema.field(name).type
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or role == "class"):
                    log.error(path, None, f"column {name} has type {kind}, expected numbers")
                    return FileRows()
            batches = (batch.to_pylist() for batch in file.iter_batches(columns=list(dict.fromkeys(read.values()))))
            table = enumerate(chain.from_iterable(batches), start=1)
            return FileRows(_read_rows(table, columns, path, log), frame_column=columns.of["frame"])
    except InputError as error:
        log.error(path, None, str(error).removeprefix(f"{path}: "))
        return FileRows()


_OTHER_ROLES = ("frame", "track", "confidence", "class", "flag", "visibility")
