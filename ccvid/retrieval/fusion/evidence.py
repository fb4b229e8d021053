"""Evidence about pairs of tracklets: what one source (a model, a table of scores) says of each pair, where it says it.

A source may say nothing of a pair: no face is in view. Its reading is then NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ccvid.retrieval.ranking.distances import Floats, Indices, LocalDistances, Scores


class Readings(NamedTuple):
    """Of some pairs, float64 of one shape: scores (higher: more likely one person), NaN where there is none, and how
    good each is, NaN where that is unknown."""

    score: Scores
    quality: Scores


class Evidence(Protocol):
    """What a source says of Q queries and G gallery entries; ``pairs`` and ``tile`` give bit-identical values."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""

    @property
    def coverage(self) -> str:
        """How much it says something of, in words; empty if nothing."""

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Readings:
        """Of P pairs."""

    def tile(self, query_A: Indices, gallery_B: Indices) -> Readings:
        """Of each of A queries with each of B entries, (A, B); no entry twice."""

    def some_pairs(self, most: int, generator: np.random.Generator) -> tuple[Indices, Indices]:
        """Up to ``most`` pairs of which the source says something, drawn evenly."""


@dataclass(frozen=True, slots=True)
class TrackletEvidence:
    """Distances between those tracklets that a source describes.

    ``query_Q`` and ``gallery_G`` are the rows of ``distances`` for each query and entry, −1 where there is none. A pair
    is as good as the worse of its tracklets (Grother and Tabassi, TPAMI 2007).
    """

    name: str
    distances: LocalDistances
    query_Q: Indices
    gallery_G: Indices
    query_quality_Q: Scores
    gallery_quality_G: Scores

    @classmethod
    def complete(cls, name: str, distances: LocalDistances) -> TrackletEvidence:
        """Of distances between all queries and entries, without qualities."""
        queries, entries = distances.shape
        unknown = np.full(queries, np.nan), np.full(entries, np.nan)
        return cls(name, distances, np.arange(queries), np.arange(entries), *unknown)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.query_Q), len(self.gallery_G)

    @property
    def coverage(self) -> str:
        queries, entries = (np.count_nonzero(rows >= 0) for rows in (self.query_Q, self.gallery_G))
        if not queries or not entries:
            return ""
        return f"{queries} of {len(self.query_Q)} queries, {entries} of {len(self.gallery_G)} gallery entries"

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Readings:
        row_P, entry_P = self.query_Q[query_P], self.gallery_G[gallery_P]
        known_P = (row_P >= 0) & (entry_P >= 0)
        score_P = np.full(len(query_P), np.nan)
        score_P[known_P] = _scores(self.distances.pairs(row_P[known_P], entry_P[known_P]))
        return Readings(score_P, np.minimum(self.query_quality_Q[query_P], self.gallery_quality_G[gallery_P]))

    def tile(self, query_A: Indices, gallery_B: Indices) -> Readings:
        row_A, entry_B = self.query_Q[query_A], self.gallery_G[gallery_B]
        known_A, known_B = np.flatnonzero(row_A >= 0), np.flatnonzero(entry_B >= 0)
        score_AB = np.full((len(query_A), len(gallery_B)), np.nan)
        if len(known_A) and len(known_B):
            part = self.distances.take(row_A[known_A], entry_B[known_B])
            for query_start, gallery_start, values in part.blocks():
                rows = known_A[query_start : query_start + values.shape[0]]
                entries = known_B[gallery_start : gallery_start + values.shape[1]]
                score_AB[np.ix_(rows, entries)] = _scores(values)
        quality_AB = np.minimum.outer(self.query_quality_Q[query_A], self.gallery_quality_G[gallery_B])
        return Readings(score_AB, quality_AB)

    def some_pairs(self, most: int, generator: np.random.Generator) -> tuple[Indices, Indices]:
        known_A, known_B = np.flatnonzero(self.query_Q >= 0), np.flatnonzero(self.gallery_G >= 0)
        place_A, place_B = np.divmod(_some(len(known_A) * len(known_B), most, generator), max(1, len(known_B)))
        return known_A[place_A], known_B[place_B]


@dataclass(frozen=True, slots=True)
class PairEvidence:
    """Scores of some pairs, by ascending key: query · G + gallery entry."""

    name: str
    shape: tuple[int, int]
    key_S: Indices
    score_S: Scores
    quality_S: Scores

    @property
    def coverage(self) -> str:
        known = len(self.key_S)
        return f"{known} of {self.shape[0] * self.shape[1]} pairs" if known else ""

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Readings:
        return self._of(query_P * self.shape[1] + gallery_P)

    def tile(self, query_A: Indices, gallery_B: Indices) -> Readings:
        return self._of(np.add.outer(query_A * self.shape[1], gallery_B))

    def some_pairs(self, most: int, generator: np.random.Generator) -> tuple[Indices, Indices]:
        query_S, gallery_S = np.divmod(self.key_S[_some(len(self.key_S), most, generator)], self.shape[1])
        return query_S, gallery_S

    def _of(self, key: Indices) -> Readings:
        if not len(self.key_S):
            return Readings(*(np.full(key.shape, np.nan) for _ in range(2)))
        place = np.minimum(np.searchsorted(self.key_S, key), len(self.key_S) - 1)
        known = self.key_S[place] == key
        return Readings(*(np.where(known, values_S[place], np.nan) for values_S in (self.score_S, self.quality_S)))


def _scores(distance: Floats) -> Scores:
    return 1.0 - distance.astype(np.float64)


def _some(count: int, most: int, generator: np.random.Generator) -> Indices:
    """All numbers below ``count``, or about ``most`` of them."""
    if count <= most:
        return np.arange(count)
    return np.unique(generator.integers(0, count, most))
