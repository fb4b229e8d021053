"""Networks that turn a clip into one feature: (B, T, C, H, W) -> (B, D)."""

from __future__ import annotations

from video_backbones.backbone import VideoBackbone
from video_backbones.factory import BackboneName, build_backbone
from video_backbones.pooling import SpatialPoolName, TemporalPoolName
from video_backbones.weights import WeightsError

__all__ = [
    "BackboneName",
    "SpatialPoolName",
    "TemporalPoolName",
    "VideoBackbone",
    "WeightsError",
    "build_backbone",
]
