"""Time limits for tracklets: seconds of their video, or times of day."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.gallery.matches import seconds
from data_tools.datasets.start_times import parse_time
from data_tools.errors import InputError

TimeLimit: TypeAlias = float | datetime
"""Seconds since a video's first frame, or a point in time."""


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


def shown_limit(limit: TimeLimit | None) -> str | None:
    """The limit as text for a report."""
    if limit is None:
        return None
    return limit.isoformat() if isinstance(limit, datetime) else f"{limit:g} s"


def _both(rows: EmbeddingRows, side: str, limit: TimeLimit) -> tuple[npt.NDArray[np.float64], float]:
    """The tracklets' starts or ends, NaN where unknown, and the limit, on the same clock."""
    found: Iterable[float | None]
    if not isinstance(limit, datetime):
        found, bound = map(seconds, rows.attribute(f"{side}_seconds")), limit
    else:
        found, bound = map(_moment, rows.attribute(f"{side}_time")), limit.timestamp()
    return np.array([np.nan if value is None else value for value in found], np.float64), bound


def _moment(text: str | None) -> float | None:
    try:
        return None if text is None else parse_time(text).timestamp()
    except InputError:
        return None
