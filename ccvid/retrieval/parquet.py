"""Parquet files that are whole or absent, and errors that name them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.errors import InputError
from data_tools.files import atomic_file


def write_table(table: pa.Table, path: Path) -> None:
    """Write the table so that a reader never sees half of it; InputError where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            pq.write_table(table, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def read_table(path: Path, required: Sequence[str]) -> pa.Table:
    """The whole table; InputError if it cannot be read, has no row, or lacks a required column."""
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file: {error}") from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; found {', '.join(table.column_names)}")
    if not table.num_rows:
        raise InputError(f"{path}: the table has no rows")
    return table
