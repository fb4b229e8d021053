"""CMC, mAP and mINP of every protocol, exactly, in one pass over the distances.

    average precision           AP  = mean over the matches k = 1 … n of k / rank_k
    inverse negative penalty    INP = n / rank_n  (Ye et al., TPAMI 2021, eq. 13)
    CMC at r                    the share of queries whose first match has rank ≤ r

over the queries that have a match; ranks are counted from 1 after the protocol's junk is removed. Gallery entries
at equal distances are ordered by gallery index, so that every machine gives the same figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Distances, Floats, Indices
from ccvid.retrieval.ranking.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.ranking.nearest import NearestOthers
from ccvid.retrieval.ranking.protocols import PROTOCOLS, PersonPairLabels, Protocol
from ccvid.retrieval.ranking.ranks import PersonPairs, rank_part, rank_persons
from data_tools.errors import InputError

CMC_RANKS = (1, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """One protocol's metrics for each of the Q queries, and its M matches.

    A query without a match, or outside the protocol's ``within``, has NaN in the floats and rank 0. ``chance_Q`` is the
    probability that a random order puts a match first. Matches are ordered by query, then by rank.
    """

    protocol: Protocol
    takes_part_Q: npt.NDArray[np.bool_]
    average_precision_Q: Floats
    inverse_negative_penalty_Q: Floats
    first_match_rank_Q: Indices
    chance_Q: Floats
    match_query_M: Indices
    match_gallery_M: Indices
    match_rank_M: Indices
    match_distance_M: Floats
    nearest_others: NearestOthers

    @property
    def has_match(self) -> npt.NDArray[np.bool_]:
        return self.first_match_rank_Q > 0

    @property
    def queries(self) -> int:
        """Number of queries that take part."""
        return int(np.count_nonzero(self.takes_part_Q))

    @property
    def queries_without_match(self) -> int:
        return int(np.count_nonzero(self.takes_part_Q & ~self.has_match))

    @property
    def mean_average_precision(self) -> float:
        return self._mean(self.average_precision_Q)

    @property
    def mean_inverse_negative_penalty(self) -> float:
        return self._mean(self.inverse_negative_penalty_Q)

    @property
    def chance(self) -> float:
        """Top-1 of a random order."""
        return self._mean(self.chance_Q)

    def cmc(self, rank: int) -> float:
        return self._mean(self.first_match_rank_Q <= rank)

    def cmc_curve(self, length: int) -> Floats:
        """CMC at ranks 1 … ``length``, float64."""
        return np.array([self.cmc(rank) for rank in range(1, length + 1)])

    def to_json(self) -> dict[str, object]:
        """The protocol's entry in metrics.json: fractions; ``queries`` counts those without a match too."""
        return {
            "map": self.mean_average_precision,
            "minp": self.mean_inverse_negative_penalty,
            "cmc": {str(rank): self.cmc(rank) for rank in CMC_RANKS},
            "queries": self.queries,
            "queries_without_match": self.queries_without_match,
        }

    def _mean(self, value_Q: npt.NDArray[np.generic]) -> float:
        """Mean over the queries with a match; the exact sum does not depend on their order."""
        return statistics.fmean(value_Q[self.has_match].tolist())


@dataclass(frozen=True, slots=True)
class RankedGallery:
    """The first K gallery entries of each query under one protocol, junk removed, in rank order.

    ``gallery_QK`` holds gallery indices, −1 (distance infinity, no match) where the gallery ends.
    """

    gallery_QK: Indices
    distance_QK: Floats
    is_match_QK: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of every protocol that applies, by name, and why the others were left out."""

    query: RetrievalLabels
    gallery: RetrievalLabels
    results: Mapping[str, ProtocolResult]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """The content of metrics.json."""
        return {
            "protocols": {name: result.to_json() for name, result in self.results.items()},
            "left_out": dict(self.left_out),
        }

    def ranked_gallery(self, protocol: str) -> RankedGallery:
        """The first places of each query's ranking, as many as ``evaluate`` kept (``top_k``)."""
        result = self.results[protocol]
        others = result.nearest_others
        is_match_QK = np.zeros(others.gallery_QK.shape, np.bool_)
        top = result.match_rank_M <= others.gallery_QK.shape[1]
        place = result.match_query_M[top], result.match_rank_M[top] - 1
        is_match_QK[place] = True
        # Other persons' entries fill the places between the matches, in order.
        turn_QK = np.maximum(np.cumsum(~is_match_QK, axis=1) - 1, 0)
        gallery_QK = np.take_along_axis(others.gallery_QK, turn_QK, axis=1)
        distance_QK = np.take_along_axis(others.distance_QK, turn_QK, axis=1)
        gallery_QK[place], distance_QK[place] = result.match_gallery_M[top], result.match_distance_M[top]
        return RankedGallery(gallery_QK, distance_QK, is_match_QK)


def evaluate(
    distances: Distances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    *,
    protocols: Iterable[Protocol] = PROTOCOLS.values(),
    top_k: int = 0,
) -> Evaluation:
    """Score a retrieval under every protocol that applies.

    Args:
        distances: of the Q queries to the G gallery entries, as in ``query`` and ``gallery``.
        protocols: those whose label is missing in a whole set, or without any match, are left out. Protocols with the
            same ``within`` are ranked in one pass.
        top_k: how many places of each query's ranking to keep for ``Evaluation.ranked_gallery``.

    A query tracklet that is also in the gallery (the same id) is junk there, never its own match. So ids must be equal
    only for the same tracklet.
    Raises InputError for empty sets, labels that do not fit the distances, and when no protocol applies.
    """
    if distances.shape != (len(query), len(gallery)):
        expected = (len(query), len(gallery))
        raise InputError(f"distances have shape {distances.shape}, expected {expected} for these labels")
    if not len(query) or not len(gallery):
        raise InputError(f"nothing to score: {len(query)} queries, {len(gallery)} gallery tracklets")
    results, left_out = score_protocols(distances, query, gallery, protocols, top_k)
    if not results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"none of the protocols can be scored ({reasons})")
    return Evaluation(query, gallery, results, left_out)


def score_protocols(
    distances: Distances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    protocols: Iterable[Protocol],
    top_k: int = 0,
) -> tuple[dict[str, ProtocolResult], dict[str, str]]:
    """The result of every protocol that applies, and why the others do not; see ``evaluate``."""
    person = joint_codes(query.person, gallery.person)
    parts: dict[tuple[tuple[str, tuple[str, ...]], ...], _Part] = {}
    results: dict[str, ProtocolResult] = {}
    left_out: dict[str, str] = {}
    for protocol in protocols:
        if obstacle := protocol.obstacle(query, gallery):
            left_out[protocol.name] = obstacle
            continue
        within = tuple(sorted(protocol.within.items()))
        if within not in parts:
            parts[within] = _Part.rank(distances, query, gallery, person, protocol, nearest=top_k)
        match_P = parts[within].labels.matches(protocol)
        if match_P.any():
            results[protocol.name] = parts[within].score(protocol, match_P)
        else:
            left_out[protocol.name] = "no query has a match in the gallery"
    return results, left_out


@dataclass(frozen=True, slots=True)
class _Part:
    """Part of both sets, ranked once for all protocols with the same ``within``; indices refer to the whole sets."""

    query_rows: Indices
    gallery_rows: Indices
    pairs: PersonPairs
    labels: PersonPairLabels
    others: NearestOthers

    @classmethod
    def rank(
        cls,
        distances: Distances,
        query: RetrievalLabels,
        gallery: RetrievalLabels,
        person: tuple[Indices, Indices],
        protocol: Protocol,
        *,
        nearest: int,
    ) -> _Part:
        query_rows, gallery_rows = protocol.taking_part(query), protocol.taking_part(gallery)
        if (len(query_rows), len(gallery_rows)) == distances.shape:
            pairs, others = rank_persons(distances, *person, nearest)
        else:
            pairs, others = rank_part(distances, *person, query_rows, gallery_rows, nearest)
        labels = PersonPairLabels(query, gallery, pairs.query, pairs.gallery)
        return cls(query_rows, gallery_rows, pairs, labels, others)

    def score(self, protocol: Protocol, match_P: npt.NDArray[np.bool_]) -> ProtocolResult:
        pairs, queries = self.pairs, len(self.labels.query)
        query_M = pairs.query[match_P]
        count_Q = np.bincount(query_M, minlength=queries)
        end_Q = np.cumsum(count_Q)
        begin_Q = end_Q - count_Q
        nth_M = np.arange(1, len(query_M) + 1) - begin_Q[query_M]
        rank_M = nth_M + pairs.wrong_before[match_P]
        matched_Q = count_Q > 0
        first_rank_Q = np.zeros(queries, np.int64)
        first_rank_Q[matched_Q] = rank_M[begin_Q[matched_Q]]
        last_rank_Q = np.full(queries, np.nan)
        last_rank_Q[matched_Q] = rank_M[end_Q[matched_Q] - 1]
        precision_Q = np.bincount(query_M, weights=nth_M / rank_M, minlength=queries)
        others_Q = len(self.gallery_rows) - np.diff(pairs.first)
        count_or_nan_Q = np.where(matched_Q, count_Q, np.nan)
        return ProtocolResult(
            protocol=protocol,
            takes_part_Q=np.isin(np.arange(queries), self.query_rows),
            average_precision_Q=precision_Q / count_or_nan_Q,
            inverse_negative_penalty_Q=count_or_nan_Q / last_rank_Q,
            first_match_rank_Q=first_rank_Q,
            chance_Q=count_or_nan_Q / (count_or_nan_Q + others_Q),
            match_query_M=query_M,
            match_gallery_M=pairs.gallery[match_P],
            match_rank_M=rank_M,
            match_distance_M=pairs.distance[match_P],
            nearest_others=self.others,
        )
