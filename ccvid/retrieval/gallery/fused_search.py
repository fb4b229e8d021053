"""The first entries of each query by fused evidence, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccvid.retrieval.embedding.table import EmbeddingTable, shared_codes
from ccvid.retrieval.fusion.evidence import TrackletEvidence
from ccvid.retrieval.fusion.evidence_file import EvidenceTable
from ccvid.retrieval.fusion.fused import FusedDistances
from ccvid.retrieval.fusion.fusion import OWN, Fusion
from ccvid.retrieval.gallery.part_search import FoundEntries
from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.nearest import Codes, NearestEntries


@dataclass(frozen=True, slots=True)
class FusedEvidence:
    """A fusion, and the evidence of its sources besides the embedder, in their order."""

    fusion: Fusion
    tables: Sequence[EvidenceTable]

    def distances(self, queries: EmbeddingTable, entries: EmbeddingTable) -> FusedDistances:
        """Between tracklets that are embedded."""
        ids = queries.rows.values("id"), entries.rows.values("id")
        own = CosineDistances(queries.embedding_ND, entries.embedding_ND)
        evidence = [TrackletEvidence.complete(OWN, own), *(table.between(*ids) for table in self.tables)]
        return FusedDistances.by_one(evidence, self.fusion)


def search_fused_part(
    queries: EmbeddingTable,
    entries: EmbeddingTable,
    k: int,
    fused: FusedEvidence,
    *,
    exclude: Sequence[str] = ("id",),
    found: FoundEntries | None = None,
) -> FoundEntries:
    """As ``search_part``, by fused log-likelihood ratios."""
    found = FoundEntries.none(len(queries.rows), k) if found is None else found
    if not len(entries.rows):
        return found
    codes = [shared_codes(queries.rows.text(name), entries.rows.text(name)) for name in exclude]
    nearest = nearest_of_blocks(fused.distances(queries, entries), k, codes)
    return found.merged(FoundEntries.of(entries.rows, nearest))


def nearest_of_blocks(distances: FusedDistances, k: int, exclude: Sequence[Codes]) -> NearestEntries:
    """The first k entries of each query by score, ties in gallery order, without the excluded ones."""
    queries, _ = distances.shape
    best = NearestEntries(np.full((queries, k), -1), np.full((queries, k), -np.inf))
    for query_start, gallery_start, values in distances.blocks():
        score_AB = 1.0 - values.astype(np.float64)
        rows = slice(query_start, query_start + values.shape[0])
        columns = slice(gallery_start, gallery_start + values.shape[1])
        for query_Q, gallery_G in exclude:
            asked_A1, there_B = query_Q[rows, None], gallery_G[columns]
            score_AB[(asked_A1 == there_B) & (asked_A1 >= 0)] = -np.inf
        least_A = best.score_QK[rows, -1]
        if values.shape[1] > k:
            least_A = np.maximum(least_A, np.partition(score_AB, -k, axis=1)[:, -k])
        query_C, gallery_C = np.nonzero((score_AB >= least_A[:, None]) & (score_AB > -np.inf))
        query_B, place_B = np.nonzero(best.gallery_QK[rows] >= 0)
        merged = NearestEntries.of(
            len(score_AB),
            k,
            np.concatenate((query_B, query_C)),
            np.concatenate((best.gallery_QK[rows][query_B, place_B], gallery_C + gallery_start)),
            np.concatenate((best.score_QK[rows][query_B, place_B], score_AB[query_C, gallery_C])),
        )
        best.gallery_QK[rows], best.score_QK[rows] = merged.gallery_QK, merged.score_QK
    return best
