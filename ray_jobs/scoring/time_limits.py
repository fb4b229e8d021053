"""Time limits for tracklets: seconds of their video, or times of day."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.gallery.times import Side, moments, seconds_in_video
from data_tools.datasets.start_times import parse_time

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


def _both(rows: EmbeddingRows, side: Side, limit: TimeLimit) -> tuple[npt.NDArray[np.float64], float]:
    """The tracklets' starts or ends, NaN where unknown, and the limit, on the same clock."""
    if isinstance(limit, datetime):
        return moments(rows, side), limit.timestamp()
    return seconds_in_video(rows, side), limit
