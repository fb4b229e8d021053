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
from functools import partial

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Distances, GalleryPart, Indices, Scores
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import Protocol
from ccvid.retrieval.ranking.quick_scores import row_groups
from ccvid.retrieval.ranking.single_shot import Spread
from ccvid.retrieval.thresholds.verification import VerificationPairs, impostor_blocks
from data_tools.errors import InputError

FPIRS = (0.01, 0.1)
RANKS = (1, 20)
BEST_BYTES = 2**26
"""Memory for what is known of queries and persons: a score of each of the queries' persons, a byte of all others."""
ROWS_TOGETHER = 64
"""Queries whose bits become numbers at a time."""


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


@dataclass(frozen=True, slots=True)
class _Others:
    """What some queries find in a part of the gallery among other persons.

    ``best_QA``: the best score of each of the queries' A persons; ``best_Q``: of all others, who are always enrolled.
    ``before_QB``: whether each of P persons scores at least the mate, as bits; none where there is no mate.
    """

    best_QA: Scores
    best_Q: Scores
    before_QB: npt.NDArray[np.uint8]

    def merged(self, other: _Others) -> _Others:
        """In both parts."""
        return _Others(
            np.maximum(self.best_QA, other.best_QA),
            np.maximum(self.best_Q, other.best_Q),
            self.before_QB | other.before_QB,
        )


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
    """Identification rates; takes a pass over the distances for every ``BEST_BYTES`` of queries × persons.

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
    asked_A = np.unique(pairs.query_person_Q)
    for rows, found in _in_gallery(pairs, asked_A, np.where(mate_Q > -np.inf, mate_Q, np.inf)):
        rank_NQ[:, rows] = 1 + _persons_before(found.before_QB, enrolled_NP)
        for number, enrolled_A in enumerate(enrolled_NP[:, asked_A]):
            best_R = found.best_QA.max(axis=1, where=enrolled_A, initial=-np.inf)
            best_wrong_NQ[number, rows] = np.maximum(best_R, found.best_Q)
    is_mated_NQ = enrolled_NP[:, pairs.query_person_Q] & (mate_Q > -np.inf)
    return _Searches(is_mated_NQ, best_wrong_NQ, mate_Q, rank_NQ)


def _in_gallery(pairs: VerificationPairs, asked_A: Indices, mate_Q: Scores) -> Iterator[tuple[slice, _Others]]:
    """What the queries find in the whole gallery, some queries at a time."""
    queries, entries = pairs.distances.shape
    together = max(1, BEST_BYTES // (8 * len(asked_A) + pairs.persons))
    for start in range(0, queries, together):
        rows = slice(start, min(start + together, queries))
        distances = pairs.distances
        if together < queries:
            distances = distances.take(np.arange(queries)[rows], np.arange(entries))
        look = partial(
            _look,
            query_person_Q=pairs.query_person_Q[rows],
            gallery_person_G=pairs.gallery_person_G,
            persons=pairs.persons,
            asked_A=asked_A,
            mate_Q=mate_Q[rows],
        )
        yield rows, distances.fold(look, _Others.merged)


def _look(
    part: GalleryPart,
    query_person_Q: Indices,
    gallery_person_G: Indices,
    persons: int,
    asked_A: Indices,
    mate_Q: Scores,
) -> _Others:
    best_QA, best_Q = np.full((len(mate_Q), len(asked_A)), -np.inf), np.full(len(mate_Q), -np.inf)
    before_QP = np.zeros((len(mate_Q), persons), np.bool_)
    person_N = gallery_person_G[part.entry_N]
    for query_start, gallery_start, score_QB in impostor_blocks(part, query_person_Q, gallery_person_G):
        queries = slice(query_start, query_start + len(score_QB))
        person_B = person_N[gallery_start : gallery_start + score_QB.shape[1]]
        by_person = np.argsort(person_B, kind="stable")
        found_U, first = np.unique(person_B[by_person], return_index=True)
        best_QU = np.maximum.reduceat(score_QB[:, by_person], first, axis=1)
        before_QP[queries, found_U] |= best_QU >= mate_Q[queries, None]
        is_asked_U = np.isin(found_U, asked_A)
        asked = queries, np.searchsorted(asked_A, found_U[is_asked_U])
        best_QA[asked] = np.maximum(best_QA[asked], best_QU[:, is_asked_U])
        best_Q[queries] = np.maximum(best_Q[queries], best_QU[:, ~is_asked_U].max(axis=1, initial=-np.inf))
    return _Others(best_QA, best_Q, np.packbits(before_QP, axis=1))


def _persons_before(before_QB: npt.NDArray[np.uint8], enrolled_NP: npt.NDArray[np.bool_]) -> Indices:
    """(N, Q): how many enrolled persons come before the mate."""
    persons = enrolled_NP.shape[1]
    weight_NP, counts = enrolled_NP.astype(np.float64), []
    for rows in row_groups(range(len(before_QB)), ROWS_TOGETHER):
        before_QP = np.unpackbits(before_QB[rows.start : rows.stop], axis=1, count=persons)
        counts.append(weight_NP @ before_QP.T.astype(np.float64))
    return np.concatenate(counts, axis=1).astype(np.int64)


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
