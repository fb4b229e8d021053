"""Work on all rows, slice by slice: by threads of this process, or by whoever else runs it, to the same result.

The functions of this package that look at every tracklet take a ``SliceRunner``. What they hand to it can be pickled,
so that a cluster can run it (``ray_jobs``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import scipy.sparse as sp
import torch

from ccvid.retrieval.ranking.quick_scores import core_threads
from data_tools.progress import Meter

Result = TypeVar("Result")

LEAST_ROWS, MOST_ROWS = 256, 2**14
"""Rows of a slice: it takes longer than starting it, and a lost one costs seconds."""
SLICES_A_WORKER = 4
"""At least, where there are enough rows: so that none waits long for the last."""


class SliceRunner(Protocol):
    """Runs work on slices, several at a time."""

    @property
    def workers(self) -> int:
        """How many it runs at a time."""

    def __call__(
        self, what: str, work: Callable[[slice], Result], slices: Sequence[slice], *, unit: str = "tracklets"
    ) -> Iterator[Result]:
        """``work`` of each slice, in order. ``what`` is done with which ``unit`` is shown as progress."""


class Threads:
    """Runs slices in as many threads as torch uses, each with one core."""

    @property
    def workers(self) -> int:
        return torch.get_num_threads()

    def __call__(
        self, what: str, work: Callable[[slice], Result], slices: Sequence[slice], *, unit: str = "tracklets"
    ) -> Iterator[Result]:
        meter = Meter(what, sum(part.stop - part.start for part in slices), unit, brief=True)
        with core_threads() as threads:
            for part, result in zip(slices, threads.map(work, slices), strict=True):
                yield result
                meter.add(part.stop - part.start, **{unit: part.stop - part.start})


IN_THREADS = Threads()


def over_rows(run: SliceRunner, what: str, work: Callable[[slice], Result], rows: int) -> Iterator[Result]:
    """``work`` of consecutive slices of all rows, in order."""
    share = -(-rows // (SLICES_A_WORKER * run.workers))
    return run(what, work, slices_of(rows, min(max(share, LEAST_ROWS), MOST_ROWS)))


def slices_of(rows: int, most: int) -> list[slice]:
    """Consecutive slices of up to ``most`` rows."""
    return [slice(start, min(start + most, rows)) for start in range(0, rows, most)]


def stacked(parts: Iterable[sp.csr_array], columns: int) -> sp.csr_array:
    """Sparse matrices with (R, ``columns``) one below another; their indices are below 2³¹.

    Memory: the result and an eighth of it, besides one part.
    """
    column_S, value_S, counts, kind = bytearray(), bytearray(), [np.zeros(1, np.int64)], np.dtype(np.float64)
    for part in parts:
        column_S += part.indices.astype(np.int32, copy=False).data  # in place: no second copy while it grows
        value_S += part.data.data
        counts.append(np.diff(part.indptr))
        kind = part.data.dtype
    first = np.cumsum(np.concatenate(counts), dtype=np.int64)
    first = first.astype(np.int32) if first[-1] < 2**31 else first  # or scipy would widen the columns, too
    arrays = np.frombuffer(value_S, kind), np.frombuffer(column_S, np.int32), first
    return sp.csr_array(arrays, shape=(len(first) - 1, columns))
