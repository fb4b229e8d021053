"""Networks that turn a clip into one feature: (B, T, C, H, W) -> (B, D)."""

from __future__ import annotations

from video_backbones.choices import (
    BackboneError,
    SpatialPoolName,
    TemporalPoolName,
    WeightsError,
    backbone_names,
    check_name,
)

__all__ = [
    "BackboneError",
    "SpatialPoolName",
    "TemporalPoolName",
    "WeightsError",
    "backbone_names",
    "check_name",
]
