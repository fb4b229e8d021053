"""Colour loss: what the colour token says against the colours of the picture."""

from __future__ import annotations

from torch import Tensor

from ccvid.losses.vectors import directions


def colour_loss(output_BE: Tensor, target_BE: Tensor) -> Tensor:
    """Mean over B of `|o/|o| - y/|y||^2`, which is `2 - 2 cos(o, y)`, in [0, 4] (CSCI, Pathak and Rawat, ICCV 2025).

    Computed in at least float32. A sample whose target is zeros, or whose output is, counts as 1 without a gradient.

    Args:
        output_BE: (B, E) of the colour head, floating point.
        target_BE: (B, E) of `ccvid.colour_targets`, any scale.
    """
    return (directions(output_BE) - directions(target_BE)).square().sum(dim=1).mean()
