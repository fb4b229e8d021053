"""Filmstrips of a scored ranking: right, wrong and junk are marked, hardest queries first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Distances, Floats, Indices
from ccvid.retrieval.ranking.labels import joint_codes
from ccvid.retrieval.ranking.metrics import Evaluation, ProtocolResult, RankedGallery
from ccvid.retrieval.ranking.ranks import same_person
from ccvid.retrieval.report.filmstrips import Entries, Mark, Row, State, Tracklets, View

Probability = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Maps scores, float64 (N,), to probabilities of the same person, float64 in [0, 1]."""


def protocol_views(
    evaluation: Evaluation,
    distances: Distances,
    query: Tracklets,
    gallery: Tracklets,
    probability: Probability | None = None,
) -> Iterator[View]:
    """A view per protocol: the ranks that ``evaluate`` kept, junk among them, and the first match if it comes later.

    Args:
        distances: the evaluated distances; used only for junk.
        probability: None: no probabilities are shown.
    """
    pairs = _PersonPairs.of(evaluation, distances)
    for name, result in evaluation.results.items():
        ranking = _Ranking(evaluation, result, evaluation.ranked_gallery(name), pairs, probability)
        description = f"A match: {result.protocol.describe()}."
        orders = ("hardest first", "easiest first")
        yield View(name, description, orders, query, gallery, ranking.rows(), "average precision in per cent")


def hardest_first(result: ProtocolResult) -> Indices:
    """The queries that take part, by increasing average precision, then later first match; those without match last."""
    taking_part = np.flatnonzero(result.takes_part_Q)
    precision, first_rank = (values[taking_part] for values in (result.average_precision_Q, result.first_match_rank_Q))
    return taking_part[np.lexsort((taking_part, -first_rank, np.nan_to_num(precision, nan=2.0)))]


def shown_precision(result: ProtocolResult) -> npt.NDArray[np.float64]:
    """Average precision of each query (Q,) in per cent, with the one decimal that the page shows and filters by."""
    return np.round(100 * result.average_precision_Q.astype(np.float64), 1)


@dataclass(frozen=True, slots=True)
class _PersonPairs:
    """The P pairs of a query and a gallery entry of its person, by query, then gallery index, with their distances."""

    query_P: Indices
    gallery_P: Indices
    distance_P: Floats
    number_P: Indices
    """Query × gallery size + gallery entry; ascending."""

    @classmethod
    def of(cls, evaluation: Evaluation, distances: Distances) -> _PersonPairs:
        """Of all protocols; only the distances that no match tells are computed."""
        person = joint_codes(evaluation.query.person, evaluation.gallery.person)
        query_P, gallery_P, _ = same_person(*person)
        distance_P = np.full(len(query_P), np.nan)
        pairs = cls(query_P, gallery_P, distance_P, query_P * len(evaluation.gallery) + gallery_P)
        for result in evaluation.results.values():
            distance_P[pairs.matches(result, len(evaluation.gallery))] = result.match_distance_M
        unknown = np.flatnonzero(np.isnan(distance_P))
        distance_P[unknown] = distances.pairs(query_P[unknown], gallery_P[unknown])
        return pairs

    def matches(self, result: ProtocolResult, gallery_size: int) -> Indices:
        """Where a protocol's matches are."""
        return np.searchsorted(self.number_P, result.match_query_M * gallery_size + result.match_gallery_M)


class _Places(NamedTuple):
    """Gallery entries to show, as columns; ``last`` ones stand behind all others, whatever their distance."""

    query: Indices
    gallery: Indices
    distance: npt.NDArray[np.float64]
    rank: Indices
    mark: Indices
    last: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, query: Indices, gallery: Indices, distance: Floats, rank: Indices, mark: Indices, *, last: bool = False
    ) -> _Places:
        columns = (query, gallery, distance.astype(np.float64), rank, mark)
        return cls(*columns, np.full(len(query), last))


@dataclass(frozen=True, slots=True)
class _Ranking:
    evaluation: Evaluation
    result: ProtocolResult
    ranked: RankedGallery
    pairs: _PersonPairs
    probability: Probability | None

    def rows(self) -> Iterator[Row]:
        labels, junk_P = self.evaluation.query, self._junk()
        matches_Q, junk_Q = (
            np.bincount(query, minlength=len(labels)).tolist()
            for query in (self.result.match_query_M, self.pairs.query_P[junk_P])
        )
        ranks_Q, precision_Q = self.result.first_match_rank_Q.tolist(), shown_precision(self.result).tolist()
        for query, entries in self._entries(self._places(junk_P)):
            rank = ranks_Q[query]
            precision = precision_Q[query] if rank else None
            yield Row(
                name=labels.ids[query],
                person=labels.person[query],
                cameras=(labels.camera[query],),
                query=query,
                entries=entries,
                notes=_notes(precision, rank, matches_Q[query], junk_Q[query]),
                state=State.NO_MATCH if not rank else State.RIGHT if rank == 1 else State.WRONG,
                value=precision,
            )

    def _entries(self, places: _Places) -> Iterator[tuple[int, Entries]]:
        """Each query with its entries in order, the hardest first."""
        order = np.lexsort((places.gallery, places.distance, places.last, places.query))
        query_E, score_E = places.query[order], 1.0 - places.distance[order]
        probability_E = None if self.probability is None else self.probability(score_E)
        entries = Entries(places.gallery[order], places.rank[order], score_E, probability_E, places.mark[order])
        hardest = hardest_first(self.result)
        begin, end = (np.searchsorted(query_E, hardest, side=side) for side in ("left", "right"))
        for query, first, last in zip(hardest.tolist(), begin.tolist(), end.tolist(), strict=True):
            yield query, entries.part(slice(first, last))

    def _places(self, junk_P: Indices) -> _Places:
        """The ranks shown, at most as many junk entries where they would have ranked, and the first match if later."""
        parts = (self._ranked(), self._shown_junk(junk_P), self._late_matches())
        return _Places(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _ranked(self) -> _Places:
        query, place = np.nonzero(self.ranked.gallery_QK >= 0)
        mark = np.where(self.ranked.is_match_QK[query, place], Mark.RIGHT, Mark.WRONG)
        gallery, distance = self.ranked.gallery_QK[query, place], self.ranked.distance_QK[query, place]
        return _Places.of(query, gallery, distance, place + 1, mark)

    def _junk(self) -> Indices:
        """Which pairs of a person are junk under the protocol."""
        takes_part_G = np.zeros(len(self.evaluation.gallery), np.bool_)
        takes_part_G[self.result.protocol.taking_part(self.evaluation.gallery)] = True
        junk_P = self.result.takes_part_Q[self.pairs.query_P] & takes_part_G[self.pairs.gallery_P]
        junk_P[self.pairs.matches(self.result, len(takes_part_G))] = False
        return np.flatnonzero(junk_P)

    def _shown_junk(self, junk_P: Indices) -> _Places:
        """Of each query the nearest before the last rank shown, or, without ranks, the nearest."""
        shown_Q = np.count_nonzero(self.ranked.gallery_QK >= 0, axis=1)
        last = np.arange(len(shown_Q)), np.maximum(shown_Q - 1, 0)
        last_gallery_Q, last_distance_Q = self.ranked.gallery_QK[last], self.ranked.distance_QK[last]
        query, gallery, distance = (
            column[junk_P] for column in (self.pairs.query_P, self.pairs.gallery_P, self.pairs.distance_P)
        )
        is_tied = (distance == last_distance_Q[query]) & (gallery < last_gallery_Q[query])
        before = np.flatnonzero((distance < last_distance_Q[query]) | is_tied)
        before = before[np.lexsort((gallery[before], distance[before], query[before]))]
        nth = np.arange(len(before)) - np.searchsorted(query[before], query[before])
        nearest = before[nth < np.maximum(shown_Q[query[before]], 1)]
        unranked = np.zeros(len(nearest), np.int64)
        return _Places.of(query[nearest], gallery[nearest], distance[nearest], unranked, unranked + Mark.JUNK)

    def _late_matches(self) -> _Places:
        query = np.flatnonzero(self.result.first_match_rank_Q > self.ranked.gallery_QK.shape[1])
        first = np.searchsorted(self.result.match_query_M, query)
        found = (
            self.result.match_gallery_M[first],
            self.result.match_distance_M[first],
            self.result.match_rank_M[first],
        )
        return _Places.of(query, *found, np.full(len(query), Mark.RIGHT), last=True)


def _notes(precision: float | None, rank: int, matches: int, junk: int) -> tuple[str, ...]:
    removed = (f"{junk} junk",) if junk else ()
    if precision is None:
        return ("no match in the gallery", *removed)
    found = f"{matches} match{'es' if matches > 1 else ''}"
    return f"average precision {precision:.1f} %", f"first match at rank {rank}", found, *removed
