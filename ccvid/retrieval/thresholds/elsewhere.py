"""What a threshold's false accept rate (FAR) may be on other cameras, with other people.

Pairs that share a camera or a person are not independent, so both are drawn, with replacement: a pair counts as often
as the product of its two cameras' counts, or of its two persons' (compare Owen, The pigeonhole bootstrap, Annals of
Applied Statistics 2007). The variances of both add up, on the scale of the rate's log odds, where they hardly depend on
the rate. Another set of as many cameras and people strays from the true rate as far as this one does, hence twice the
variances. Those of few cameras or people are themselves uncertain, hence Student's t for each; with C cameras, C / (C −
1) times the variance of the draws. So two cameras give an interval that says little, and one gives none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp
from scipy.special import expit, logit, stdtrit

from ccvid.retrieval.ranking.bootstrap import LEVEL, Interval, draw_persons
from ccvid.retrieval.ranking.distances import Indices, Scores
from ccvid.retrieval.thresholds.verification import BlockWork, ImpostorBlock, VerificationPairs, sums_over_impostors


@dataclass(frozen=True, slots=True)
class RatesByCamera:
    """Impostor pairs, and those that reach a threshold, by the query's and the entry's camera, (C, C)."""

    impostors_CC: Indices
    accepted_CC: Indices

    @classmethod
    def of(cls, pairs: VerificationPairs, threshold: float) -> RatesByCamera:
        """In one pass over the distances."""
        return cls(_impostors(pairs), *sums_over_impostors(pairs, [accepted_by_camera(pairs, threshold)]))

    @classmethod
    def counted(cls, pairs: VerificationPairs, accepted_CC: Indices) -> RatesByCamera:
        """From the sum of ``accepted_by_camera``."""
        return cls(_impostors(pairs), accepted_CC)

    @property
    def cameras(self) -> int:
        """How many have a pair."""
        return int(np.count_nonzero(self.impostors_CC.sum(axis=0) + self.impostors_CC.sum(axis=1)))


def far_elsewhere(
    rates: RatesByCamera, person_far_N: Scores, persons: int, *, draws: int, seed: int = 0
) -> Interval | None:
    """The FAR here, and the interval that holds that of another set of as many cameras and people.

    Args:
        person_far_N: the FAR in draws of ``persons`` persons (N,); NaN without an impostor pair.

    Returns:
        None if there are fewer than two cameras or persons.
    """
    if rates.cameras < 2 or persons < 2:
        return None
    accepted_CC, impostors_CC = rates.accepted_CC.astype(np.float64), rates.impostors_CC.astype(np.float64)
    count_NC = draw_persons(len(accepted_CC), draws, seed).astype(np.float64)
    accepted_N, impostors_N = (
        np.einsum("nc,nc->n", count_NC @ table_CC, count_NC) for table_CC in (accepted_CC, impostors_CC)
    )
    pairs = impostors_CC.sum()
    camera_N = _log_odds(accepted_N, impostors_N)[impostors_N > 0]
    person_N = _log_odds(person_far_N[~np.isnan(person_far_N)] * pairs, pairs)
    camera_variance = camera_N.var() * rates.cameras / (rates.cameras - 1)
    parts = (camera_variance, rates.cameras), (person_N.var(), persons)
    reach = np.sqrt(sum(2 * variance * stdtrit(units - 1, (1 + LEVEL) / 2) ** 2 for variance, units in parts))
    middle = _log_odds(accepted_CC.sum(), pairs)
    rate = accepted_CC.sum() / pairs
    return Interval(float(rate), float(min(rate, expit(middle - reach))), float(max(rate, expit(middle + reach))))


def _log_odds(accepted: Scores, impostors: Scores | float) -> Scores:
    """With half a pair more on both sides, so that a rate of 0 has odds."""
    odds: Scores = logit((accepted + 0.5) / (impostors + 1.0))
    return odds


def accepted_by_camera(pairs: VerificationPairs, threshold: float) -> BlockWork:
    """Counts (C, C) impostor pairs that reach the threshold, for ``sums_over_impostors``."""
    cameras = pairs.query_camera_Q, pairs.gallery_camera_G, pairs.cameras
    return partial(_accepted, cameras=cameras, threshold=threshold)


def _accepted(block: ImpostorBlock, cameras: tuple[Indices, Indices, int], threshold: float) -> Indices:
    query_camera_Q, gallery_camera_G, count = cameras
    query, entry = np.nonzero(block.score_QN >= threshold)
    code = query_camera_Q[block.query_start + query] * count + gallery_camera_G[block.entry_N[entry]]
    return np.bincount(code, minlength=count**2).reshape(count, count)


def _impostors(pairs: VerificationPairs) -> Indices:
    """(C, C): all pairs of the cameras, without those of one person."""
    sides = (pairs.query_person_Q, pairs.query_camera_Q), (pairs.gallery_person_G, pairs.gallery_camera_G)
    query_PC, gallery_PC = (
        sp.coo_array((np.ones(len(person), np.int64), (person, camera)), (pairs.persons, pairs.cameras)).tocsr()
        for person, camera in sides
    )
    every_CC = np.outer(query_PC.sum(axis=0), gallery_PC.sum(axis=0))
    impostors_CC: Indices = every_CC - (query_PC.T @ gallery_PC).toarray()
    return impostors_CC
