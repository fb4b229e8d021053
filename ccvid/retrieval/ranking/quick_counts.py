"""Counts and nearest entries of embeddings on the CPU, from quick scores, in one pass."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from ccvid.retrieval.ranking.distances import CosineDistances, Distances, Floats, Indices, Scores, on_grid
from ccvid.retrieval.ranking.nearest import Codes, NearCandidates, NearestEntries, NearestOthers
from ccvid.retrieval.ranking.quick_scores import core_threads, for_threads, made_ahead, margin, row_groups, tiles
from ccvid.retrieval.ranking.threshold_counts import MOST_DIMENSIONS, SCALE, ThresholdCounter, Thresholds

QUERY_BLOCK, GALLERY_BLOCK = 1024, 4096
"""Queries and entries whose quick scores a thread holds at a time: 16 MiB."""
LEAST_ENTRIES = 4096
"""With fewer, marks take longer to make than exact distances of all pairs."""


def applies_to(distances: Distances) -> bool:
    """Whether ``count_quickly`` can count for these, and sooner; a GPU's float64 products need no quick scores."""
    return (
        isinstance(distances, CosineDistances)
        and distances.device.type == "cpu"
        and distances.shape[1] >= LEAST_ENTRIES
        and distances.query_QD.shape[1] <= MOST_DIMENSIONS
    )


def count_quickly(
    distances: Distances, thresholds: Thresholds, persons: Codes, nearest: int
) -> tuple[Indices, NearestOthers]:
    """How many entries come before each threshold, (P,), and the ``nearest`` entries of other persons.

    Memory: two blocks of the gallery in float32 and float64, and for each query its vector in both, its thresholds and
    some hundred candidates.
    """
    assert isinstance(distances, CosineDistances)
    queries, entries = distances.shape
    with core_threads() as threads:
        rows = row_groups(range(queries), for_threads(queries, QUERY_BLOCK))
        groups = list(threads.map(partial(_Group, distances, thresholds, persons, nearest), rows))
        starts = range(0, entries, GALLERY_BLOCK)
        for start, block in made_ahead(threads, partial(_Block, distances.gallery_GD), starts):
            for _ in threads.map(partial(_Group.look, block=block, start=start), groups):
                pass
        found = list(threads.map(_Group.found, groups))
    before = np.concatenate([counts for counts, _ in found])
    return before, NearestOthers(
        np.concatenate([others.gallery_QK for _, others in found]),
        np.concatenate([others.distance_QK for _, others in found]),
    )


class _Block:
    """Gallery entries from ``start`` on: unit vectors on the grid, and rounded to float32."""

    def __init__(self, gallery_GD: Floats, start: int) -> None:
        self.exact_ND: Scores = on_grid(gallery_GD[start : start + GALLERY_BLOCK])
        self.quick_ND = torch.from_numpy(self.exact_ND).float()


class _Group:
    """Some queries, and what is known of them so far."""

    def __init__(
        self, distances: CosineDistances, thresholds: Thresholds, persons: Codes, nearest: int, rows: range
    ) -> None:
        asked = slice(rows.start, rows.stop)
        query_QD = on_grid(distances.query_QD[asked])
        self._scaled_QD = torch.from_numpy(query_QD * SCALE).float()
        self._counter = ThresholdCounter(query_QD, thresholds.take(np.arange(rows.start, rows.stop)))
        self._distances, self._rows, self._nearest = distances, rows, nearest
        near = SCALE * margin(query_QD.shape[1], torch.float32)
        exclude = [(persons[0][asked], persons[1])]
        self._candidates = NearCandidates(len(rows), nearest, near, self._scores, exclude=exclude) if nearest else None

    def look(self, block: _Block, start: int) -> None:
        for tile, scaled_QN in tiles(self._scaled_QD, block.quick_ND, GALLERY_BLOCK):
            exact_ND = block.exact_ND[tile : tile + scaled_QN.shape[1]]
            self._counter.look(scaled_QN, exact_ND, start + tile)
            if self._candidates:
                self._candidates.look(scaled_QN, start + tile)

    def found(self) -> tuple[Indices, NearestOthers]:
        before = self._counter.before()
        if not self._candidates:
            return before, NearestOthers.none(len(self._rows), 0)
        query_C, gallery_C = self._candidates.found()
        score_C = self._scores(query_C, gallery_C) / SCALE
        entries = NearestEntries.of(len(self._rows), self._nearest, query_C, gallery_C, score_C)
        return before, NearestOthers(entries.gallery_QK, 1.0 - entries.score_QK)

    def _scores(self, query_C: Indices, gallery_C: Indices) -> Scores:
        """Exact scores of pairs, times ``SCALE`` as the quick ones."""
        scaled: Scores = SCALE * (1.0 - self._distances.pairs(self._rows.start + query_C, gallery_C).astype(np.float64))
        return scaled
