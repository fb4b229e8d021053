"""Fits by logistic regression with non-negative slopes: the curves of one score, and the weights of several."""

from __future__ import annotations

import numpy as np

from ccvid.retrieval.ranking.distances import Scores

MOST_PIECES = 8
"""Of a curve."""
PAIRS_A_PIECE = 25
"""Of one person; with fewer, a curve has fewer pieces."""
LEAST_RISE = 1e-3
"""Of the log-odds from one knot to the next: equal scores stay the only ties."""

NEWTON_STEPS, SMALLEST_STEP, SMALLEST_GAIN = 50, 1e-9, 1e-12
RIDGE = 1e-9
"""Added to the second derivatives, so that a step exists where a score says nothing."""


def fit_curves(score_C: Scores, genuine_C: Scores, share_C: Scores | None = None) -> tuple[Scores, list[Scores]]:
    """Knots, and log-odds of rising curves that are linear between them, which fit C scores of pairs.

    One curve, or with ``share_C`` (qualities from 0 to 1) two, for 0 and for 1; between, the log-odds are linear in it.
    ``genuine_C`` is 1 for pairs of one person, else 0; there are some of both. Both kinds have equal total weight, so
    the log-odds are the log of the likelihood ratio of a score.
    """
    parts = [np.ones(len(score_C))] if share_C is None else [1 - share_C, share_C]
    pieces = int(np.clip(genuine_C.sum() // (PAIRS_A_PIECE * len(parts)), 1, MOST_PIECES))
    knot_K = _knots(score_C, balanced(genuine_C), pieces)
    rise_CK = np.clip((score_C[:, None] - knot_K[:-1]) / np.diff(knot_K), 0, 1)
    curve_CK = np.column_stack((np.ones(len(score_C)), rise_CK))
    least_K = np.concatenate(([-np.inf], np.full(len(knot_K) - 1, LEAST_RISE)))
    feature_CF = np.concatenate([curve_CK * part_C[:, None] for part_C in parts], axis=1)
    found_F = fit_logistic(feature_CF, genuine_C, np.tile(least_K, len(parts)))
    return knot_K, [np.cumsum(rise_K) for rise_K in np.split(found_F, len(parts))]


def fit_logistic(feature_CF: Scores, genuine_C: Scores, least_F: Scores) -> Scores:
    """Coefficients of a logistic regression, each at least ``least_F``, with equal weight of both kinds of pairs.

    A share of each kind, one pair's, counts as the other kind (Platt 1999), which keeps the coefficients finite.
    Newton's method; each step solves its bounded least squares, and is halved until the loss falls.
    """
    from scipy.linalg import cholesky, solve_triangular  # takes a second, which every process of a run would spend
    from scipy.optimize import lsq_linear

    weight_C, doubt_C = balanced(genuine_C), 1 / (np.where(genuine_C > 0, genuine_C.sum(), (1 - genuine_C).sum()) + 2)
    target_C = np.where(genuine_C > 0, 1 - doubt_C, doubt_C)

    def loss(coefficient_F: Scores) -> float:
        odds_C = feature_CF @ coefficient_F
        return float(weight_C @ (np.logaddexp(0, odds_C) - target_C * odds_C))

    found_F: Scores = np.where(np.isfinite(least_F), least_F, 0.0)
    for _ in range(NEWTON_STEPS):
        share_C = 1 / (1 + np.exp(-np.clip(feature_CF @ found_F, -500, 500)))
        slope_F = (weight_C * (share_C - target_C)) @ feature_CF
        bend_FF = (feature_CF * (weight_C * share_C * (1 - share_C))[:, None]).T @ feature_CF
        root_FF = cholesky(bend_FF + RIDGE * np.eye(len(found_F)))
        aim_F = -solve_triangular(root_FF, slope_F, trans="T")
        step_F = lsq_linear(root_FF, aim_F, (least_F - found_F, np.inf), method="bvls").x
        before = loss(found_F)
        while loss(found_F + step_F) > before and np.abs(step_F).max() > SMALLEST_STEP:
            step_F = step_F / 2
        found_F = np.maximum(found_F + step_F, least_F)
        if before - loss(found_F) < SMALLEST_GAIN:
            break
    return found_F


def balanced(genuine_C: Scores) -> Scores:
    """Weights that sum to 1, half of it for each kind of pair."""
    weight_C: Scores = np.where(genuine_C > 0, 0.5 / max(1, genuine_C.sum()), 0.5 / max(1, (1 - genuine_C).sum()))
    return weight_C


def _knots(score_C: Scores, weight_C: Scores, pieces: int) -> Scores:
    """Scores that cut the pairs into pieces of equal weight, with the lowest and the highest."""
    order = np.argsort(score_C, kind="stable")
    reached_C = np.cumsum(weight_C[order])
    place_K = np.searchsorted(reached_C, np.linspace(0, 1, pieces + 1) * reached_C[-1]).clip(max=len(order) - 1)
    knots: Scores = np.unique(score_C[order][place_K])
    return knots
