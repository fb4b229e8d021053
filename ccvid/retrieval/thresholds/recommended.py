"""The threshold for a given false accept rate, with intervals by bootstrap over identities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.bootstrap import DRAWS, LEVEL, Interval, draw_persons
from ccvid.retrieval.ranking.distances import Indices, Scores
from ccvid.retrieval.thresholds.verification import Verification, VerificationPairs, impostor_blocks

COUNT_BYTES = 2**26
"""Memory for counts by pair of persons."""


@dataclass(frozen=True, slots=True)
class RecommendedThreshold:
    """Two tracklets match if their score is at least ``threshold``.

    The interval of ``threshold`` says where it could be with other people; those of ``far`` and ``tar``, which rates
    this threshold could have with them. If the pairs are too few, all three are None, and ``reason`` says so.
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


def recommend_threshold(
    pairs: VerificationPairs, verification: Verification, far: float, *, draws: int = DRAWS, seed: int = 0
) -> RecommendedThreshold:
    """The lowest threshold of ``verification`` (of these pairs) with a FAR of at most ``far``, with intervals.

    The threshold's interval is read off a ladder of thresholds, in steps of 4 % of the FAR near ``far`` and coarser
    ones up to 64 times ``far``. Takes one more pass over the distances for every ``COUNT_BYTES`` of counts, 4 bytes
    each, by rung and pair of persons; the result does not depend on the blocks. With few persons the interval is too
    narrow.

    Raises:
        InputError: ``far`` is outside (0, 1).
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
    with np.errstate(invalid="ignore"):  # a draw of a single person has no impostor pairs, others no genuine ones
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
    """Increasing thresholds around that of a FAR, including the recommended one and the highest of all."""
    doublings = np.log2(far * verification.impostors)
    near, beyond = np.arange(-48, 49) / 16, np.concatenate((np.arange(-doublings, -3, 0.5), np.arange(3, 6.5, 0.5)))
    level_L = far * 2 ** np.concatenate((near, beyond))
    place_L = np.searchsorted(-verification.far, -level_L, side="left")  # the lowest threshold with at most that FAR
    rung_T: Scores = verification.threshold_T[np.unique(np.append(place_L, len(verification.far) - 1))]
    return rung_T


def weighted_impostors(pairs: VerificationPairs, threshold_T: Scores, count_NP: Indices) -> Scores:
    """(N, T): impostor pairs that reach each increasing threshold, with persons weighted by (N draws, P persons)."""
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
    """(C, T, P): pairs of a chosen person's query and a person's gallery entry that reach each threshold."""
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
