"""Open-set identification against a watch-list, in the terms of NIST's FRVT 1:N (Grother, Ngan and Hanaoka).

The persons of the gallery are enrolled. For one query, junk under the protocol is removed; a person's score is that of
the person's most similar entry, and the candidates are persons by decreasing score. At a threshold,

    FPIR        the share of non-mated queries (no candidate is right) with any candidate ≥ threshold
    FNIR(R)     the share of mated queries whose person is not among the first R, or below the threshold

Another person with the same score ranks before the mate. If every person of the queries is in the gallery, no query
should be rejected; then half of these persons, drawn with a seed, are treated as not enrolled (their gallery entries
are removed, their queries non-mated), and the rates are means over several draws, with standard deviations. Persons
without queries stay enrolled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Distances, Indices, Scores
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import Protocol
from ccvid.retrieval.ranking.single_shot import Spread
from ccvid.retrieval.thresholds.verification import VerificationPairs, impostor_blocks
from data_tools.errors import InputError

FPIRS = (0.01, 0.1)
RANKS = (1, 20)
BEST_BYTES = 2**26
"""Memory for scores by query and person."""


@dataclass(frozen=True, slots=True)
class OpenSetPoint:
    """FNIR by rank at the lowest threshold with at most ``asked_fpir``; if there is none, ``reason`` says why."""

    asked_fpir: float
    threshold: Spread | None = None
    fnir: Mapping[int, Spread] | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "asked_fpir": self.asked_fpir,
            "threshold": None if self.threshold is None else self.threshold.to_json(),
            "fnir": None if self.fnir is None else {str(rank): rate.to_json() for rank, rate in self.fnir.items()},
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class OpenSet:
    """Open-set identification rates; ``draws`` is 0 if some of the queries' persons are really not in the gallery."""

    protocol: Protocol
    draws: int
    enrolled: Spread
    mated: Spread
    non_mated: Spread
    points: tuple[OpenSetPoint, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "protocol": self.protocol.name,
            "draws": self.draws,
            "enrolled_persons": self.enrolled.to_json(),
            "mated_queries": self.mated.to_json(),
            "non_mated_queries": self.non_mated.to_json(),
            "points": [point.to_json() for point in self.points],
        }


@dataclass(frozen=True, slots=True)
class _Searches:
    """Results of each query for N draws of enrolled persons: the best wrong score and, if mated, score and rank."""

    is_mated_NQ: npt.NDArray[np.bool_]
    best_wrong_NQ: Scores
    mate_Q: Scores
    rank_NQ: Indices


def open_set(
    distances: Distances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    protocol: Protocol,
    *,
    fpirs: Sequence[float] = FPIRS,
    ranks: Sequence[int] = RANKS,
    draws: int = 20,
    seed: int = 0,
) -> OpenSet:
    """Identification rates; takes one pass over the distances for every ``BEST_BYTES`` of queries × persons scores.

    Raises:
        InputError: as ``VerificationPairs.of``, or an FPIR is outside (0, 1).
    """
    for fpir in fpirs:
        if not 0 < fpir < 1:
            raise InputError(f"false positive identification rate {fpir}, expected a number between 0 and 1")
    pairs = VerificationPairs.of(distances, query, gallery, protocol)
    in_gallery_P = np.bincount(pairs.gallery_person_G, minlength=pairs.persons) > 0
    everyone_enrolled = bool(in_gallery_P[pairs.query_person_Q].all())
    enrolled_NP = _draw_enrolled(pairs, in_gallery_P, draws, seed) if everyone_enrolled else in_gallery_P[None]
    searches = _search(pairs, enrolled_NP)
    mated_N = np.count_nonzero(searches.is_mated_NQ, axis=1)
    return OpenSet(
        protocol,
        draws if everyone_enrolled else 0,
        enrolled=Spread.of(np.count_nonzero(enrolled_NP, axis=1).tolist()),
        mated=Spread.of(mated_N.tolist()),
        non_mated=Spread.of((len(searches.mate_Q) - mated_N).tolist()),
        points=tuple(_point(searches, fpir, ranks) for fpir in fpirs),
    )


def _draw_enrolled(
    pairs: VerificationPairs, in_gallery_P: npt.NDArray[np.bool_], draws: int, seed: int
) -> npt.NDArray[np.bool_]:
    """(N, P); half of the queries' persons, rounded down, are not enrolled."""
    chance = np.random.Generator(np.random.PCG64(seed))
    asked = np.unique(pairs.query_person_Q)
    enrolled_NP = np.tile(in_gallery_P, (draws, 1))
    for enrolled_P in enrolled_NP:
        enrolled_P[chance.permutation(asked)[: len(asked) // 2]] = False
    return enrolled_NP


def _search(pairs: VerificationPairs, enrolled_NP: npt.NDArray[np.bool_]) -> _Searches:
    mate_Q = np.full(len(pairs.query_person_Q), -np.inf)
    np.maximum.at(mate_Q, pairs.genuine_query_P, pairs.genuine_scores())
    shape = len(enrolled_NP), len(mate_Q)
    best_wrong_NQ, rank_NQ = np.empty(shape), np.empty(shape, np.int64)
    for rows, best_RP in _best_of_others(pairs):
        before_RP = (best_RP >= mate_Q[rows, None]).astype(np.float64)
        rank_NQ[:, rows] = 1 + enrolled_NP.astype(np.float64) @ before_RP.T
        for number, enrolled_P in enumerate(enrolled_NP):
            best_wrong_NQ[number, rows] = best_RP.max(axis=1, where=enrolled_P, initial=-np.inf)
    is_mated_NQ = enrolled_NP[:, pairs.query_person_Q] & (mate_Q > -np.inf)
    return _Searches(is_mated_NQ, best_wrong_NQ, mate_Q, rank_NQ)


def _best_of_others(pairs: VerificationPairs) -> Iterator[tuple[slice, Scores]]:
    """The best score of each person's gallery entries (R, P), some queries at a time; −infinity for the query's own."""
    queries, entries = pairs.distances.shape
    together = max(1, BEST_BYTES // (8 * pairs.persons))
    for start in range(0, queries, together):
        rows = slice(start, min(start + together, queries))
        distances = pairs.distances
        if together < queries:
            distances = distances.take(np.arange(queries)[rows], np.arange(entries))
        best_RP = np.full((rows.stop - start, pairs.persons), -np.inf)
        blocks = impostor_blocks(distances, pairs.query_person_Q[rows], pairs.gallery_person_G)
        for query_start, gallery_start, score_QG in blocks:
            person_G = pairs.gallery_person_G[gallery_start : gallery_start + score_QG.shape[1]]
            by_person = np.argsort(person_G, kind="stable")
            persons, first = np.unique(person_G[by_person], return_index=True)
            best_QP = np.maximum.reduceat(score_QG[:, by_person], first, axis=1)
            place = np.ix_(np.arange(query_start, query_start + len(score_QG)), persons)
            best_RP[place] = np.maximum(best_RP[place], best_QP)
        yield rows, best_RP


def _point(searches: _Searches, fpir: float, ranks: Sequence[int]) -> OpenSetPoint:
    thresholds: list[float] = []
    fnir: dict[int, list[float]] = {rank: [] for rank in ranks}
    for is_mated_Q, best_wrong_Q, rank_Q in zip(
        searches.is_mated_NQ, searches.best_wrong_NQ, searches.rank_NQ, strict=True
    ):
        alarm_U = np.sort(best_wrong_Q[~is_mated_Q])[::-1]
        if fpir * len(alarm_U) < 1:
            needed = int(np.ceil(1 / fpir))
            reason = f"{len(alarm_U):,} non-mated queries are too few for a rate of {fpir:g}; {needed:,} are needed"
            return OpenSetPoint(fpir, reason=reason)
        if not is_mated_Q.any():
            return OpenSetPoint(fpir, reason="no query has a match among the enrolled persons")
        allowed = np.count_nonzero(np.arange(1, len(alarm_U) + 1) / len(alarm_U) <= fpir)
        thresholds.append(float(np.nextafter(alarm_U[allowed], np.inf)))
        for rank, rates in fnir.items():
            missed_Q = (rank_Q > rank) | (searches.mate_Q < thresholds[-1])
            rates.append(float(missed_Q[is_mated_Q].mean()))
    return OpenSetPoint(fpir, Spread.of(thresholds), {rank: Spread.of(rates) for rank, rates in fnir.items()})
