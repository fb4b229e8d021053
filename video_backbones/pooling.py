"""Pooling over space (one frame's map) and over time (one clip's frames)."""

from __future__ import annotations

from torch import Tensor, nn


class SpatialMaxPool(nn.Module):
    """(B, T, D, H, W) -> (B, T, D): the largest value of each channel in each frame."""

    def forward(self, maps_BTDHW: Tensor) -> Tensor:
        return maps_BTDHW.amax(dim=(-2, -1))


class TemporalMeanPool(nn.Module):
    """(B, T, D) -> (B, D): the mean over the frames."""

    def forward(self, pooled_BTD: Tensor) -> Tensor:
        return pooled_BTD.mean(dim=1)
