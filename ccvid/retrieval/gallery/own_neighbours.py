"""The neighbours of each of N embeddings among all of them, and how far the farthest is.

Exactly, by comparing all pairs, or in a large set by an index: the nearest to the opposite of an embedding is its
farthest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.gallery.approximate_search import index_parts, recall, search_parts, some_rows
from ccvid.retrieval.gallery.neighbour_index import has_usearch
from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices
from ccvid.retrieval.ranking.nearest import NearestEntries
from data_tools.progress import Meter, message

EXACT_ROWS = 100_000
"""Up to this size, all pairs are compared: that takes about twice as long as an index here, and misses nothing."""
QUERIES = 16_384


@dataclass(frozen=True, slots=True)
class OwnNeighbours:
    """``nearest_NK`` int64: rows by decreasing cosine, ties in order of the rows, −1 after the last that was found.

    ``largest_N`` float64: the largest squared distance of unit vectors; 1 where all are equal.
    """

    nearest_NK: Indices
    largest_N: npt.NDArray[np.float64]


def own_neighbours(embedding_ND: Floats, k: int, *, exact_rows: int = EXACT_ROWS) -> OwnNeighbours:
    """The k nearest of each embedding, itself included; more than ``exact_rows`` are searched by an index.

    A message then gives the share of the exact neighbours that it found of some embeddings.

    Raises:
        InputError: NaN, infinity, or a zero vector.
    """
    if len(embedding_ND) <= exact_rows:
        return OwnNeighbours(
            search(embedding_ND, embedding_ND, k).gallery_QK, _squared(search(-embedding_ND, embedding_ND, 1))
        )
    if not has_usearch():
        message("neighbours: all pairs are compared, which takes long; pip install 'ccvid[ann]' for an index")
        return own_neighbours(embedding_ND, k, exact_rows=len(embedding_ND))
    return _by_index(embedding_ND, k)


def _by_index(embedding_ND: Floats, k: int) -> OwnNeighbours:
    parts = index_parts(embedding_ND)
    nearest_NK = np.empty((len(embedding_ND), k), np.int64)
    largest_N = np.empty(len(embedding_ND))
    own = CosineDistances(embedding_ND, embedding_ND, gallery_checked=True)
    meter = Meter("neighbours", len(embedding_ND), "tracklets", brief=True)
    for start in range(0, len(embedding_ND), QUERIES):
        rows = slice(start, start + QUERIES)
        nearest_NK[rows] = _with_itself(search_parts(embedding_ND[rows], parts, k), own, start, k)
        largest_N[rows] = _squared(search_parts(-embedding_ND[rows], parts, 1))
        count = len(largest_N[rows])
        meter.add(count, tracklets=count)
    found = OwnNeighbours(nearest_NK, largest_N)
    _tell_recall(embedding_ND, found)
    return found


def _with_itself(found: NearestEntries, own: CosineDistances, start: int, k: int) -> Indices:
    """The first k rows of each query among those that were found and itself."""
    row_Q = np.arange(start, start + len(found.gallery_QK))
    itself_Q = np.where((found.gallery_QK == row_Q[:, None]).any(axis=1), -1, row_Q)
    score_Q = 1 - own.pairs(row_Q, row_Q).astype(np.float64)
    itself = NearestEntries(itself_Q[:, None], score_Q[:, None])
    return NearestEntries.of_parts([found, itself], [0, 0], k).gallery_QK


def _tell_recall(embedding_ND: Floats, found: OwnNeighbours) -> None:
    asked = some_rows(len(embedding_ND))
    exact = search(embedding_ND[asked], embedding_ND, found.nearest_NK.shape[1])
    share = recall(exact.gallery_QK, found.nearest_NK[asked])
    largest = _squared(search(-embedding_ND[asked], embedding_ND, 1))
    short = 1 - found.largest_N[asked] / largest
    message(
        f"neighbours by an index: recall of the first {exact.gallery_QK.shape[1]} is {100 * share:.2f} %; the largest "
        f"distance is too small by {100 * short.mean():.2f} %, at most {100 * short.max():.2f} % ({len(asked)} sampled)"
    )


def _squared(farthest: NearestEntries) -> npt.NDArray[np.float64]:
    """Squared distances of unit vectors to the first found entry; exact, as cosines are multiples of 2⁻⁵²."""
    squared_N = 2 * (1 + farthest.score_QK[:, 0])
    return np.where(squared_N > 0, squared_N, 1.0)
