"""What every backbone is: frame maps -> spatial pool -> temporal pool -> BatchNorm neck."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class VideoBackbone(nn.Module, ABC):
    """A clip's frames in, one feature out.

    A network gives its maps (`feature_maps`). The tail here is common to all, as in CAL (Gu et al., CVPR
    2022): each frame's map is pooled over space, the frames are pooled over time, and the neck, `bn`,
    normalises. From the temporal pool on, the arithmetic is at least float32, whatever autocast does before.

    Shape letters: B clips, T frames, C colour channels, H and W pixels; D features.
    """

    def __init__(self, feature_size: int, spatial_pool: nn.Module, temporal_pool: nn.Module) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.spatial_pool = spatial_pool
        self.temporal_pool = temporal_pool
        self.bn = nn.BatchNorm1d(feature_size)
        nn.init.normal_(self.bn.weight, 1.0, 0.02)

    @abstractmethod
    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T', D, H', W'); T' may be smaller than T, never 0."""

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        """Normalised floating-point frames (B, T, 3, H, W), T >= 1 -> features (B, D) after the neck."""
        assert frames_BTCHW.ndim == 5, f"got {frames_BTCHW.shape = }"
        pooled_BTD = self.spatial_pool(self.feature_maps(frames_BTCHW))
        if pooled_BTD.dtype in (torch.bfloat16, torch.float16):
            pooled_BTD = pooled_BTD.float()
        feature_BD: Tensor = self.bn(self.temporal_pool(pooled_BTD))
        return feature_BD
