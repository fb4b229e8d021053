"""How many gallery entries come before given thresholds, by quick scores, and by exact ones where those leave a doubt.

A threshold is a distance and a gallery index, which decides between equal distances. Counts over parts of the gallery
add up to those over the whole.

A score's range is divided into bins. A table tells for each query and bin how many thresholds every entry in the bin
precedes; looking it up and counting what was found takes a few cycles a score, however many thresholds there are. Bins
that the quick error of a threshold reaches are marked: the entries in them are compared with the thresholds one by one.
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
from ccvid.retrieval.ranking.quick_scores import FLOAT32_UNIT, quick_error, row_groups

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

SCALE = 2**14
"""Bins of a score of 1. A power of two, so that scaled float32 products are exactly the scaled quick scores."""
BINS = 2 * SCALE + 32
MIDDLE = SCALE + 16
"""The bin of score 0; quick scores exceed 1 by less than 16 bins."""
MOST_DIMENSIONS = 2**13
"""With more, a quick score could lie outside the bins."""
FEW_QUERIES = 16
"""Queries whose bins are looked up at a time: they and their tables fit a core's cache."""
MOST_DOUBTS = 2**18
"""Pairs whose exact scores are taken at a time, give or take those of a few queries."""
NEVER = 4.0
"""A score that no entry has."""
MOST_THRESHOLDS = 128
"""Thresholds of a query; with more, marked bins outweigh the others, and a sort of exact scores is faster."""


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

    Memory: 2 · ``BINS`` bytes a query.
    """

    def __init__(self, query_QD: Scores, thresholds: Thresholds) -> None:
        self._query_QD, self._dimensions = torch.from_numpy(query_QD), query_QD.shape[1]
        count_Q, first = thresholds.count, thresholds.first
        assert count_Q.max(initial=0) <= MOST_THRESHOLDS
        # Places (Q, C): by ascending score, so that an entry precedes the first few of a query; it has the place of the
        # first that it does not precede, and the last place is one that no entry precedes.
        self._places = int(count_Q.max(initial=0)) + 1
        query_P = np.repeat(np.arange(len(count_Q)), count_Q)
        self._place_P = query_P * self._places + first[query_P + 1] - 1 - np.arange(len(query_P))
        self._score = np.full(len(count_Q) * self._places, NEVER)
        self._index = np.zeros(len(self._score), np.int64)
        self._score[self._place_P], self._index[self._place_P] = 1.0 - thresholds.distance, thresholds.index
        self._quick_score = (self._score * SCALE).astype(np.float32)
        # One unit more for each of: rounding these, scaled scores, and the difference of both.
        self._error = np.float32(self._errors(np.abs(thresholds.distance - 1.0).max(initial=0)) + 3 * FLOAT32_UNIT)
        self._apart = np.diff(self._score, append=NEVER) > 3 * self._error + 2 / SCALE
        """Whether no entry in the bins that a place's error reaches is near the next place."""
        self._table = torch.from_numpy(self._bin_table(query_P))
        self._bin_Q1 = (torch.arange(len(count_Q), dtype=torch.int32) * BINS + MIDDLE)[:, None]
        self._entries_C = np.zeros(len(self._score), np.int64)

    def look(self, scaled_QN: Tensor, gallery_ND: Scores, start: int) -> None:
        """Count N entries, which begin at ``start`` in the part.

        Args:
            scaled_QN: their quick scores times ``SCALE``, float32.
            gallery_ND: their unit vectors on the grid.
        """
        doubts: list[tuple[Indices, ...]] = []
        for rows in row_groups(range(len(scaled_QN)), FEW_QUERIES):
            doubts.append(self._count(scaled_QN, rows))
            if rows.stop == len(scaled_QN) or sum(len(query_C) for query_C, *_ in doubts) > MOST_DOUBTS:
                self._settle(gallery_ND, start, *map(np.concatenate, zip(*doubts, strict=True)))
                doubts = []

    def _settle(
        self, gallery_ND: Scores, start: int, query_C: Indices, entry_C: Indices, low_C: Indices, high_C: Indices
    ) -> None:
        """Count entries in doubt."""
        exact_C = _products(self._query_QD, torch.from_numpy(gallery_ND), query_C, entry_C)
        place_C = self._bisect(exact_C, start + entry_C, low_C, high_C)
        self._entries_C += np.bincount(place_C, minlength=len(self._entries_C))

    def before(self) -> Indices:
        """How many entries come before each threshold, (P,) in the order of ``Thresholds``."""
        entries_QC = self._entries_C.reshape(-1, self._places)
        from_QC = np.cumsum(entries_QC[:, ::-1], axis=1)[:, ::-1]
        return np.asarray((from_QC - entries_QC).ravel()[self._place_P])

    @staticmethod
    def _bin(score: Scores) -> Indices:
        return np.clip(np.trunc(score * SCALE).astype(np.int64) + MIDDLE, 0, BINS - 2)

    def _errors(self, score: Scores) -> Scores:
        return quick_error(self._dimensions, score)

    def _bin_table(self, query_P: Indices) -> npt.NDArray[np.int16]:
        """(Q · BINS,): the place of every entry in the bin; ~ of the lowest possible one where the bin is marked.

        Places are counted from the first of the ``FEW_QUERIES`` that are looked up together.
        """
        queries = len(self._query_QD)
        place_P = np.sort(self._place_P)
        score_P = self._score[place_P]
        low_P, high_P = (query_P * BINS + self._bin(score_P + side * self._errors(score_P)) for side in (-1, 1))
        edge_E = np.concatenate((np.arange(queries) * BINS, low_P, high_P + 1))
        kind_E = np.repeat((0, 1, 2), (queries, len(low_P), len(high_P)))
        order = np.argsort(edge_E, kind="stable")
        edge_E, kind_E = edge_E[order], kind_E[order]
        query_E = edge_E // BINS
        reached_E, passed_E = np.cumsum(kind_E == 1), np.cumsum(kind_E == 2)
        place_E = query_E % FEW_QUERIES * self._places + passed_E - np.searchsorted(query_P, query_E)
        code_E = np.where(reached_E == passed_E, place_E, ~place_E).astype(np.int16)
        return np.repeat(code_E, np.diff(edge_E, append=queries * BINS))

    def _count(self, scaled_QN: Tensor, rows: range) -> tuple[Indices, Indices, Indices, Indices]:
        """Count some queries' entries, but return those in doubt: query, entry, lowest and highest possible place."""
        scaled_RN = scaled_QN[rows.start : rows.stop]
        bin_RN, place = _buffers(scaled_RN)
        bin_RN.copy_(scaled_RN).add_(self._bin_Q1[rows.start : rows.stop])
        torch.index_select(self._table, 0, bin_RN.view(-1), out=place)
        place_N, first, end = place.numpy(), rows.start * self._places, rows.stop * self._places
        marked = np.flatnonzero(place_N < 0)
        low_M = ~place_N[marked]
        above_M = scaled_RN.view(-1).numpy()[marked] - self._quick_score[first:end][low_M]
        place_N[marked] = low_M + (above_M > SCALE * self._error)
        doubt = np.flatnonzero((np.abs(above_M) <= SCALE * self._error) | ~self._apart[first:end][low_M])
        place_N[marked[doubt]] = end - first
        self._entries_C[first:end] += torch.bincount(place, minlength=end - first).numpy()[: end - first]
        query_C, entry_C = np.divmod(marked[doubt], scaled_RN.shape[1])
        query_C += rows.start
        low_C = first + low_M[doubt].astype(np.int64)
        high_C = np.where(self._apart[low_C], low_C + 1, (query_C + 1) * self._places - 1)
        return query_C, entry_C, low_C, high_C

    def _bisect(self, score_C: Scores, index_C: Indices, low_C: Indices, high_C: Indices) -> Indices:
        """The first place from ``low_C`` on, before ``high_C``, that an entry does not precede; else ``high_C``."""
        open_C = np.flatnonzero(low_C < high_C)
        while len(open_C):
            middle = (low_C[open_C] + high_C[open_C]) // 2
            score, threshold = score_C[open_C], self._score[middle]
            precedes = (score > threshold) | ((score == threshold) & (index_C[open_C] < self._index[middle]))
            low_C[open_C] = np.where(precedes, middle + 1, low_C[open_C])
            high_C[open_C] = np.where(precedes, high_C[open_C], middle)
            open_C = open_C[low_C[open_C] < high_C[open_C]]
        return low_C


_of_thread = threading.local()


def _buffers(scaled_QN: Tensor) -> tuple[Tensor, Tensor]:
    """A thread's own memory for bins (Q, N) int32 and places (Q · N,) int16, which stays in its core's cache."""
    size = scaled_QN.numel()
    if getattr(_of_thread, "size", 0) < size:
        _of_thread.size, _of_thread.bins = size, torch.empty(size, dtype=torch.int32)
        _of_thread.places = torch.empty(size, dtype=torch.int16)
    return _of_thread.bins[:size].view(scaled_QN.shape), _of_thread.places[:size]


def _products(query_QD: Tensor, gallery_ND: Tensor, query_C: Indices, gallery_C: Indices) -> Scores:
    """The products of C pairs, without copying their vectors; by gallery entry, so that each is read once."""
    order = np.argsort(gallery_C.astype(np.min_scalar_type(len(gallery_ND))), kind="stable")  # 16 bits sort faster
    pairs = torch.sparse_csr_tensor(
        torch.from_numpy(np.searchsorted(gallery_C[order], np.arange(len(gallery_ND) + 1))),
        torch.from_numpy(query_C[order]),
        torch.zeros(len(order), dtype=torch.float64),
        (len(gallery_ND), len(query_QD)),
        check_invariants=False,
    )
    product_C = np.empty(len(order))
    product_C[order] = torch.sparse.sampled_addmm(pairs, gallery_ND, query_QD.T, beta=0.0).values().numpy()
    return product_C
