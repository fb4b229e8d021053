"""The threshold for a given false accept rate, with intervals by bootstrap over identities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ccvid.retrieval.ranking.bootstrap import DRAWS, LEVEL, Counts, Interval, draw_persons
from ccvid.retrieval.ranking.distances import Indices, Scores
from ccvid.retrieval.ranking.quick_scores import row_groups
from ccvid.retrieval.thresholds.elsewhere import RatesByCamera, accepted_by_camera, far_elsewhere
from ccvid.retrieval.thresholds.verification import (
    BlockWork,
    ImpostorBlock,
    OperatingPoint,
    Verification,
    VerificationPairs,
    sums_over_impostors,
)

LIKELY = 4
"""No draw's threshold is likely to let through so many times the asked false accepts."""
DRAWS_TOGETHER = 64
"""Draws whose counts are taken at a time: they fit a core's cache."""


@dataclass(frozen=True, slots=True)
class RecommendedThreshold:
    """Two tracklets match if their score is at least ``threshold``.

    The interval of ``threshold`` says where it could be with other people; those of ``far`` and ``tar``, which rates
    this threshold could have with them; that of ``far_elsewhere``, which FAR on as many other cameras, too (None with
    one camera). If the pairs are too few, all are None, and ``reason`` says so.
    """

    asked_far: float
    persons: int
    draws: int
    threshold: Interval | None = None
    far: Interval | None = None
    tar: Interval | None = None
    far_elsewhere: Interval | None = None
    cameras: int | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, object]:
        figures = {"threshold": self.threshold, "far": self.far, "tar": self.tar, "far_elsewhere": self.far_elsewhere}
        return {
            "asked_far": self.asked_far,
            **{name: None if interval is None else interval.to_json() for name, interval in figures.items()},
            "reason": self.reason,
            "persons": self.persons,
            "cameras": self.cameras,
            "draws": self.draws,
            "level": LEVEL,
        }


def recommend_threshold(
    pairs: VerificationPairs, verification: Verification, far: float, *, draws: int = DRAWS, seed: int = 0
) -> RecommendedThreshold:
    """The lowest threshold of ``verification`` (of these pairs) with a FAR of at most ``far``, with intervals.

    The threshold's interval is read off a ladder of thresholds, in steps of 4 % of the FAR near ``far`` and coarser
    ones up to 64 times ``far``. Takes one more pass over the distances, or two if a draw's threshold lies far below;
    the result does not depend on the blocks, nor on the parts of the gallery. With few persons the interval is too
    narrow. Memory: 2 bytes per draw and person, and a few numbers per draw and rung.

    Raises:
        InputError: ``far`` is outside (0, 1).
    """
    point = verification.operating_point(far)
    if point.threshold is None or point.far is None or point.tar is None:
        return RecommendedThreshold(far, pairs.persons, draws, reason=point.reason)
    count_NP = draw_persons(pairs.persons, draws, seed)
    rung_T, far_NT, accepted_CC = _far_by_draw(pairs, verification, point, count_NP)
    person_G, accepted_G = pairs.query_person_Q[pairs.genuine_query_P], pairs.genuine_scores() >= point.threshold
    genuine_P, accepted_P = (np.bincount(person_G, weights, pairs.persons) for weights in (None, accepted_G))
    with np.errstate(invalid="ignore"):  # a draw may have no genuine pairs
        tar_N = by_draw(count_NP, lambda count: count @ accepted_P) / by_draw(count_NP, lambda count: count @ genuine_P)
    has_impostors_N = ~np.isnan(far_NT[:, 0])
    threshold_N = np.where(has_impostors_N, rung_T[np.argmax(far_NT <= far, axis=1)], np.nan)
    far_N = far_NT[:, np.searchsorted(rung_T, point.threshold)]
    by_camera = RatesByCamera.counted(pairs, accepted_CC)
    return RecommendedThreshold(
        far,
        pairs.persons,
        draws,
        threshold=Interval.of(point.threshold, threshold_N),
        far=Interval.of(point.far, far_N),
        tar=Interval.of(point.tar, tar_N),
        far_elsewhere=far_elsewhere(by_camera, far_N, pairs.persons, draws=draws, seed=seed),
        cameras=by_camera.cameras,
    )


def _far_by_draw(
    pairs: VerificationPairs, verification: Verification, point: OperatingPoint, count_NP: Counts
) -> tuple[Scores, Scores, Indices]:
    """The upper rungs of the ladder (T,), and the FAR of each draw there (N, T), NaN without an impostor pair.

    No draw's threshold is below them: most pairs reach only the lower rungs, which are rarely needed. Also what
    ``accepted_by_camera`` counts at the point.
    """
    query_P, gallery_P = (
        np.bincount(side, minlength=pairs.persons) for side in (pairs.query_person_Q, pairs.gallery_person_G)
    )
    impostors_N = by_draw(count_NP, lambda count: (count @ query_P) * (count @ gallery_P))
    impostors_N -= by_draw(count_NP, lambda count: count**2 @ (query_P * gallery_P))
    assert point.threshold is not None
    far, by_camera = point.asked_far, accepted_by_camera(pairs, point.threshold)
    ladder = threshold_ladder(verification, far)
    far_L = verification.far[np.searchsorted(verification.threshold_T, ladder)]
    for lowest in sorted({int(np.searchsorted(-far_L, -LIKELY * far)), 0}, reverse=True):
        works = weighted_by_draw(pairs, ladder[lowest:], count_NP), by_camera
        accepted_NT, accepted_CC = sums_over_impostors(pairs, works)
        with np.errstate(invalid="ignore"):  # a draw of a single person has no impostor pairs
            far_NT = _reaching(accepted_NT) / impostors_N[:, None]
        if not (far_NT[:, 0] <= far).any():
            break
    return ladder[lowest:], far_NT, accepted_CC


def threshold_ladder(verification: Verification, far: float) -> Scores:
    """Increasing thresholds around that of a FAR, including the recommended one and the highest of all."""
    doublings = np.log2(far * verification.impostors)
    near, beyond = np.arange(-48, 49) / 16, np.concatenate((np.arange(-doublings, -3, 0.5), np.arange(3, 6.5, 0.5)))
    level_L = far * 2 ** np.concatenate((near, beyond))
    place_L = np.searchsorted(-verification.far, -level_L, side="left")  # the lowest threshold with at most that FAR
    rung_T: Scores = verification.threshold_T[np.unique(np.append(place_L, len(verification.far) - 1))]
    return rung_T


def weighted_impostors(pairs: VerificationPairs, threshold_T: Scores, count_NP: Counts) -> Scores:
    """(N, T): impostor pairs that reach each increasing threshold, with persons weighted by (N draws, P persons).

    The sums are of whole numbers that float64 holds exactly, so that their order does not matter.
    """
    return _reaching(*sums_over_impostors(pairs, [weighted_by_draw(pairs, threshold_T, count_NP)]))


def weighted_by_draw(pairs: VerificationPairs, threshold_T: Scores, count_NP: Counts) -> BlockWork:
    """Counts those that reach a threshold, but not the next; see ``weighted_impostors``."""
    persons = pairs.query_person_Q, pairs.gallery_person_G
    count_NP = count_NP.astype(np.min_scalar_type(count_NP.max()))
    return partial(_weighted_impostors, persons=persons, threshold_T=threshold_T, count_NP=count_NP)


def _reaching(accepted_NT: Scores) -> Scores:
    return np.cumsum(accepted_NT[:, ::-1], axis=1)[:, ::-1]


def _weighted_impostors(
    block: ImpostorBlock, persons: tuple[Indices, Indices], threshold_T: Scores, count_NP: Counts
) -> Scores:
    accepted_NT, score_QN = np.empty((len(count_NP), len(threshold_T))), block.score_QN
    query_person_Q, gallery_person_G = persons
    query, entry = np.nonzero(score_QN >= threshold_T[0])
    rung = np.searchsorted(threshold_T, score_QN[query, entry], side="right") - 1
    others, column = np.unique(gallery_person_G[block.entry_N[entry]], return_inverse=True)
    shape = len(score_QN) * len(threshold_T), len(others)
    kind = np.float32 if score_QN.shape[1] * int(count_NP.max()) < 2**24 else np.float64  # exact
    ones = np.ones(len(query), kind)
    reached = sp.csr_array((ones, (query * len(threshold_T) + rung, column)), shape)
    asked = query_person_Q[block.query_start : block.query_start + len(score_QN)]
    for draws in row_groups(range(len(count_NP)), DRAWS_TOGETHER):
        weight_NP = count_NP[draws.start : draws.stop]
        reached_QTN = (reached @ weight_NP[:, others].T.astype(kind)).reshape(len(asked), len(threshold_T), -1)
        weighted = np.einsum("qtn,nq->nt", reached_QTN, weight_NP[:, asked], dtype=np.float64)
        accepted_NT[draws.start : draws.stop] = weighted
    return accepted_NT


def by_draw(count_NP: Counts, work: Callable[[Indices], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """``work`` of the counts of some draws at a time, in int64."""
    groups = row_groups(range(len(count_NP)), DRAWS_TOGETHER)
    return np.concatenate([work(count_NP[group.start : group.stop].astype(np.int64)) for group in groups])
