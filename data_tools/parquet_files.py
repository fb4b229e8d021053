"""Parquet files that nobody vouches for: opened within bounds, for a small one may stand for a terabyte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_tools.errors import InputError
from data_tools.wording import one_line

FEW_ROWS = 2**17
"""So many may repeat themselves as they like; a larger table has a byte or more for each row, whose id or box differs
from those of others."""


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file.

    Raises:
        InputError: it is not Parquet, or has more rows than bytes; also for what pyarrow finds
            wrong with it while it is read.
    """
    try:
        with pq.ParquetFile(path) as file:
            size, rows = path.stat().st_size, file.metadata.num_rows
            if rows > max(FEW_ROWS, size):
                raise InputError(f"{path}: {rows} rows in {size} bytes, expected a table that repeats itself less")
            yield file
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {one_line(error)}") from error
