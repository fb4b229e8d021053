"""How many gallery entries come before given thresholds, by quick scores, and by exact ones where those leave a doubt.

A threshold is a distance and a gallery index, which decides between equal distances. Counts over parts of the gallery
add up to those over the whole.

Each query's quick scores of a tile become integers that end in the number of their entry, and are sorted together with
two marks for each threshold: the lowest and the highest quick score that an entry of its exact score may have. What
lies between the marks is compared with the thresholds one by one; of the others the number is enough. That takes
hardly longer with more thresholds.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccvid.retrieval.ranking.distances import Floats, Indices, Scores
from ccvid.retrieval.ranking.quick_scores import quick_error, row_groups

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

SCALE = 2**18
"""Steps of a score of 1. A power of two, so that scaled float32 products are exactly the scaled quick scores."""
NUMBERS = 2**13
"""Marks and entries that can be sorted together; with the steps they fit 32 bits."""
HIGHEST = SCALE - 2
"""The last step of an entry, which leaves one for the marks above all entries."""
MOST_THRESHOLDS = 1024
"""Thresholds of a query; with more, a sort of exact scores is faster."""
MOST_ENTRIES = NUMBERS - 2 * MOST_THRESHOLDS
"""Of a tile."""
MOST_DIMENSIONS = 2**13
"""With more, a quick score could lie far outside the steps."""
FEW_QUERIES = 64
"""Queries whose keys are sorted at a time: they fit a core's cache."""
MOST_DOUBTS = 2**18
"""Pairs whose exact scores are taken at a time, give or take those of a few queries."""
NEVER = 4.0
"""A score that no entry has."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """P thresholds of Q queries; query q has ``first[q] : first[q + 1]``, by distance, then index.

    ``index`` is relative to the start of the gallery or its part, and may be outside.
    """

    first: Indices
    distance: Floats
    index: Indices

    def take(self, queries: Indices) -> Thresholds:
        """Those of some queries, given in ascending order."""
        chosen = np.zeros(len(self.first) - 1, np.bool_)
        chosen[queries] = True
        own = np.repeat(chosen, self.count)
        first = np.concatenate(([0], np.cumsum(self.count[queries])))
        return Thresholds(first, self.distance[own], self.index[own])

    @property
    def count(self) -> Indices:
        """Of each query, (Q,)."""
        return np.diff(self.first)


class ThresholdCounter:
    """Counts for some queries, whose quick scores come tile by tile.

    Args:
        query_QD: unit vectors on the grid, float64.
        thresholds: at most ``MOST_THRESHOLDS`` of each query.
    """

    def __init__(self, query_QD: Scores, thresholds: Thresholds) -> None:
        self._query_QD = torch.from_numpy(query_QD)
        count_Q, first = thresholds.count, thresholds.first
        self._most = int(count_Q.max(initial=0))
        assert self._most <= MOST_THRESHOLDS
        # Places (Q, M + 1): by ascending score, so that an entry precedes the first few of a query; it has the place of
        # the first that it does not precede. After a query's own thresholds come some that no entry precedes.
        query_P = np.repeat(np.arange(len(count_Q)), count_Q)
        self._place_P = query_P, first[query_P + 1] - 1 - np.arange(len(query_P))
        self._score_QC = np.full((len(count_Q), self._most + 1), NEVER)
        self._index_QC = np.zeros(self._score_QC.shape, np.int64)
        self._score_QC[self._place_P], self._index_QC[self._place_P] = 1.0 - thresholds.distance, thresholds.index
        self._mark_QK = torch.from_numpy(self._marks(query_QD.shape[1]))
        self._entries_QC = np.zeros(self._score_QC.shape, np.int64)

    def look(self, scaled_QN: Tensor, gallery_ND: Scores, start: int) -> None:
        """Count N entries, at most ``MOST_ENTRIES``, which begin at ``start`` in the part.

        Args:
            scaled_QN: their quick scores times ``SCALE``, float32.
            gallery_ND: their unit vectors on the grid.
        """
        if not self._most:
            return
        doubts: list[tuple[Indices, ...]] = []
        for rows in row_groups(range(len(scaled_QN)), FEW_QUERIES):
            doubts.append(self._count(scaled_QN, rows))
            if rows.stop == len(scaled_QN) or sum(len(query_C) for query_C, *_ in doubts) > MOST_DOUBTS:
                self._settle(gallery_ND, start, *map(np.concatenate, zip(*doubts, strict=True)))
                doubts = []

    def before(self) -> Indices:
        """How many entries come before each threshold, (P,) in the order of ``Thresholds``."""
        from_QC = np.cumsum(self._entries_QC[:, ::-1], axis=1)[:, ::-1]
        return np.asarray((from_QC - self._entries_QC)[self._place_P])

    def _marks(self, dimensions: int) -> npt.NDArray[np.int32]:
        """(Q, 2 · M): below the lowest, then above the highest quick scores that each threshold's error reaches."""
        score_QM = self._score_QC[:, :-1]
        error_QM = quick_error(dimensions, np.minimum(np.abs(score_QM), 1))
        step_Q2M = np.stack([_step(score_QM - error_QM), _step(score_QM + error_QM) + 1], axis=1)
        step_Q2M[np.broadcast_to(score_QM[:, None] == NEVER, step_Q2M.shape)] = HIGHEST + 1
        return (step_Q2M.reshape(len(score_QM), -1) * NUMBERS + np.arange(2 * self._most)).astype(np.int32)

    def _count(self, scaled_QN: Tensor, rows: range) -> tuple[Indices, Indices, Indices, Indices]:
        """Count some queries' entries, but return those in doubt: query, entry, lowest and highest possible place."""
        chosen, marks = slice(rows.start, rows.stop), 2 * self._most
        number_RK = _in_order(scaled_QN[chosen], self._mark_QK[chosen])
        at_RS = np.flatnonzero(number_RK < marks).reshape(len(rows), marks)
        mark_RS = number_RK.ravel()[at_RS]
        before_RS = at_RS - np.arange(len(rows))[:, None] * number_RK.shape[1] - np.arange(marks)
        low_RM, high_RM = _by_mark(before_RS, mark_RS)
        next_RM = np.append(low_RM[:, 1:], np.full((len(rows), 1), scaled_QN.shape[1]), axis=1)
        self._entries_QC[chosen, 1:] += np.maximum(next_RM - high_RM, 0)
        begin_RM, end_RM = _by_mark(at_RS, mark_RS)
        begin_RM[:, 1:] = np.maximum(begin_RM[:, 1:], end_RM[:, :-1])  # what is between two marks is looked at once
        range_C, at_C = _inside(begin_RM, end_RM)
        number_C = number_RK.ravel()[at_C]
        range_C, entry_C = range_C[number_C >= marks], number_C[number_C >= marks].astype(np.int64) - marks
        row_C, low_C = np.divmod(range_C, self._most)
        high_C = np.where((next_RM < high_RM).ravel()[range_C], self._most, low_C + 1)
        return rows.start + row_C, entry_C, low_C, high_C

    def _settle(
        self, gallery_ND: Scores, start: int, query_C: Indices, entry_C: Indices, low_C: Indices, high_C: Indices
    ) -> None:
        """Count entries in doubt."""
        exact_C = _products(self._query_QD, torch.from_numpy(gallery_ND), query_C, entry_C)
        first_C = query_C * self._score_QC.shape[1]
        place_C = self._bisect(exact_C, start + entry_C, first_C + low_C, first_C + high_C)
        self._entries_QC += np.bincount(place_C, minlength=self._entries_QC.size).reshape(self._entries_QC.shape)

    def _bisect(self, score_C: Scores, index_C: Indices, low_C: Indices, high_C: Indices) -> Indices:
        """The first place from ``low_C`` on, before ``high_C``, that an entry does not precede; else ``high_C``."""
        place_score, place_index = self._score_QC.ravel(), self._index_QC.ravel()
        open_C = np.flatnonzero(low_C < high_C)
        while len(open_C):
            middle = (low_C[open_C] + high_C[open_C]) // 2
            score, threshold = score_C[open_C], place_score[middle]
            precedes = (score > threshold) | ((score == threshold) & (index_C[open_C] < place_index[middle]))
            low_C[open_C] = np.where(precedes, middle + 1, low_C[open_C])
            high_C[open_C] = np.where(precedes, high_C[open_C], middle)
            open_C = open_C[low_C[open_C] < high_C[open_C]]
        return low_C


def _step(score: Scores) -> Scores:
    return np.clip(np.trunc(score * SCALE), -SCALE, HIGHEST)


_of_thread = threading.local()


def _in_order(scaled_RN: Tensor, mark_RS: Tensor) -> npt.NDArray[np.int32]:
    """(R, S + N): the numbers of marks, from 0, and of entries, after those, by ascending score.

    They are in a thread's own memory, which the next call overwrites.
    """
    rows, marks, keys = len(scaled_RN), mark_RS.shape[1], mark_RS.shape[1] + scaled_RN.shape[1]
    if getattr(_of_thread, "size", 0) < rows * keys:
        _of_thread.size, _of_thread.keys = rows * keys, torch.empty(rows * keys, dtype=torch.int32)
    key_RK: Tensor = _of_thread.keys[: rows * keys].view(rows, keys)
    key_RK[:, :marks] = mark_RS
    key_RK[:, marks:].copy_(scaled_RN).clamp_(-SCALE, HIGHEST).mul_(NUMBERS)
    key_RK[:, marks:] += torch.arange(marks, keys, dtype=torch.int32)
    found: npt.NDArray[np.int32] = key_RK.numpy()
    found.sort(axis=1)
    found &= NUMBERS - 1
    return found


def _by_mark(values_RS: Indices, mark_RS: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """(2, R, M): the values of the low and of the high marks, from those in order of their keys."""
    found_RS = np.empty_like(values_RS)
    np.put_along_axis(found_RS, mark_RS.astype(np.int64), values_RS, axis=1)
    return found_RS.reshape(len(found_RS), 2, -1).transpose(1, 0, 2)


def _inside(begin: Indices, end: Indices) -> tuple[Indices, Indices]:
    """All numbers that lie between ``begin`` and ``end`` of some range, and which of the ranges each is in."""
    count = np.maximum(end - begin - 1, 0).ravel()
    range_C = np.repeat(np.arange(len(count)), count)
    return range_C, np.arange(len(range_C)) + (begin.ravel() + 1 - np.cumsum(count) + count)[range_C]


def _products(query_QD: Tensor, gallery_ND: Tensor, query_C: Indices, gallery_C: Indices) -> Scores:
    """The products of C pairs, without copying their vectors; by gallery entry, so that each is read once."""
    order = np.argsort(gallery_C.astype(np.min_scalar_type(len(gallery_ND))), kind="stable")  # 16 bits sort faster
    pairs = torch.sparse_csr_tensor(
        torch.from_numpy(np.append(0, np.cumsum(np.bincount(gallery_C, minlength=len(gallery_ND))))),
        torch.from_numpy(query_C[order]),
        torch.zeros(len(order), dtype=torch.float64),
        (len(gallery_ND), len(query_QD)),
        check_invariants=False,
    )
    product_C = np.empty(len(order))
    product_C[order] = torch.sparse.sampled_addmm(pairs, gallery_ND, query_QD.T, beta=0.0).values().numpy()
    return product_C
