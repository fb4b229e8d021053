"""k-reciprocal re-ranking (Zhong, Zheng, Cao and Li, CVPR 2017), sparse.

Two tracklets are similar if their neighbourhoods are. Each entry of queries and gallery together gets a sparse vector
of weights exp(−d) over its k-reciprocal neighbours, expanded by theirs and averaged over its k2 nearest; the Jaccard
distance of two such vectors, mixed with the original distance, gives the new ranking. Distances d are squared Euclidean
distances of unit vectors, divided by the row's largest, as in the released code. The result is the same as that code's,
without its dense matrices: a row has about a hundred weights, so memory grows linearly with the entries.

Re-ranking uses the whole gallery and all queries at once, so its results are reported separately.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceBlock, Floats, Indices

ROWS = 4096
"""Rows of sparse products that are computed at a time."""


@dataclass(frozen=True, slots=True)
class ReciprocalNeighbours:
    """Weights of N entries for each other.

    ``weight_NN`` is sparse float64; each row sums to 1. ``largest_N`` is the largest squared distance of each row.
    """

    weight_NN: sp.csr_array
    largest_N: npt.NDArray[np.float64]


class ReRankedDistances:
    """(1 − share) × Jaccard + share × normalised original distance, as ``Distances`` of Q queries to G entries.

    Built by :func:`re_rank`. Memory: the sparse weights, and a block of distances.
    """

    def __init__(
        self, base: CosineDistances, query_QN: sp.csr_array, gallery_GN: sp.csr_array, largest_Q: Floats, share: float
    ) -> None:
        self._base, self._query, self._gallery = base, query_QN, gallery_GN
        self._largest, self._share = largest_Q, share

    @property
    def shape(self) -> tuple[int, int]:
        return self._base.shape

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        jaccard_P = np.empty(len(query_P))
        columns = self._gallery.tocsc()
        for query in np.unique(query_P).tolist():
            chosen = query_P == query
            jaccard_P[chosen] = _jaccard(self._query, query, columns)[gallery_P[chosen]]
        return self._mixed(jaccard_P, self._base.pairs(query_P, gallery_P), self._largest[query_P])

    def blocks(self) -> Iterator[DistanceBlock]:
        columns, first = self._gallery[:0].tocsc(), -1
        for query_start, gallery_start, values in self._base.blocks():
            if first != gallery_start:
                first = gallery_start
                columns = self._gallery[first : first + values.shape[1]].tocsc()
            queries = range(query_start, query_start + len(values))
            jaccard_QG = np.stack([_jaccard(self._query, query, columns) for query in queries])
            largest_Q = self._largest[query_start : query_start + len(values), None]
            yield DistanceBlock(query_start, gallery_start, self._mixed(jaccard_QG, values, largest_Q))

    def take(self, query_rows: Indices, gallery_rows: Indices) -> ReRankedDistances:
        part = copy(self)
        part._base = self._base.take(query_rows, gallery_rows)
        part._query, part._gallery = self._query[query_rows], self._gallery[gallery_rows]
        part._largest = self._largest[query_rows]
        return part

    def _mixed(self, jaccard: Floats, cosine_distance: Floats, largest: Floats) -> Floats:
        mixed: Floats = (1 - self._share) * jaccard + self._share * (2 * cosine_distance / largest)
        return mixed


def re_rank(
    query_QD: Floats, gallery_GD: Floats, *, k1: int = 20, k2: int = 6, share: float = 0.3
) -> ReRankedDistances:
    """Re-ranked distances of queries and gallery, embeddings of one model.

    Args:
        k1: number of neighbours that must be mutual.
        k2: number of neighbours whose weights are averaged; 1: no averaging.
        share: weight of the original distance in the result (λ).
    """
    every_ND = np.concatenate((query_QD, gallery_GD))
    found = reciprocal_neighbours(every_ND, k1=k1, k2=k2)
    queries = len(query_QD)
    base = CosineDistances(query_QD, gallery_GD)
    weight_NN = found.weight_NN
    return ReRankedDistances(base, weight_NN[:queries], weight_NN[queries:], found.largest_N[:queries], share)


def reciprocal_neighbours(embedding_ND: Floats, *, k1: int = 20, k2: int = 6) -> ReciprocalNeighbours:
    """The sparse weights of every entry for the others.

    Two passes over all pairs, block by block. Memory: N × (k1 + 1) neighbours, and about a hundred weights per row.
    """
    entries = len(embedding_ND)
    nearest_NK = search(embedding_ND, embedding_ND, min(max(k1, k2) + 1, entries)).gallery_QK
    own = CosineDistances(embedding_ND, embedding_ND)
    largest_N = _largest(own)
    mutual = _mutual(nearest_NK[:, : k1 + 1])
    half = _mutual(nearest_NK[:, : int(np.around(k1 / 2)) + 1])
    weight_NN = sp.vstack(
        [_weights(slice(start, start + ROWS), mutual, half, own, largest_N) for start in range(0, entries, ROWS)],
        format="csr",
    )
    if k2 > 1:
        averaged = _neighbour_matrix(nearest_NK[:, :k2]) / min(k2, entries)
        weight_NN = sp.vstack(
            [averaged[start : start + ROWS] @ weight_NN for start in range(0, entries, ROWS)], format="csr"
        )
    weight_NN.sort_indices()
    return ReciprocalNeighbours(weight_NN, largest_N)


def jaccard_distances(weight_NN: sp.csr_array, rows: slice) -> Iterator[tuple[int, Indices, Floats]]:
    """For each of some rows: its number, the entries that share a neighbour with it, and the distances to them.

    All other entries are at distance 1.
    """
    columns = weight_NN.tocsc()
    for row in range(*rows.indices(weight_NN.shape[0])):
        distance_N = _jaccard(weight_NN, row, columns)
        near = np.flatnonzero(distance_N < 1)
        yield row, near, distance_N[near]


def _jaccard(weight_MN: sp.csr_array, row: int, columns_GN: sp.csc_array) -> Floats:
    """(G,): 1 − sum of minima / sum of maxima, of the row against every entry.

    Rows sum to 1, so the maxima sum to 2 − the sum of minima. Sums run over the columns in order, whichever entries are
    requested, so that the result is bit-identical in any block.
    """
    part = slice(weight_MN.indptr[row], weight_MN.indptr[row + 1])
    column_W, weight_W = weight_MN.indices[part], weight_MN.data[part]
    begin_W, end_W = columns_GN.indptr[column_W], columns_GN.indptr[column_W + 1]
    count_W = end_W - begin_W
    place = np.arange(count_W.sum()) + np.repeat(begin_W - np.cumsum(count_W) + count_W, count_W)
    least = np.minimum(np.repeat(weight_W, count_W), columns_GN.data[place])
    shared_G = np.bincount(columns_GN.indices[place], weights=least, minlength=columns_GN.shape[0])
    distance_G: Floats = np.maximum(1 - shared_G / (2 - shared_G), 0)  # rows sum to 1, except for rounding
    return distance_G


def _weights(
    rows: slice, mutual: sp.csr_array, half: sp.csr_array, own: CosineDistances, largest_N: Floats
) -> sp.csr_array:
    """Rows of weights over the expanded k-reciprocal neighbours."""
    mine = mutual[rows]
    shared = (mine @ half.T).multiply(mine).tocsr()  # |R(i, k1) ∩ R(c, k1 / 2)| for each c in R(i, k1)
    size_N = half.sum(axis=1)
    shared.data = (shared.data > 2 / 3 * size_N[shared.indices]).astype(np.float64)
    shared.eliminate_zeros()
    expanded = (mine + shared @ half).tocsr()
    expanded.sort_indices()
    row = np.repeat(np.arange(expanded.shape[0]), np.diff(expanded.indptr)) + rows.start
    distance = 2 * own.pairs(row, expanded.indices.astype(np.int64)) / largest_N[row]
    weight = np.exp(-distance)
    total = np.bincount(row - rows.start, weights=weight, minlength=expanded.shape[0])
    return sp.csr_array((weight / total[row - rows.start], expanded.indices, expanded.indptr), shape=expanded.shape)


def _mutual(nearest_NK: Indices) -> sp.csr_array:
    """1 for two entries that are among each other's nearest."""
    nearest = _neighbour_matrix(nearest_NK)
    return nearest.multiply(nearest.T).tocsr()


def _neighbour_matrix(nearest_NK: Indices) -> sp.csr_array:
    entries, k = nearest_NK.shape
    first = np.arange(0, entries * k + 1, k)
    return sp.csr_array((np.ones(entries * k), nearest_NK.ravel(), first), shape=(entries, entries))


def _largest(own: CosineDistances) -> npt.NDArray[np.float64]:
    """(N,): the largest squared distance of each entry; 1 if all entries are equal."""
    largest_N = np.zeros(own.shape[0])
    for query_start, _, values in own.blocks():
        rows = slice(query_start, query_start + len(values))
        largest_N[rows] = np.maximum(largest_N[rows], 2 * values.max(axis=1))
    return np.where(largest_N > 0, largest_N, 1.0)
