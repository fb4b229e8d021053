"""A threshold for a false-match rate that the user names, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccvid.retrieval.distances import Floats
from ccvid.retrieval.verification import PairScores
from data_tools.errors import InputError

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Percentiles of a bootstrap, that of 95 %."""

    low: float
    high: float

    @classmethod
    def of(cls, drawn_N: Floats) -> Interval:
        low, high = np.quantile(drawn_N, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return cls(float(low), float(high))

    def to_json(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True, slots=True)
class RecommendedThreshold:
    """Take a pair for one person where its score is at least ``threshold``.

    ``false_accept_rate`` and ``true_accept_rate`` are those found at it; each interval is over draws of persons.
    ``threshold_interval`` tells where the threshold itself would fall with other people.
    """

    wanted_rate: float
    threshold: float
    false_accept_rate: float
    true_accept_rate: float
    threshold_interval: Interval
    false_accept_interval: Interval
    true_accept_interval: Interval
    persons: int

    def to_json(self) -> dict[str, object]:
        return {
            "wanted_far": self.wanted_rate,
            "threshold": self.threshold,
            "threshold_interval": self.threshold_interval.to_json(),
            "far": self.false_accept_rate,
            "far_interval": self.false_accept_interval.to_json(),
            "tar": self.true_accept_rate,
            "tar_interval": self.true_accept_interval.to_json(),
            "persons": self.persons,
        }


def recommend_threshold(pairs: PairScores, rate: float, *, draws: int = 1000, seed: int = 0) -> RecommendedThreshold:
    """The lowest threshold whose false-match rate is at most ``rate``.

    Persons are drawn with replacement, for pairs that share a person are not independent: an impostor pair counts as
    often as the product of its two persons' draws, a genuine pair as often as its person.

    Args:
        rate: false-match rate in (0, 1).

    Raises:
        InputError: too few impostor pairs to tell such a rate from 0, or more than were kept.
    """
    score_N, total = pairs.tail.score_N, pairs.impostors
    if rate * total < 1:
        raise InputError(
            f"a false-match rate of {rate:g} needs {int(np.ceil(1 / rate)):,} impostor pairs, and there are {total:,}"
        )
    allowed = int(rate * total)  # so many impostors may reach the threshold
    if allowed >= len(score_N):
        raise InputError(
            f"a false-match rate of {rate:g} lets {allowed:,} of {total:,} impostor pairs through, "
            f"and the highest {len(score_N):,} were kept; ask for a lower rate"
        )
    threshold = float(np.nextafter(score_N[allowed], np.inf))
    reaching = int(np.count_nonzero(score_N >= threshold))
    known = np.flatnonzero(pairs.query_P + pairs.gallery_P)
    drawn_thresholds, far, tar = (np.empty(draws) for _ in range(3))
    chance = np.random.Generator(np.random.PCG64(seed))
    for draw in range(draws):
        count_P = np.zeros(len(pairs.query_P))
        count_P[known] = chance.multinomial(len(known), np.full(len(known), 1 / len(known)))
        weight_N = count_P[pairs.tail.person_N2[:, 0]] * count_P[pairs.tail.person_N2[:, 1]]
        both = (count_P @ pairs.query_P) * (count_P @ pairs.gallery_P)
        impostors = both - (count_P**2) @ (pairs.query_P * pairs.gallery_P)
        reached_N = np.cumsum(weight_N)
        first = int(np.searchsorted(reached_N, rate * impostors, side="right"))
        drawn_thresholds[draw] = score_N[min(first, len(score_N) - 1)]
        far[draw] = reached_N[reaching - 1] / impostors if reaching and impostors else 0.0
        weight_M = count_P[pairs.genuine_person_M]
        accepted = weight_M @ (pairs.genuine_M >= threshold)
        tar[draw] = accepted / weight_M.sum() if weight_M.any() else np.nan
    return RecommendedThreshold(
        wanted_rate=rate,
        threshold=threshold,
        false_accept_rate=reaching / total,
        true_accept_rate=float(np.mean(pairs.genuine_M >= threshold)),
        threshold_interval=Interval.of(drawn_thresholds),
        false_accept_interval=Interval.of(far),
        true_accept_interval=Interval.of(tar[~np.isnan(tar)]),
        persons=len(known),
    )
