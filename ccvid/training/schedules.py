"""The learning rate as a function of the step alone, so that it has no state to save."""

from __future__ import annotations

import math
from bisect import bisect_right

from ccvid.optim_options import OptimOptions


def learning_rate(options: OptimOptions, base: float, epoch: float, epochs: int) -> float:
    """The learning rate of parameters whose peak is ``base``.

    Args:
        epoch: epochs done so far, including the fraction of the current one; in [0, epochs].
    """
    if options.schedule == "epoch_cosine":
        return _epoch_cosine(options, base, min(int(epoch) + 1, epochs), epochs)
    return base * learning_rate_factor(options, epoch, epochs)


def learning_rate_factor(options: OptimOptions, epoch: float, epochs: int) -> float:
    """The factor that multiplies the learning rate under ``multistep`` and ``cosine``.

    Args:
        epoch: as for :func:`learning_rate`.

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


def _epoch_cosine(options: OptimOptions, base: float, epoch: int, epochs: int) -> float:
    """The rate of a whole epoch, counted from 1, as CSCI sets it: the cosine begins with the first epoch.

    The rate therefore falls at once when the warm-up ends: after 20 of 60 epochs from 0.95 to about 0.78 of ``base``.
    """
    if epoch < options.warmup_epochs:
        return options.warmup_rate + epoch * (base - options.warmup_rate) / options.warmup_epochs
    share = 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return options.final_rate + (base - options.final_rate) * share
