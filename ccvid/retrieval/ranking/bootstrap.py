"""Confidence intervals by bootstrap over identities.

Tracklets of one person are not independent, so whole persons are drawn, with replacement: a query counts as often as
its person was drawn, a pair of tracklets as often as the product of its two persons' counts (Bolle, Ratha and
Pankanti, CVIU 2004, draw subsets for the same reason). Intervals are percentiles. Draws come from NumPy's PCG64 with a
seed; no distance is computed again, only weights change.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Floats, Indices, Scores
from ccvid.retrieval.ranking.metrics import CMC_RANKS, ProtocolResult
from data_tools.errors import InputError

DRAWS = 1000
LEVEL = 0.95

Counts = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the range that holds ``LEVEL`` of its draws."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn_N: Floats) -> Interval:
        """From draws of the value; undefined draws (NaN) are left out."""
        low, high = np.nanquantile(drawn_N, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return cls(value, float(low), float(high))

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class ResultIntervals:
    """Intervals of one protocol's mAP, mINP and CMC; ``persons`` counts the persons of queries that have a match."""

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
    """Second value minus first, for the same queries and the same draws.

    ``p_value`` is two-sided: twice the share of draws on the other side of 0, at least 2 / (draws + 1).
    """

    first: float
    second: float
    difference: Interval
    p_value: float

    def to_json(self) -> dict[str, object]:
        difference = self.difference.to_json()
        return {"first": self.first, "second": self.second, "difference": difference, "p_value": self.p_value}


def draw_persons(persons: int, draws: int = DRAWS, seed: int = 0) -> Counts:
    """How often each person is drawn, (draws, persons); each row sums to ``persons``.

    Of the smallest unsigned type that holds ``persons``, because with many it is the largest array of all.
    """
    chance, share_P = np.random.Generator(np.random.PCG64(seed)), np.full(persons, 1 / persons)
    count_NP = np.empty((draws, persons), np.min_scalar_type(persons))
    for count_P in count_NP:
        count_P[:] = chance.multinomial(persons, share_P)
    return count_NP


def result_intervals(
    result: ProtocolResult, person: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> ResultIntervals:
    """Intervals of one protocol's metrics; ``person`` (Q,) are the queries' persons. Memory: draws × persons counts."""
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
    """Compare a metric of the same Q queries under two models; ``person`` (Q,) are the queries' persons."""
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


def group_difference(
    value_N: Floats, is_member_N: npt.NDArray[np.bool_], person: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The members' mean minus the mean of the rest; ``person`` (N,) are the values' persons, who may be in both.

    Raises:
        InputError: one of the two groups is empty.
    """
    if not 0 < np.count_nonzero(is_member_N) < len(value_N):
        raise InputError("a difference of two groups needs values in both")
    code_N, persons = _codes(np.asarray(person))
    count_NP = draw_persons(persons, draws, seed)
    with np.errstate(invalid="ignore"):  # NaN where nobody of a group was drawn
        rest, members = (
            _means(value_N[chosen_N, None].astype(np.float64), code_N[chosen_N], count_NP)[:, 0]
            for chosen_N in (~is_member_N, is_member_N)
        )
    own, other = (statistics.fmean(value_N[chosen_N].tolist()) for chosen_N in (is_member_N, ~is_member_N))
    return Interval.of(own - other, members - rest)


def _codes(label_Q: npt.NDArray[np.str_]) -> tuple[Indices, int]:
    if not len(label_Q):
        raise InputError("no query has a match, so there is nothing to draw from")
    names, code_Q = np.unique(label_Q, return_inverse=True)
    return code_Q, len(names)


def _means(value_QF: Scores, code_Q: Indices, count_NP: Counts) -> Scores:
    """(N, F): the mean of each metric over the queries, weighted by how often their persons were drawn."""
    persons = count_NP.shape[1]
    sum_PF = np.stack([np.bincount(code_Q, value_Q, persons) for value_Q in value_QF.T], axis=1)
    means: Scores = (count_NP @ sum_PF) / (count_NP @ np.bincount(code_Q, minlength=persons))[:, None]
    return means
