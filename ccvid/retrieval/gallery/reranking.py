"""k-reciprocal re-ranking (Zhong, Zheng, Cao and Li, CVPR 2017), sparse.

Two tracklets are similar if their neighbourhoods are. Each entry of queries and gallery together gets a sparse vector
of weights exp(−d) over its k-reciprocal neighbours, expanded by theirs and averaged over its k2 nearest; the Jaccard
distance of two such vectors, mixed with the original distance, gives the new ranking. Distances d are squared Euclidean
distances of unit vectors, divided by the row's largest, as in the released code. The result is the same as that code's,
without its dense matrices: a row has about a hundred weights, so memory grows linearly with the entries.

Re-ranking uses the whole gallery and all queries at once, so its results are reported separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ccvid.retrieval.gallery.own_neighbours import EXACT_ROWS, own_neighbours
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner, over_rows, stacked
from ccvid.retrieval.gallery.vectors import Numbers, Vectors
from ccvid.retrieval.ranking.distances import (
    DistanceBlock,
    Distances,
    Floats,
    GalleryPart,
    Indices,
    LocalDistances,
    Scores,
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ReciprocalNeighbours:
    """Weights of N entries for each other.

    ``weight_NN`` is sparse float64; each row sums to 1. ``largest_N`` is the largest squared distance of each row.
    """

    weight_NN: sp.csr_array
    largest_N: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """What is mixed with the original distances of Q queries to G entries: their sparse weights for all N."""

    query_QN: sp.csr_array
    gallery_GN: sp.csr_array
    largest_Q: Floats
    share: float

    def take(self, query_rows: Indices, gallery_rows: Indices) -> Neighbourhoods:
        return Neighbourhoods(
            self.query_QN[query_rows], self.gallery_GN[gallery_rows], self.largest_Q[query_rows], self.share
        )

    def of_pairs(self, query_P: Indices, gallery_P: Indices, cosine_distance_P: Floats) -> Floats:
        jaccard_P = np.empty(len(query_P))
        order = np.argsort(query_P, kind="stable")
        for own in np.split(order, np.flatnonzero(np.diff(query_P[order])) + 1):
            if len(own):
                jaccard_P[own] = _jaccard_to(self.query_QN, int(query_P[own[0]]), self.gallery_GN, gallery_P[own])
        return self._mixed(jaccard_P, cosine_distance_P, self.largest_Q[query_P])

    def of_blocks(self, blocks: Iterable[DistanceBlock]) -> Iterator[DistanceBlock]:
        columns, first = self.gallery_GN[:0].tocsc(), -1
        for query_start, gallery_start, values in blocks:
            if first != gallery_start:
                first = gallery_start
                columns = self.gallery_GN[first : first + values.shape[1]].tocsc()
            queries = range(query_start, query_start + len(values))
            jaccard_QG = np.stack([_jaccard(self.query_QN, query, columns) for query in queries])
            largest_Q = self.largest_Q[query_start : query_start + len(values), None]
            yield DistanceBlock(query_start, gallery_start, self._mixed(jaccard_QG, values, largest_Q))

    def of_part(self, part: GalleryPart, work: Callable[[GalleryPart], Result]) -> Result:
        own = self.take(np.arange(len(self.largest_Q)), part.entry_N)
        return work(GalleryPart(_ReRankedPart(part.distances, own), part.entry_N))

    def _mixed(self, jaccard: Floats, cosine_distance: Floats, largest: Floats) -> Floats:
        mixed: Floats = (1 - self.share) * jaccard + self.share * (2 * cosine_distance / largest)
        return mixed


@dataclass(frozen=True, slots=True)
class ReRankedDistances:
    """(1 − share) × Jaccard + share × normalised original distance, as ``Distances`` of Q queries to G entries.

    Built by :func:`re_rank`. Memory: the sparse weights, and a block of distances.
    """

    base: Distances
    neighbourhoods: Neighbourhoods

    @property
    def shape(self) -> tuple[int, int]:
        return self.base.shape

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        return self.neighbourhoods.of_pairs(query_P, gallery_P, self.base.pairs(query_P, gallery_P))

    def fold(self, work: Callable[[GalleryPart], Result], merge: Callable[[Result, Result], Result]) -> Result:
        return self.base.fold(partial(self.neighbourhoods.of_part, work=work), merge)

    def take(self, query_rows: Indices, gallery_rows: Indices) -> ReRankedDistances:
        taken = self.neighbourhoods.take(query_rows, gallery_rows)
        return ReRankedDistances(self.base.take(query_rows, gallery_rows), taken)


class _ReRankedPart(LocalDistances):
    """``ReRankedDistances`` to a part of the gallery in this process."""

    def __init__(self, base: LocalDistances, neighbourhoods: Neighbourhoods) -> None:
        self._base, self._neighbourhoods = base, neighbourhoods

    @property
    def shape(self) -> tuple[int, int]:
        return self._base.shape

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        return self._neighbourhoods.of_pairs(query_P, gallery_P, self._base.pairs(query_P, gallery_P))

    def blocks(self) -> Iterator[DistanceBlock]:
        return self._neighbourhoods.of_blocks(self._base.blocks())

    def take(self, query_rows: Indices, gallery_rows: Indices) -> _ReRankedPart:
        taken = self._neighbourhoods.take(query_rows, gallery_rows)
        return _ReRankedPart(self._base.take(query_rows, gallery_rows), taken)


def re_rank(
    base: Distances,
    every: Vectors,
    *,
    k1: int = 20,
    k2: int = 6,
    share: float = 0.3,
    exact_rows: int = EXACT_ROWS,
    run: SliceRunner = IN_THREADS,
) -> ReRankedDistances:
    """Re-ranked distances of queries and gallery.

    Args:
        base: cosine distances of the queries to the gallery.
        every: the embeddings of the queries, then those of the gallery.
        k1: number of neighbours that must be mutual.
        k2: number of neighbours whose weights are averaged; 1: no averaging.
        share: weight of the original distance in the result (λ).
        exact_rows, run: see ``reciprocal_neighbours``.
    """
    queries = base.shape[0]
    assert every.shape[0] == sum(base.shape), f"{every.shape[0]} {base.shape}"
    found = reciprocal_neighbours(every, k1=k1, k2=k2, exact_rows=exact_rows, run=run)
    weight_NN = found.weight_NN
    own = Neighbourhoods(weight_NN[:queries], weight_NN[queries:], found.largest_N[:queries], share)
    return ReRankedDistances(base, own)


def reciprocal_neighbours(
    vectors: Vectors, *, k1: int = 20, k2: int = 6, exact_rows: int = EXACT_ROWS, run: SliceRunner = IN_THREADS
) -> ReciprocalNeighbours:
    """The sparse weights of every entry for the others.

    Args:
        exact_rows: see ``own_neighbours``.
        run: computes slices of rows; the result is the same, whatever they are.

    Memory of the caller, in bytes a row: 4 (k1 + 1) for the neighbours, 8 for each mutual one of the first k1 and of
    the first k1 / 2, and 12 for each weight, of which there are about 7 with k1 = 6 and k2 = 2, and 70 with k1 = 20
    and k2 = 6. Each slice opens the vectors.
    """
    entries = vectors.shape[0]
    found = own_neighbours(vectors, min(max(k1, k2) + 1, entries), exact_rows=exact_rows, run=run)
    nearest_NK, largest_N = found.nearest_NK, found.largest_N
    mutual, half = _mutual(nearest_NK[:, : k1 + 1]), _mutual(nearest_NK[:, : int(np.around(k1 / 2)) + 1])
    near_NN = _neighbour_matrix(nearest_NK[:, :k2])
    del found, nearest_NK  # before the weights, which are larger
    weigh = partial(_weights, vectors=vectors, mutual=mutual, half=half, largest_N=largest_N)
    weight_NN = stacked(over_rows(run, "weights", weigh, entries), entries)
    del mutual, half, weigh
    if k2 > 1:
        average = partial(_averages, near_NN=near_NN, weight_NN=weight_NN)
        weight_NN = stacked(over_rows(run, "averages", average, entries), entries)
    return ReciprocalNeighbours(weight_NN, largest_N)


def jaccard_distances(
    weight_NN: sp.csr_array, columns_NN: sp.csc_array, rows: slice
) -> tuple[Indices, Indices, Floats]:
    """The P pairs of some rows with the entries that share a neighbour with them: row, entry and distance.

    Pairs are ordered by row, then by entry. All others are at distance 1. ``columns_NN`` is ``weight_NN`` by column.
    """
    first, last, _ = rows.indices(weight_NN.shape[0])
    count_R = np.diff(weight_NN.indptr[first : last + 1])
    part = slice(weight_NN.indptr[first], weight_NN.indptr[last])
    entry_S, least_S, count_W = _minima(weight_NN.indices[part], weight_NN.data[part], columns_NN)
    row_S = np.repeat(np.repeat(np.arange(last - first), count_R), count_W)
    # Every pair's minima must be added in the order of the columns. Sorting numbers that end in their place keeps it,
    # and is several times as fast as a stable argsort.
    bits = len(entry_S).bit_length()
    key_S = np.sort(((row_S * weight_NN.shape[0] + entry_S) << bits) | np.arange(len(entry_S)))
    place_S, pair_S = key_S & ((1 << bits) - 1), key_S >> bits
    begins_S = np.diff(pair_S, prepend=-1) != 0
    shared_P = np.bincount(np.cumsum(begins_S) - 1, weights=least_S[place_S])
    row_P, entry_P = np.divmod(pair_S[begins_S], weight_NN.shape[0])
    distance_P = _of_shared(shared_P)
    near_P = distance_P < 1
    return first + row_P[near_P], entry_P[near_P], distance_P[near_P]


def _jaccard(weight_MN: sp.csr_array, row: int, columns_GN: sp.csc_array) -> Floats:
    """(G,): distances of a row to every entry.

    Sums run over the columns in order, whichever entries are requested, so that the result is bit-identical in any
    block.
    """
    part = slice(weight_MN.indptr[row], weight_MN.indptr[row + 1])
    entry_S, least_S, _ = _minima(weight_MN.indices[part], weight_MN.data[part], columns_GN)
    return _of_shared(np.bincount(entry_S, weights=least_S, minlength=columns_GN.shape[0]))


def _jaccard_to(weight_MN: sp.csr_array, row: int, weight_GN: sp.csr_array, entry_P: Indices) -> Floats:
    """(P,): distances of a row to some entries, with the bits of ``_jaccard``."""
    part = slice(weight_MN.indptr[row], weight_MN.indptr[row + 1])
    own_N = np.zeros(weight_MN.shape[1])
    own_N[weight_MN.indices[part]] = weight_MN.data[part]
    chosen = weight_GN[entry_P]
    least_S = np.minimum(chosen.data, own_N[chosen.indices])
    pair_S = np.repeat(np.arange(len(entry_P)), np.diff(chosen.indptr))
    return _of_shared(np.bincount(pair_S, weights=least_S, minlength=len(entry_P)))


def _minima(column_W: Indices, weight_W: Floats, columns_GN: sp.csc_array) -> tuple[Indices, Floats, Indices]:
    """All S entries with a weight in one of W columns, by column, the lesser weight, and each column's entries (W,)."""
    begin_W = columns_GN.indptr[column_W].astype(np.int64)
    count_W = columns_GN.indptr[column_W + 1] - begin_W
    place_S = np.arange(count_W.sum()) + np.repeat(begin_W - np.cumsum(count_W) + count_W, count_W)
    least_S = np.minimum(np.repeat(weight_W, count_W), columns_GN.data[place_S])
    return columns_GN.indices[place_S], least_S, count_W


def _of_shared(shared: npt.NDArray[np.number]) -> Floats:
    """1 − sum of minima / sum of maxima of two rows that each sum to 1, so that the maxima sum to 2 − the minima."""
    distance: Floats = np.maximum(1 - shared / (2 - shared), 0)  # rows sum to 1, except for rounding
    return distance


def _weights(
    rows: slice, vectors: Vectors, mutual: sp.csr_array, half: sp.csr_array, largest_N: Scores
) -> sp.csr_array:
    """Rows of weights over the expanded k-reciprocal neighbours, with sorted columns."""
    mine = mutual[rows]
    shared = (mine @ half).multiply(mine).tocsr()  # |R(i, k1) ∩ R(c, k1 / 2)| of c in R(i, k1), as half is symmetric
    size_N = np.diff(half.indptr)
    shared.data = (shared.data > 2 / 3 * size_N[shared.indices]).astype(np.float32)
    shared.eliminate_zeros()
    expanded = (mine + shared @ half).tocsr()
    expanded.sort_indices()
    row = np.repeat(np.arange(expanded.shape[0]), np.diff(expanded.indptr)) + rows.start
    with vectors.opened() as opened:
        distance = 2 * opened.pairs(row, expanded.indices) / largest_N[row]
    weight = np.exp(-distance)
    total = np.bincount(row - rows.start, weights=weight, minlength=expanded.shape[0])
    return sp.csr_array((weight / total[row - rows.start], expanded.indices, expanded.indptr), shape=expanded.shape)


def _averages(rows: slice, near_NN: sp.csr_array, weight_NN: sp.csr_array) -> sp.csr_array:
    """Rows of the mean weights of each entry's nearest, with sorted columns."""
    near = near_NN[rows]
    count_S = np.repeat(np.diff(near.indptr), np.diff(near.indptr))
    mean = sp.csr_array((1 / count_S, near.indices, near.indptr), shape=near.shape) @ weight_NN
    mean.sort_indices()
    return mean


def _mutual(nearest_NK: Numbers) -> sp.csr_array:
    """1 for two entries that are among each other's nearest."""
    nearest = _neighbour_matrix(nearest_NK)
    return nearest.multiply(nearest.T).tocsr()


def _neighbour_matrix(nearest_NK: Numbers) -> sp.csr_array:
    """1 for each entry's nearest; in the order in which they are given."""
    entries, there_NK = len(nearest_NK), nearest_NK >= 0
    dtype = np.int32 if nearest_NK.size < 2**31 else np.int64  # scipy keeps what it is given
    first = np.concatenate(([0], np.cumsum(there_NK.sum(axis=1)))).astype(dtype)
    nearest_S = nearest_NK[there_NK].astype(dtype, copy=False)
    return sp.csr_array((np.ones(len(nearest_S), np.float32), nearest_S, first), shape=(entries, entries))
