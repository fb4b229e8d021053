"""Pooling over space (one frame's map) and over time (one clip's frames). All return at least float32.

Shape letters: B clips, T frames, D channels, H and W positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from video_backbones.choices import SpatialPoolName, TemporalPoolName

_SMALLEST = 1e-6
"""Lower bound of values in generalised means: the root's slope at 0 is infinite."""


class SpatialMaxPool(nn.Module):
    """(B, T, D, H, W) -> (B, T, D): the largest value of each channel in each frame."""

    def forward(self, maps_BTDHW: Tensor) -> Tensor:
        return widened(maps_BTDHW.amax(dim=(-2, -1)))


class SpatialMeanPool(nn.Module):
    """(B, T, D, H, W) -> (B, T, D): the mean of each channel in each frame."""

    def forward(self, maps_BTDHW: Tensor) -> Tensor:
        return widened(maps_BTDHW).mean(dim=(-2, -1))


class SpatialMaxMeanPool(nn.Module):
    """(B, T, D, H, W) -> (B, T, 2D): the largest values, then the means."""

    def forward(self, maps_BTDHW: Tensor) -> Tensor:
        mean_BTD = widened(maps_BTDHW).mean(dim=(-2, -1))
        return torch.cat((maps_BTDHW.amax(dim=(-2, -1)).to(mean_BTD.dtype), mean_BTD), dim=-1)


class SpatialGemPool(nn.Module):
    """(B, T, D, H, W) -> (B, T, D): the generalised mean, `mean(x ** p) ** (1 / p)` (Radenovic et al., TPAMI 2019).

    One p for all channels is learned, initialised to 3: p = 1 is the mean, and a large p approaches the maximum.
    Values below 1e-6 count as 1e-6, so it suits maps that end in a ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, maps_BTDHW: Tensor) -> Tensor:
        return _generalised_mean(widened(maps_BTDHW), self.p, dim=(-2, -1))


class TemporalMeanPool(nn.Module):
    """(B, T, D) -> (B, D): the mean over the frames."""

    def forward(self, pooled_BTD: Tensor) -> Tensor:
        return pooled_BTD.mean(dim=1)


class TemporalAttentionPool(nn.Module):
    """(B, T, D) -> (B, D): a mean over the frames, weighted by the softmax of one learned score per frame.

    The score is `v . tanh(W x + b)` with 128 hidden units. v is initialised to zero, so the pool starts as the mean.
    """

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(feature_size, 128)
        self.score = nn.Linear(128, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, pooled_BTD: Tensor) -> Tensor:
        score_BT1: Tensor = self.score(torch.tanh(self.hidden(pooled_BTD)))
        return (score_BT1.softmax(dim=1) * pooled_BTD).sum(dim=1)


class TemporalGemPool(nn.Module):
    """(B, T, D) -> (B, D): the generalised mean over the frames, like `SpatialGemPool` over positions.

    It lies between the mean (p = 1) and each channel's strongest frame. Values below 1e-6 count as 1e-6, so it suits
    features after a ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, pooled_BTD: Tensor) -> Tensor:
        return _generalised_mean(pooled_BTD, self.p, dim=(1,))


def build_spatial_pool(name: SpatialPoolName) -> nn.Module:
    """Maps (B, T, D, H, W) to (B, T, D); `max_avg` to (B, T, 2D)."""
    pools: dict[SpatialPoolName, Callable[[], nn.Module]] = {
        "max": SpatialMaxPool,
        "avg": SpatialMeanPool,
        "gem": SpatialGemPool,
        "max_avg": SpatialMaxMeanPool,
    }
    return pools[name]()


def build_temporal_pool(name: TemporalPoolName, feature_size: int) -> nn.Module:
    """Maps (B, T, D) to (B, D); `feature_size` is D."""
    pools: dict[TemporalPoolName, Callable[[], nn.Module]] = {
        "mean": TemporalMeanPool,
        "attention": lambda: TemporalAttentionPool(feature_size),
        "gem": TemporalGemPool,
    }
    return pools[name]()


def _generalised_mean(x: Tensor, p: Tensor, dim: tuple[int, ...]) -> Tensor:
    return x.clamp(min=_SMALLEST).pow(p).mean(dim).pow(1 / p)


def widened(x: Tensor) -> Tensor:
    """In at least float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
