"""Untrusted Parquet files, opened within bounds: a small file may expand to a terabyte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.errors import InputError
from data_tools.wording import one_line

FEW_ROWS = 2**17
"""Up to this many rows may compress arbitrarily well. A larger table has at least a byte per row, because ids and boxes
differ."""


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file.

    Raises:
        InputError: it is not Parquet, has more rows than bytes, or pyarrow fails to read it.
    """
    try:
        with pq.ParquetFile(path) as file:
            size, rows = path.stat().st_size, file.metadata.num_rows
            if rows > max(FEW_ROWS, size):
                raise InputError(f"{path}: {rows} rows in {size} bytes, expected at least one byte per row")
            yield file
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {one_line(error)}") from error
