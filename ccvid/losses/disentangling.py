"""Disentangling loss: colour and identity features should share nothing."""

from __future__ import annotations

from torch import Tensor

from ccvid.losses.vectors import directions


def disentangling_loss(colour_BD: Tensor, feature_BD: Tensor) -> Tensor:
    """Mean over B of `|cos(colour, feature)|`, in [0, 1] (CSCI, Pathak and Rawat, ICCV 2025).

    Computed in at least float32; the gradient flows into both. A sample with a vector of zeros counts as 0.

    Args:
        colour_BD: (B, D) colour features, floating point.
        feature_BD: (B, D) identity features, floating point.
    """
    return (directions(colour_BD) * directions(feature_BD)).sum(dim=1).abs().mean()
