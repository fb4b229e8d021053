"""Networks that turn a clip into one feature: (B, T, C, H, W) -> (B, D)."""

from __future__ import annotations

from video_backbones.backbone import BackboneError, VideoBackbone
from video_backbones.factory import backbone_names, build_backbone, check_name
from video_backbones.pooling import SpatialPoolName, TemporalPoolName
from video_backbones.weights import WeightsError

__all__ = [
    "BackboneError",
    "SpatialPoolName",
    "TemporalPoolName",
    "VideoBackbone",
    "WeightsError",
    "backbone_names",
    "build_backbone",
    "check_name",
]
