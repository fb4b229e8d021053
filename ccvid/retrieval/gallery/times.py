"""When tracklets were seen, as numbers: seconds of their video, and seconds since 1970."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.gallery.matches import seconds
from ccvid.retrieval.ranking.distances import Scores
from data_tools.columnar_rows import ColumnarRows
from data_tools.datasets.start_times import USUAL_TIME, parse_time
from data_tools.errors import InputError

Side = Literal["start", "end"]

_USUAL_SECONDS = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
"""How footage writes ``start_seconds``."""


def seconds_in_video(rows: ColumnarRows[Any], side: Side) -> Scores:
    """Seconds since the video's first frame (N,), NaN where unknown."""
    return _numbers(rows.attribute(f"{side}_seconds"), _USUAL_SECONDS, _as_floats, seconds)


def moments(rows: ColumnarRows[Any], side: Side) -> Scores:
    """Seconds since 1970 (N,), NaN where the time of day is unknown."""
    return _numbers(rows.attribute(f"{side}_time"), USUAL_TIME, _epoch_seconds, _moment)


def _numbers(
    texts: pa.Array, usual: str, read_all: Callable[[pa.Array], pa.Array], read_one: Callable[[str], float | None]
) -> Scores:
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
