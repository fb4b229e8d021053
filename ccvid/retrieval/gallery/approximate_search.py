"""Approximate search of a gallery in parts, by their indexes, with exact scores and measured recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.gallery.neighbour_index import NeighbourIndex, ready_index, usable_index
from ccvid.retrieval.gallery.search import rank_candidates, search
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices
from ccvid.retrieval.ranking.nearest import Codes, NearestEntries

CHECKED_QUERIES = 200
MORE = 4
"""Factor of extra entries to fetch where some may be excluded."""
SPARE = 4
"""Extra entries to fetch always, because exact scores may order them differently than float16 does."""
MOST_FILTERED = 4
"""Where fewer than one in this many rows may be found, an index would mostly give others."""
LEAST_ROWS = 10_000
"""A smaller part has no index: comparing with all of its rows takes hardly longer."""


@dataclass(frozen=True, slots=True)
class IndexedPart:
    """Some consecutive entries of a gallery, (N, D), and their index; without one they are searched exactly."""

    embedding_ND: Floats
    index: NeighbourIndex | None = None

    def __len__(self) -> int:
        return len(self.embedding_ND)

    def neighbours(
        self, query_QD: Floats, k: int, *, exclude: Sequence[Codes] = (), chosen: Indices | None = None
    ) -> NearestEntries:
        """The first k entries of each query, by row of this part; for the arguments see ``search``.

        With an index, entries may be missing; the scores of those found are exact.

        Args:
            chosen: the rows, ascending, that may be found; default: all. If they are few, they are searched exactly.
        """
        if self.index is None or (chosen is not None and MOST_FILTERED * len(chosen) < len(self)):
            return self._exact(query_QD, k, exclude, chosen)
        exact = CosineDistances(query_QD, self.embedding_ND, gallery_checked=True)  # checked when it was indexed
        allowed_N = np.ones(len(self), np.bool_) if chosen is None else np.isin(np.arange(len(self)), chosen)
        wanted = ceil(k * (MORE if exclude else 1) * len(self) / np.count_nonzero(allowed_N)) + SPARE
        query_C, row_C = self.index.candidates(query_QD, wanted)
        kept = allowed_N[row_C]
        for query, entry in exclude:
            kept &= (query[query_C] != entry[row_C]) | (entry[row_C] < 0)
        return rank_candidates(exact, k, query_C[kept], row_C[kept], range(len(query_QD)))

    def _exact(self, query_QD: Floats, k: int, exclude: Sequence[Codes], chosen: Indices | None) -> NearestEntries:
        if chosen is None:
            return search(query_QD, self.embedding_ND, k, exclude=exclude)
        if not len(chosen):
            return NearestEntries(np.full((len(query_QD), k), -1), np.full((len(query_QD), k), -np.inf))
        codes = [(query, entry[chosen]) for query, entry in exclude]
        found = search(query_QD, self.embedding_ND[chosen], k, exclude=codes)
        return NearestEntries(np.where(found.gallery_QK < 0, -1, chosen[found.gallery_QK]), found.score_QK)


def indexed_part(embedding_ND: Floats, path: Path, origin: str, *, build: bool = False) -> IndexedPart:
    """A part with its index from a file, where there is a usable one.

    Args:
        origin: of the embeddings, for example the fingerprint of their model.
        build: write the index if there is none, unless the part has few rows; see ``ready_index`` for who may.

    Raises:
        InputError: usearch is not installed; a vector is not usable.
        OSError: the file cannot be read or written.
    """
    ready = ready_index if build and len(embedding_ND) >= LEAST_ROWS else usable_index
    return IndexedPart(embedding_ND, ready(path, embedding_ND, origin))


def search_parts(
    query_QD: Floats, parts: Sequence[IndexedPart], k: int, *, exclude: Sequence[Codes] = ()
) -> NearestEntries:
    """The first k of the gallery that consists of these parts, numbered through; see ``IndexedPart.neighbours``.

    The codes of ``exclude`` are those of the queries and of the whole gallery.
    """
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    found = [
        part.neighbours(query_QD, k, exclude=[(query, entry[start : start + len(part)]) for query, entry in exclude])
        for part, start in zip(parts, starts, strict=False)
    ]
    return found[0] if len(parts) == 1 else NearestEntries.of_parts(found, starts[:-1], k)


def approximate_search(
    query_QD: Floats, parts: Sequence[IndexedPart], k: int, *, exclude: Sequence[Codes] = (), seed: int = 0
) -> tuple[NearestEntries, float]:
    """Like ``search``, but entries may be missing; the scores of those found are exact.

    Returns:
        The entries, and the recall: the share of the exact search's first k entries that was found, measured on
        ``CHECKED_QUERIES`` randomly drawn queries (all, if fewer).

    Raises:
        InputError: as ``search``.
    """
    asked = some_rows(len(query_QD), seed)
    codes = [(query[asked], entry) for query, entry in exclude]
    exact = search_parts(query_QD[asked], [IndexedPart(part.embedding_ND) for part in parts], k, exclude=codes)
    found = search_parts(query_QD, parts, k, exclude=exclude)
    return found, recall(exact.gallery_QK, found.gallery_QK[asked])


def some_rows(rows: int, seed: int = 0) -> Indices:
    """``CHECKED_QUERIES`` rows at random; all, if there are fewer."""
    return np.random.default_rng(seed).permutation(rows)[:CHECKED_QUERIES]


def recall(exact_QK: npt.NDArray[np.signedinteger], found_QK: npt.NDArray[np.signedinteger]) -> float:
    """The share of exact entries that were found; 1 if there are none."""
    there = exact_QK >= 0
    hits = (exact_QK[:, :, None] == found_QK[:, None, :]).any(axis=2) & there
    return float(hits[there].mean()) if there.any() else 1.0
