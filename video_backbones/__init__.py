"""Networks that map a clip to one feature vector: (B, T, C, H, W) -> (B, D)."""

from __future__ import annotations

import os

from video_backbones.choices import (
    AttentionName,
    BackboneError,
    SpatialPoolName,
    TemporalPoolName,
    WeightsError,
    backbone_names,
    check_name,
    csci_names,
    is_csci,
    published_kinds,
)

__all__ = [
    "AttentionName",
    "BackboneError",
    "SpatialPoolName",
    "TemporalPoolName",
    "WeightsError",
    "backbone_names",
    "check_name",
    "csci_names",
    "is_csci",
    "published_kinds",
]

# oneDNN's AMX kernels (torch 2.14) read memory that was never written in 3x3 convolutions of stride 2 to maps one wide:
# NaN or noise where a picture is small. AMX is up to three times as fast at 256x128: set it to DEFAULT to have it back.
# oneDNN looks once, at its first use.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")
