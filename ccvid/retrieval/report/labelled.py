"""Filmstrips of a scored ranking: right, wrong and junk are marked, hardest queries first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Distances, Indices
from ccvid.retrieval.ranking.metrics import Evaluation, ProtocolResult, RankedGallery
from ccvid.retrieval.report.filmstrips import Entry, Mark, Row, State, Tracklets, View

Probability = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Maps scores, float64 (N,), to probabilities of the same person, float64 in [0, 1]."""


def protocol_views(
    evaluation: Evaluation,
    distances: Distances,
    query: Tracklets,
    gallery: Tracklets,
    probability: Probability | None = None,
) -> list[View]:
    """A view per protocol: the ranks that ``evaluate`` kept, junk among them, and the first match if it comes later.

    Args:
        distances: the evaluated distances; used only for junk.
        probability: None: no probabilities are shown.
    """
    rows_of_person: dict[str, list[int]] = {}
    for row, person in enumerate(evaluation.gallery.person):
        rows_of_person.setdefault(person, []).append(row)
    own_rows = {person: np.array(rows, np.int64) for person, rows in rows_of_person.items()}
    views = []
    for name, result in evaluation.results.items():
        ranking = _Ranking(evaluation, result, evaluation.ranked_gallery(name), distances, own_rows, probability)
        description = f"A match: {result.protocol.describe()}."
        orders = ("hardest first", "easiest first")
        views.append(View(name, description, orders, query, gallery, ranking.rows()))
    return views


def hardest_first(result: ProtocolResult) -> Indices:
    """The queries that take part, by increasing average precision, then later first match; those without match last."""
    taking_part = np.flatnonzero(result.takes_part_Q)
    precision, first_rank = (values[taking_part] for values in (result.average_precision_Q, result.first_match_rank_Q))
    return taking_part[np.lexsort((taking_part, -first_rank, np.nan_to_num(precision, nan=2.0)))]


@dataclass(frozen=True, slots=True)
class _Ranking:
    evaluation: Evaluation
    result: ProtocolResult
    ranked: RankedGallery
    distances: Distances
    own_rows: dict[str, Indices]
    """The gallery rows of each person."""
    probability: Probability | None

    def rows(self) -> Iterator[Row]:
        order = hardest_first(self.result)
        begin = np.searchsorted(self.result.match_query_M, order, side="left")
        end = np.searchsorted(self.result.match_query_M, order, side="right")
        takes_part_G = np.zeros(len(self.evaluation.gallery), np.bool_)
        takes_part_G[self.result.protocol.taking_part(self.evaluation.gallery)] = True
        for query, first, last in zip(order.tolist(), begin.tolist(), end.tolist(), strict=True):
            yield self._row(query, slice(first, last), takes_part_G)

    def _row(self, query: int, matches: slice, takes_part_G: npt.NDArray[np.bool_]) -> Row:
        labels = self.evaluation.query
        match_M = self.result.match_gallery_M[matches]
        own = self.own_rows.get(labels.person[query], np.zeros(0, np.int64))
        junk = np.setdiff1d(own[takes_part_G[own]], match_M, assume_unique=True)
        rank = int(self.result.first_match_rank_Q[query])
        state = State.NO_MATCH if not rank else State.RIGHT if rank == 1 else State.WRONG
        return Row(
            name=labels.ids[query],
            person=labels.person[query],
            cameras=(labels.camera[query],),
            query=query,
            entries=self._entries(query, matches, junk),
            notes=self._notes(query, rank, len(match_M), len(junk)),
            state=state,
        )

    def _notes(self, query: int, rank: int, matches: int, junk: int) -> tuple[str, ...]:
        removed = (f"{junk} junk",) if junk else ()
        if not matches:
            return ("no match in the gallery", *removed)
        precision = f"average precision {100 * self.result.average_precision_Q[query]:.1f} %"
        return precision, f"first match at rank {rank}", f"{matches} match{'es' if matches > 1 else ''}", *removed

    def _entries(self, query: int, matches: slice, junk: Indices) -> list[Entry]:
        """The ranks shown, at most as many junk entries where they would have ranked, and the first match if later."""
        kept = self.ranked.gallery_QK[query] >= 0
        gallery, distance = self.ranked.gallery_QK[query][kept], self.ranked.distance_QK[query][kept]
        rank = np.arange(1, len(gallery) + 1)
        mark = np.where(self.ranked.is_match_QK[query][kept], Mark.RIGHT, Mark.WRONG)
        junk_distance = self.distances.pairs(np.full(len(junk), query), junk)
        if len(gallery):
            before_last = (junk_distance < distance[-1]) | ((junk_distance == distance[-1]) & (junk < gallery[-1]))
            junk, junk_distance = junk[before_last], junk_distance[before_last]
        nearest = np.lexsort((junk, junk_distance))[: max(1, len(gallery))]
        gallery = np.concatenate((gallery, junk[nearest]))
        distance = np.concatenate((distance, junk_distance[nearest]))
        rank = np.concatenate((rank, np.zeros(len(nearest), np.int64)))
        mark = np.concatenate((mark, np.full(len(nearest), Mark.JUNK)))
        order = np.lexsort((gallery, distance))
        gallery, distance, rank, mark = gallery[order], distance[order], rank[order], mark[order]
        if self.result.first_match_rank_Q[query] > self.ranked.gallery_QK.shape[1]:
            first = matches.start
            gallery = np.append(gallery, self.result.match_gallery_M[first])
            distance = np.append(distance, self.result.match_distance_M[first])
            rank, mark = np.append(rank, self.result.match_rank_M[first]), np.append(mark, Mark.RIGHT)
        return self._to_entries(gallery, distance, rank, mark)

    def _to_entries(
        self, gallery: Indices, distance: npt.NDArray[np.floating], rank: Indices, mark: Indices
    ) -> list[Entry]:
        score = 1.0 - distance.astype(np.float64)
        same = [None] * len(score) if self.probability is None else self.probability(score).tolist()
        columns = zip(gallery.tolist(), rank.tolist(), score.tolist(), same, mark.tolist(), strict=True)
        return [Entry(index, place or None, value, chance, Mark(code)) for index, place, value, chance, code in columns]
