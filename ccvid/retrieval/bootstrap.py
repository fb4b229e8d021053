"""How sure a figure is: the bootstrap over identities.

The tracklets of one person are not independent, so persons are drawn, with replacement and each with all its
tracklets: a query counts as often as its person was drawn, a pair of tracklets as often as the product of its two
persons' draws (Bolle, Ratha and Pankanti, CVIU 2004, draw subsets for the same reason). Intervals are percentiles.
Draws come from NumPy's PCG64 with a seed; nothing is compared again, only counted with other weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.distances import Floats, Indices
from ccvid.retrieval.metrics import CMC_RANKS, ProtocolResult
from ccvid.retrieval.verification import Scores, Verification, VerificationPairs, impostor_blocks
from data_tools.errors import InputError

DRAWS = 1000
LEVEL = 0.95
COUNT_BYTES = 2**26
"""Of the counts by pair of persons that are held at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and where it falls in ``LEVEL`` of the draws."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn_N: Floats) -> Interval:
        """Draws that say nothing (NaN) are left out."""
        low, high = np.nanquantile(drawn_N, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return cls(value, float(low), float(high))

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class ResultIntervals:
    """mAP, mINP and CMC of one protocol; ``persons`` are those of the queries that have a match."""

    mean_average_precision: Interval
    mean_inverse_negative_penalty: Interval
    cmc: Mapping[int, Interval]
    persons: int
    draws: int

    def to_json(self) -> dict[str, object]:
        return {
            "map": self.mean_average_precision.to_json(),
            "minp": self.mean_inverse_negative_penalty.to_json(),
            "cmc": {str(rank): interval.to_json() for rank, interval in self.cmc.items()},
            "persons": self.persons,
            "draws": self.draws,
            "level": LEVEL,
        }


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Second figure minus first, of the same queries in the same draws.

    ``p_value`` is two-sided: twice the share of draws on the other side of 0, at least 2 / (draws + 1).
    """

    first: float
    second: float
    difference: Interval
    p_value: float

    def to_json(self) -> dict[str, object]:
        difference = self.difference.to_json()
        return {"first": self.first, "second": self.second, "difference": difference, "p_value": self.p_value}


@dataclass(frozen=True, slots=True)
class RecommendedThreshold:
    """Take two tracklets for one person where their score is at least ``threshold``.

    The interval of ``threshold`` says where it would fall with other people; those of ``far`` and ``tar``, what this
    threshold would do among them. Where the pairs are too few for the rate, all three are None, and ``reason`` says so.
    """

    asked_far: float
    persons: int
    draws: int
    threshold: Interval | None = None
    far: Interval | None = None
    tar: Interval | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        figures = {"threshold": self.threshold, "far": self.far, "tar": self.tar}
        return {
            "asked_far": self.asked_far,
            **{name: None if interval is None else interval.to_json() for name, interval in figures.items()},
            "reason": self.reason,
            "persons": self.persons,
            "draws": self.draws,
            "level": LEVEL,
        }


def draw_persons(persons: int, draws: int = DRAWS, seed: int = 0) -> Indices:
    """How often each of so many persons is drawn, (draws, persons); each row sums to ``persons``."""
    return np.random.Generator(np.random.PCG64(seed)).multinomial(persons, np.full(persons, 1 / persons), draws)


def result_intervals(
    result: ProtocolResult, person: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> ResultIntervals:
    """Intervals of one protocol's figures; ``person`` (Q,) are the queries' persons. Memory: draws × persons counts."""
    columns = (
        result.average_precision_Q,
        result.inverse_negative_penalty_Q,
        *(result.first_match_rank_Q <= rank for rank in CMC_RANKS),
    )
    value_QF = np.stack(columns, axis=1)[result.has_match].astype(np.float64)
    code_Q, persons = _codes(np.asarray(person)[result.has_match])
    drawn_NF = _means(value_QF, code_Q, draw_persons(persons, draws, seed))
    values = (
        result.mean_average_precision,
        result.mean_inverse_negative_penalty,
        *(result.cmc(rank) for rank in CMC_RANKS),
    )
    precision, penalty, *cmc = (Interval.of(*figure) for figure in zip(values, drawn_NF.T, strict=True))
    return ResultIntervals(precision, penalty, dict(zip(CMC_RANKS, cmc, strict=True)), persons, draws)


def paired_difference(
    first_Q: Floats, second_Q: Floats, person: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> PairedDifference:
    """Compare a figure of the same Q queries under two models; ``person`` (Q,) are the queries' persons."""
    code_Q, persons = _codes(np.asarray(person))
    change_Q = second_Q - first_Q
    drawn_N = _means(change_Q[:, None], code_Q, draw_persons(persons, draws, seed))[:, 0]
    side = min(np.count_nonzero(drawn_N <= 0), np.count_nonzero(drawn_N >= 0))
    return PairedDifference(
        first=float(first_Q.mean()),
        second=float(second_Q.mean()),
        difference=Interval.of(float(change_Q.mean()), drawn_N),
        p_value=min(1.0, 2 * (side + 1) / (draws + 1)),
    )


def recommend_threshold(
    pairs: VerificationPairs, verification: Verification, far: float, *, draws: int = DRAWS, seed: int = 0
) -> RecommendedThreshold:
    """The lowest threshold of ``verification`` (of these pairs) with a FAR of at most ``far``, and how sure it is.

    The threshold's interval is read off a ladder of thresholds: fine to 4 % of the FAR near the one asked for, coarser
    beyond, up to 64 times that. One more pass over the distances for every ``COUNT_BYTES`` of counts, 4 bytes each, by
    rung and pair of persons; the same result whatever the blocks. Few persons give an interval that is too narrow.

    Raises:
        InputError: ``far`` outside (0, 1).
    """
    point = verification.operating_point(far)
    count_NP = draw_persons(pairs.persons, draws, seed)
    if point.threshold is None or point.far is None or point.tar is None:
        return RecommendedThreshold(far, pairs.persons, draws, reason=point.reason)
    rung_T = threshold_ladder(verification, far)
    query_P, gallery_P = (
        np.bincount(side, minlength=pairs.persons) for side in (pairs.query_person_Q, pairs.gallery_person_G)
    )
    impostors_N = (count_NP @ query_P) * (count_NP @ gallery_P) - count_NP**2 @ (query_P * gallery_P)
    person_G, accepted_G = pairs.query_person_Q[pairs.genuine_query_P], pairs.genuine_scores() >= point.threshold
    genuine_P, accepted_P = (np.bincount(person_G, weights, pairs.persons) for weights in (None, accepted_G))
    with np.errstate(invalid="ignore"):  # a draw of one person over and over has no impostors, another nothing genuine
        far_NT = weighted_impostors(pairs, rung_T, count_NP) / impostors_N[:, None]
        tar_N = (count_NP @ accepted_P) / (count_NP @ genuine_P)
    threshold_N = np.where(impostors_N > 0, rung_T[np.argmax(far_NT <= far, axis=1)], np.nan)
    return RecommendedThreshold(
        far,
        pairs.persons,
        draws,
        threshold=Interval.of(point.threshold, threshold_N),
        far=Interval.of(point.far, far_NT[:, np.searchsorted(rung_T, point.threshold)]),
        tar=Interval.of(point.tar, tar_N),
    )


def threshold_ladder(verification: Verification, far: float) -> Scores:
    """Thresholds, rising, around that of a FAR: the recommended one and the highest of all among them."""
    doublings = np.log2(far * verification.impostors)
    near, beyond = np.arange(-48, 49) / 16, np.concatenate((np.arange(-doublings, -3, 0.5), np.arange(3, 6.5, 0.5)))
    level_L = far * 2 ** np.concatenate((near, beyond))
    place_L = np.searchsorted(-verification.far, -level_L, side="left")  # the lowest threshold with at most that FAR
    rung_T: Scores = verification.threshold_T[np.unique(np.append(place_L, len(verification.far) - 1))]
    return rung_T


def weighted_impostors(pairs: VerificationPairs, threshold_T: Scores, count_NP: Indices) -> Scores:
    """(N, T): how many impostor pairs reach each threshold (rising) if persons count so often, (N draws, P persons)."""
    persons, rungs = pairs.persons, len(threshold_T)
    together = max(1, COUNT_BYTES // (4 * rungs * persons))
    accepted_TN = np.zeros((rungs, len(count_NP)))
    weight_PN = count_NP.T.astype(np.float64)
    asked = np.unique(pairs.query_person_Q)
    for start in range(0, len(asked), together):
        chosen = asked[start : start + together]
        count_CTP = _impostors_by_person(pairs, threshold_T, chosen)
        for person, count_TP in zip(chosen, count_CTP, strict=True):
            accepted_TN += (count_TP @ weight_PN) * weight_PN[person]
    accepted_NT: Scores = accepted_TN.T
    return accepted_NT


def _impostors_by_person(pairs: VerificationPairs, threshold_T: Scores, chosen_C: Indices) -> npt.NDArray[np.int32]:
    """(C, T, P): pairs of a chosen person's queries and a person's gallery entries that reach each threshold."""
    count_CTP = np.zeros((len(chosen_C), len(threshold_T), pairs.persons), np.int32)
    distances, query_person_Q = pairs.distances, pairs.query_person_Q
    rows = np.flatnonzero(np.isin(query_person_Q, chosen_C))
    if len(rows) < len(query_person_Q):
        distances, query_person_Q = distances.take(rows, np.arange(distances.shape[1])), query_person_Q[rows]
    place_Q = np.searchsorted(chosen_C, query_person_Q)
    for query_start, gallery_start, score_QG in impostor_blocks(distances, query_person_Q, pairs.gallery_person_G):
        query, gallery = np.nonzero(score_QG >= threshold_T[0])
        rung = np.searchsorted(threshold_T, score_QG[query, gallery], side="right") - 1
        other = pairs.gallery_person_G[gallery_start + gallery]
        flat = np.ravel_multi_index((place_Q[query_start + query], rung, other), count_CTP.shape)
        np.add.at(count_CTP.reshape(-1), flat, 1)
    reached: npt.NDArray[np.int32] = np.cumsum(count_CTP[:, ::-1], axis=1, dtype=np.int32)[:, ::-1]
    return reached


def _codes(label_Q: npt.NDArray[np.str_]) -> tuple[Indices, int]:
    if not len(label_Q):
        raise InputError("no query has a match: there is nothing to draw from")
    names, code_Q = np.unique(label_Q, return_inverse=True)
    return code_Q, len(names)


def _means(value_QF: Scores, code_Q: Indices, count_NP: Indices) -> Scores:
    """(N, F): the mean of each figure over the queries, each as often as its person was drawn."""
    sum_PF = np.stack([np.bincount(code_Q, weights=value_Q) for value_Q in value_QF.T], axis=1)
    means: Scores = (count_NP @ sum_PF) / (count_NP @ np.bincount(code_Q))[:, None]
    return means
