"""Distances from fused evidence: 1 − log-likelihood ratio, so that scores are log-likelihood ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from ccvid.retrieval.fusion.evidence import Evidence, Readings
from ccvid.retrieval.fusion.fusion import Fusion
from ccvid.retrieval.ranking.distances import DistanceBlock, Floats, Indices, LocalDistances

QUERY_TILE, GALLERY_TILE = 1024, 2048
"""Pairs whose readings are in memory at a time."""


@dataclass(slots=True)
class FusedDistances(LocalDistances):
    """Fused distances of Q queries to G entries, each query by one of several fusions.

    ``query_Q`` and ``gallery_G`` are rows of the evidence, ``fusion_Q`` says which fusion a query's scores come from:
    held-out ones, one for all otherwise.
    """

    evidence: Sequence[Evidence]
    fusions: Sequence[Fusion]
    query_Q: Indices
    gallery_G: Indices
    fusion_Q: Indices

    @classmethod
    def by_one(cls, evidence: Sequence[Evidence], fusion: Fusion) -> FusedDistances:
        """All scores by one fusion."""
        queries, entries = evidence[0].shape
        return cls(evidence, [fusion], np.arange(queries), np.arange(entries), np.zeros(queries, np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.query_Q), len(self.gallery_G)

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        row_P, entry_P = self.query_Q[query_P], self.gallery_G[gallery_P]
        return self._fused([source.pairs(row_P, entry_P) for source in self.evidence], self.fusion_Q[query_P])

    def blocks(self) -> Iterator[DistanceBlock]:
        queries, entries = self.shape
        for gallery_start in range(0, entries, GALLERY_TILE):
            entry_B = self.gallery_G[gallery_start : gallery_start + GALLERY_TILE]
            for query_start in range(0, queries, QUERY_TILE):
                chosen = slice(query_start, query_start + QUERY_TILE)
                readings = [source.tile(self.query_Q[chosen], entry_B) for source in self.evidence]
                yield DistanceBlock(query_start, gallery_start, self._fused(readings, self.fusion_Q[chosen]))

    def take(self, query_rows: Indices, gallery_rows: Indices) -> FusedDistances:
        part = copy(self)
        part.query_Q, part.fusion_Q = self.query_Q[query_rows], self.fusion_Q[query_rows]
        part.gallery_G = self.gallery_G[gallery_rows]
        return part

    def only(self, name: str) -> FusedDistances:
        """As if the other sources said nothing."""
        part = copy(self)
        part.fusions = [fusion.only(name) for fusion in self.fusions]
        return part

    def _fused(self, readings: Sequence[Readings], fusion_A: Indices) -> Floats:
        """Distances of rows or pairs, whose first axis is A."""
        distance = np.empty(readings[0].score.shape)
        for number in np.unique(fusion_A):
            chosen = fusion_A == number
            some = [Readings(*(values[chosen] for values in source)) for source in readings]
            distance[chosen] = 1.0 - self.fusions[number].ratios(some)
        return distance
