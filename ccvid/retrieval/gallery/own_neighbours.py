"""The neighbours of each of N embeddings among all of them, and how far the farthest is.

Exactly, by comparing all pairs, or in a large set by an index: the nearest to the opposite of an embedding is its
farthest. An index is of consecutive rows, whatever the parts of a store, so that the result is the same for any. Those
beside the parts are not used: each embedding asks every index, and a few large ones answer many times as fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.gallery.approximate_search import SPARE, recall, some_rows
from ccvid.retrieval.gallery.neighbour_index import ROWS_AT_A_TIME, NeighbourIndex, has_usearch
from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner, over_rows, slices_of
from ccvid.retrieval.gallery.vectors import Numbers, OpenVectors, Vectors
from ccvid.retrieval.ranking.distances import Floats, Indices
from ccvid.retrieval.ranking.nearest import NearestEntries
from data_tools.progress import Meter, message

EXACT_ROWS = 100_000
"""Up to this size, all pairs are compared: that takes about twice as long as an index here, and misses nothing."""
INDEXED_ROWS = 2**19
"""Rows that one index, and so one thread, takes at most."""
CHECKED_AT_A_TIME = 50
"""Embeddings of the sample whose exact neighbours are found at a time."""


@dataclass(frozen=True, slots=True)
class OwnNeighbours:
    """``nearest_NK`` int32: rows by decreasing cosine, ties in order of the rows, −1 after the last that was found.

    ``largest_N`` float64: the largest squared distance of unit vectors; 1 where all are equal.
    """

    nearest_NK: Numbers
    largest_N: npt.NDArray[np.float64]

    @classmethod
    def of_slices(cls, parts: Iterable[OwnNeighbours], rows: int, k: int) -> OwnNeighbours:
        """Of all rows, from those of consecutive slices."""
        found, start = cls(np.empty((rows, k), np.int32), np.empty(rows)), 0
        for part in parts:
            stop = start + len(part.largest_N)
            found.nearest_NK[start:stop], found.largest_N[start:stop] = part.nearest_NK, part.largest_N
            start = stop
        return found


def own_neighbours(
    vectors: Vectors, k: int, *, exact_rows: int = EXACT_ROWS, run: SliceRunner = IN_THREADS
) -> OwnNeighbours:
    """The k nearest of each embedding, itself included; more than ``exact_rows`` are searched by an index.

    A message then gives the share of the exact neighbours that it found of some embeddings. Each slice of ``run`` opens
    the vectors; memory besides: 4 k + 8 bytes a row and, if there is an index, as ``NeighbourIndex.build``.
    """
    rows = vectors.shape[0]
    if rows > exact_rows and has_usearch():
        return _by_indexes(vectors, k, run)
    if rows > exact_rows:
        message("neighbours: all pairs are compared, which takes long; pip install 'ccvid[ann]' for an index")
    return OwnNeighbours.of_slices(over_rows(run, "neighbours", partial(_exact_of, vectors, k), rows), rows, k)


def _exact_of(vectors: Vectors, k: int, rows: slice) -> OwnNeighbours:
    return _exact(vectors, k, np.arange(rows.start, rows.stop))


def _exact(vectors: Vectors, k: int, row_M: Indices) -> OwnNeighbours:
    """Those of some rows, by comparing them with all."""
    with vectors.opened() as opened:
        query_MD = opened.take(row_M)
        nearest_MK = exact_nearest(opened, query_MD, k).gallery_QK.astype(np.int32)
        return OwnNeighbours(nearest_MK, _squared(1 + exact_nearest(opened, -query_MD, 1).score_QK[:, 0]))


def exact_nearest(opened: OpenVectors, query_QD: Floats, k: int) -> NearestEntries:
    """The first k rows for each query, by decreasing cosine, ties in order of the rows; −1 after the last.

    Raises:
        InputError: as ``search``.
    """
    nearest = NearestEntries(np.full((len(query_QD), k), -1), np.full((len(query_QD), k), -np.inf))
    for row_R, matrix_RD in opened.each():
        found = search(query_QD, matrix_RD, k, least_Q=nearest.score_QK[:, -1])
        numbered = NearestEntries(np.where(found.gallery_QK < 0, -1, row_R[found.gallery_QK]), found.score_QK)
        nearest = NearestEntries.of_parts([nearest, numbered], [0, 0], k)
    return nearest


def _by_indexes(vectors: Vectors, k: int, run: SliceRunner) -> OwnNeighbours:
    rows = vectors.shape[0]
    parts = slices_of(rows, -(-rows // -(-rows // INDEXED_ROWS)))  # of about the same size
    indexes = list(run("index", partial(_index, vectors), parts))
    search_slice = partial(_by_index, vectors, [part.start for part in parts], indexes, k)
    found = OwnNeighbours.of_slices(over_rows(run, "neighbours", search_slice, rows), rows, k)
    del indexes, search_slice
    _tell_recall(vectors, found, run)
    return found


def _index(vectors: Vectors, rows: slice) -> NeighbourIndex:
    count = rows.stop - rows.start
    meter = Meter(f"index from row {rows.start}", count, "tracklets", brief=True)
    with vectors.opened() as opened:
        blocks = (
            opened.take(np.arange(rows.start + part.start, rows.start + part.stop))
            for part in slices_of(count, ROWS_AT_A_TIME)
        )
        return NeighbourIndex.of_blocks(blocks, vectors.shape[1], added=lambda rows: meter.add(rows, tracklets=rows))


def _by_index(
    vectors: Vectors, starts: Sequence[int], indexes: Sequence[NeighbourIndex], k: int, rows: slice
) -> OwnNeighbours:
    """Those of some rows among what the indexes find, with exact scores; each is among its own candidates."""
    row_M = np.arange(rows.start, rows.stop)
    with vectors.opened() as opened:
        query_MD = opened.take(row_M)
        query_C, row_C = _with_itself(*_candidates(query_MD, starts, indexes, k + SPARE), row_M, vectors.shape[0])
        nearest = NearestEntries.of(len(row_M), k, query_C, row_C, 1 - opened.pairs(row_M[query_C], row_C))
        query_C, row_C = _candidates(-query_MD, starts, indexes, 1 + SPARE)
        farthest_M = np.full(len(row_M), -np.inf)
        np.maximum.at(farthest_M, query_C, opened.pairs(row_M[query_C], row_C))
    return OwnNeighbours(nearest.gallery_QK.astype(np.int32), _squared(farthest_M))


def _candidates(
    query_QD: Floats, starts: Sequence[int], indexes: Sequence[NeighbourIndex], wanted: int
) -> tuple[Indices, Indices]:
    """C pairs of a query and a row, up to ``wanted`` of each query from each index."""
    found = [index.candidates(query_QD, wanted) for index in indexes]
    row_C = np.concatenate([row_C + start for start, (_, row_C) in zip(starts, found, strict=True)])
    return np.concatenate([query_C for query_C, _ in found]), row_C


def _with_itself(query_C: Indices, row_C: Indices, row_Q: Indices, rows: int) -> tuple[Indices, Indices]:
    """The pairs and those of each query with its own row, each once."""
    key_C = np.concatenate((query_C * rows + row_C, np.arange(len(row_Q)) * rows + row_Q))
    return np.divmod(np.unique(key_C), rows)


def _tell_recall(vectors: Vectors, found: OwnNeighbours, run: SliceRunner) -> None:
    asked, k = some_rows(vectors.shape[0]), found.nearest_NK.shape[1]
    parts = run("recall", partial(_exact_of_some, vectors, k, asked), slices_of(len(asked), CHECKED_AT_A_TIME))
    exact = OwnNeighbours.of_slices(parts, len(asked), k)
    share = recall(exact.nearest_NK, found.nearest_NK[asked])
    short = 1 - found.largest_N[asked] / exact.largest_N
    message(
        f"neighbours by an index: recall of the first {k} is {100 * share:.2f} %; the largest distance is too small by "
        f"{100 * short.mean():.2f} %, at most {100 * short.max():.2f} % ({len(asked)} sampled)"
    )


def _exact_of_some(vectors: Vectors, k: int, asked: Indices, which: slice) -> OwnNeighbours:
    return _exact(vectors, k, asked[which])


def _squared(farthest_N: Floats) -> npt.NDArray[np.float64]:
    """Squared distances of unit vectors from 1 − cosine; exact, as cosines are multiples of 2⁻⁵²."""
    return np.where(farthest_N > 0, 2 * farthest_N, 1.0)
