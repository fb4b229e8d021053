"""Atomic writing and checked reading of Parquet files; errors name the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.parquet_files import open_parquet
from data_tools.wording import one_line


def write_table(table: pa.Table, path: Path, *, plain: Sequence[str] = ()) -> None:
    """Write the table atomically; InputError if that fails. ``plain`` columns have no dictionary."""
    write_tables([table], path, plain=plain)


def write_tables(tables: Iterable[pa.Table], path: Path, *, plain: Sequence[str] = ()) -> None:
    """Write tables of one schema, at least one, as one table, as ``write_table``; one is held at a time.

    An error that they raise leaves nothing behind.
    """
    remaining = iter(tables)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            first = next(remaining)
            coded = [name for name in first.column_names if name not in plain]
            with pq.ParquetWriter(file, first.schema, use_dictionary=coded) as writer:
                for table in chain([first], remaining):
                    writer.write_table(table)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def shown_type(column: pa.ChunkedArray) -> str:
    """A column's type, for messages."""
    return one_line(column.type, 120)


def read_table(path: Path, required: Sequence[str], wanted: Callable[[str], bool] = lambda _: True) -> pa.Table:
    """The table's wanted columns; InputError if it cannot be read, is empty, or a column is missing or duplicate."""
    with open_parquet(path) as file:
        table = file.read([name for name in file.schema_arrow.names if wanted(name)])
        table.validate(full=True)
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; found {one_line(', '.join(table.column_names))}")
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{path}: duplicate column names: {one_line(', '.join(table.column_names))}")
    if not table.num_rows:
        raise InputError(f"{path}: the table has no rows")
    return table
