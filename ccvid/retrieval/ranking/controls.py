"""Two embedders whose figures are known beforehand, scored by the same code as any model: a check of the evaluator.

    oracle    a direction of its own for each person: 100 % in every protocol
    random    a random direction for each tracklet: a random order, so top-1 at chance

Both are made from labels and counts, beside the models: no model sees a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.config import ScoreOptions
from ccvid.retrieval.ranking.distances import CosineDistances, Floats
from ccvid.retrieval.ranking.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.ranking.metrics import ProtocolResult
from ccvid.retrieval.ranking.scoring import ScoredRetrieval, score

SIZE = 256
"""Features of both; enough that the directions of two persons are never close."""
LEVEL = 0.999
"""Of the interval in which the random embedder's top-1 must lie."""

Directions = npt.NDArray[np.float32]


def oracle_distances(query: RetrievalLabels, gallery: RetrievalLabels) -> CosineDistances:
    """Distances that are 0 within a person and large between two."""
    person_Q, person_G = joint_codes(query.person, gallery.person)
    direction_PD = _directions(max(person_Q.max(), person_G.max()) + 1, seed=0)
    return CosineDistances(direction_PD[person_Q], direction_PD[person_G])


def random_distances(query: RetrievalLabels, gallery: RetrievalLabels) -> CosineDistances:
    """Distances of random directions, the same for the same numbers of queries and gallery entries."""
    direction_ND = _directions(len(query) + len(gallery), seed=1)
    return CosineDistances(direction_ND[: len(query)], direction_ND[len(query) :])


@dataclass(frozen=True, slots=True)
class Controls:
    """The two as they were scored; without ``problems`` the evaluator can be trusted."""

    oracle: ScoredRetrieval
    random: ScoredRetrieval

    @property
    def problems(self) -> list[str]:
        """A sentence for each figure that is not as it must be."""
        oracle, random = (control.evaluation.results.values() for control in (self.oracle, self.random))
        perfect = [problem for result in oracle if (problem := oracle_problem(result))]
        chance = [problem for result in random if (problem := random_problem(result))]
        return perfect + chance


def score_controls(query: RetrievalLabels, gallery: RetrievalLabels, options: ScoreOptions) -> Controls:
    """Score both on the labels of a retrieval.

    Raises:
        InputError: as ``score``.
    """
    options = options.model_copy(update={"single_shot_draws": 0})
    made = (oracle_distances(query, gallery), random_distances(query, gallery))
    return Controls(*(score(distances, query, gallery, options) for distances in made))


def oracle_problem(result: ProtocolResult) -> str | None:
    """What is wrong with the oracle's result: every query that has a match must have average precision 1."""
    value = result.mean_average_precision
    if value == 1 and result.cmc(1) == 1:
        return None
    return (
        f"{_shown(result)}: the perfect oracle has mAP {100 * value:.4f} % and top-1 {100 * result.cmc(1):.4f} %, "
        "expected 100 %"
    )


def random_problem(result: ProtocolResult) -> str | None:
    """What is wrong with the random embedder's result: top-1 must lie in ``chance_interval``."""
    low, high = chance_interval(result.chance_Q[result.has_match])
    if low <= (value := result.cmc(1)) <= high:
        return None
    return (
        f"{_shown(result)}: the random embedder has top-1 {100 * value:.2f} %, expected {100 * result.chance:.2f} % by "
        f"chance, and {100 * low:.2f} to {100 * high:.2f} % with a probability of {100 * LEVEL:g} %"
    )


def chance_interval(chance_Q: Floats) -> tuple[float, float]:
    """The shares between which top-1 of a random order lies with probability ``LEVEL`` at least.

    The number of hits of Q queries, each with a probability of its own (Q,), has a Poisson binomial distribution; it is
    added up query by query.
    """
    chance_K = np.ones(1)
    for chance in np.asarray(chance_Q, np.float64):
        grown_K = np.zeros(min(len(chance_K) + 1, len(chance_Q) + 1))
        grown_K[: len(chance_K)] = chance_K * (1 - chance)
        grown_K[1:] += chance_K * chance
        chance_K = grown_K
    below_K, tail = np.cumsum(chance_K), (1 - LEVEL) / 2
    low, high = np.searchsorted(below_K, (tail, 1 - tail), side="right")
    return low / len(chance_Q), min(int(high), len(chance_Q)) / len(chance_Q)


def _directions(count: int, *, seed: int) -> Directions:
    """Random directions (count, SIZE)."""
    random = np.random.Generator(np.random.PCG64(seed))
    return random.standard_normal((count, SIZE), np.float32)


def _shown(result: ProtocolResult) -> str:
    return result.protocol.name.replace("_", "-")
