"""The learning rate as a function of the step alone, so that it has no state to save."""

from __future__ import annotations

import math
from bisect import bisect_right

from ccvid.config import OptimOptions


def learning_rate_factor(options: OptimOptions, epoch: float, epochs: int) -> float:
    """The factor that multiplies the learning rate.

    Args:
        epoch: epochs done so far, including the fraction of the current one; in [0, epochs].

    Returns:
        A factor in [0, 1]: warm-up times the multi-step decay (by whole epochs) or the cosine (by steps).
    """
    warmup = 1.0
    if epoch < options.warmup_epochs:
        warmup = 0.01 + 0.99 * epoch / options.warmup_epochs
    if options.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    passed = bisect_right(sorted(options.milestones), int(epoch))
    return float(warmup * options.decay**passed)
