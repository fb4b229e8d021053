"""Time limits for tracklets: seconds of their video, or times of day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.gallery.matches import seconds
from data_tools.columnar_rows import ColumnarRows
from data_tools.datasets.start_times import USUAL_TIME, parse_time
from data_tools.errors import InputError

TimeLimit: TypeAlias = float | datetime
"""Seconds since a video's first frame, or a point in time."""

_USUAL_SECONDS = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
"""How footage writes ``start_seconds``."""


def parse_limit(text: str) -> TimeLimit:
    """Parse a number of seconds, or a time in ISO 8601 (UTC if it has no time zone).

    Raises:
        InputError: it is neither.
    """
    try:
        return float(text)
    except ValueError:
        return parse_time(text)


def ends_after(rows: EmbeddingRows, limit: TimeLimit) -> npt.NDArray[np.bool_]:
    """Which tracklets end at or after the limit (N,); False where the end is unknown."""
    end_N, bound = _both(rows, "end", limit)
    return end_N >= bound


def starts_before(rows: EmbeddingRows, limit: TimeLimit) -> npt.NDArray[np.bool_]:
    """Which tracklets start at or before the limit (N,); False where the start is unknown."""
    start_N, bound = _both(rows, "start", limit)
    return start_N <= bound


def start_moments(rows: ColumnarRows[Any]) -> npt.NDArray[np.float64]:
    """The tracklets' starts in seconds since the epoch (N,), NaN where unknown."""
    return _numbers(rows.attribute("start_time"), USUAL_TIME, _epoch_seconds, _moment)


def shown_limit(limit: TimeLimit | None) -> str | None:
    """The limit as text for a report."""
    if limit is None:
        return None
    return limit.isoformat() if isinstance(limit, datetime) else f"{limit:g} s"


def _both(rows: EmbeddingRows, side: str, limit: TimeLimit) -> tuple[npt.NDArray[np.float64], float]:
    """The tracklets' starts or ends, NaN where unknown, and the limit, on the same clock."""
    if isinstance(limit, datetime):
        return _numbers(rows.attribute(f"{side}_time"), USUAL_TIME, _epoch_seconds, _moment), limit.timestamp()
    return _numbers(rows.attribute(f"{side}_seconds"), _USUAL_SECONDS, _as_floats, seconds), limit


def _numbers(
    texts: pa.Array, usual: str, read_all: Callable[[pa.Array], pa.Array], read_one: Callable[[str], float | None]
) -> npt.NDArray[np.float64]:
    """Numbers of texts, NaN for none; those of the usual form are read at once, the others one by one."""
    is_usual = pc.fill_null(pc.match_substring_regex(texts, usual), False)
    number_N = np.full(len(texts), np.nan)
    try:
        number_N[np.asarray(is_usual)] = np.asarray(read_all(texts.filter(is_usual)))
    except pa.ArrowInvalid:  # the thirteenth month
        is_usual = pc.and_(is_usual, False)
    others = pc.and_(pc.is_valid(texts), pc.invert(is_usual))
    number_N[np.asarray(others)] = [
        np.nan if (value := read_one(text)) is None else value for text in texts.filter(others).to_pylist()
    ]
    return number_N


def _as_floats(texts: pa.Array) -> pa.Array:
    return texts.cast(pa.float64())


def _epoch_seconds(texts: pa.Array) -> pa.Array:
    return pc.divide(texts.cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).cast(pa.float64()), 1000.0)


def _moment(text: str) -> float | None:
    try:
        return parse_time(text).timestamp()
    except InputError:
        return None
