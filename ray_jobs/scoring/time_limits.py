"""Time limits for tracklets: seconds of their video, or times of day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

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


def ends_after(attributes: Mapping[str, str], limit: TimeLimit) -> bool:
    """Whether the tracklet ends at or after the limit; False if unknown."""
    end, bound = _both(attributes, "end", limit)
    return end is not None and end >= bound


def starts_before(attributes: Mapping[str, str], limit: TimeLimit) -> bool:
    """Whether the tracklet starts at or before the limit; False if unknown."""
    start, bound = _both(attributes, "start", limit)
    return start is not None and start <= bound


def shown_limit(limit: TimeLimit | None) -> str | None:
    """The limit as text for a report."""
    if limit is None:
        return None
    return limit.isoformat() if isinstance(limit, datetime) else f"{limit:g} s"


def _both(attributes: Mapping[str, str], side: str, limit: TimeLimit) -> tuple[float | None, float]:
    """The tracklet's start or end and the limit, on the same clock."""
    if not isinstance(limit, datetime):
        return seconds(attributes, f"{side}_seconds"), limit
    try:
        return parse_time(attributes[f"{side}_time"]).timestamp(), limit.timestamp()
    except (KeyError, InputError):
        return None, limit.timestamp()
