"""The available backbones and their options. Does not import torch or the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from video_backbones.backbone import VideoBackbone

SpatialPoolName = Literal["max", "avg", "gem", "max_avg"]
TemporalPoolName = Literal["mean", "attention", "gem"]

TIMM_PREFIX = "timm/"


class BackboneError(ValueError):
    """The requested backbone cannot be built; the message is complete for a user."""


class WeightsError(BackboneError):
    """The requested weights cannot be obtained or read, or do not fit; the message is complete for a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneChoices:
    """What a user may choose about a backbone besides its name."""

    last_stride: int = 1
    """1 or 2: the last stage's stride in space."""
    spatial_pool: SpatialPoolName = "max"
    temporal_pool: TemporalPoolName = "mean"
    clip_size: tuple[int, int, int] = (8, 256, 128)
    """(T, H, W) of the clips; used only if the number of parameters depends on it."""


@dataclass(frozen=True, slots=True)
class Network:
    """How to build a backbone, and torchvision's names of its published weights."""

    make: Callable[[BackboneChoices], VideoBackbone]
    published: Mapping[str, str] = field(default_factory=dict)


def backbone_names() -> list[str]:
    """Every name that `build_backbone` accepts, besides `timm/NAME`."""
    return list(_NETWORKS)


def check_name(name: str) -> str:
    """The name itself, if `build_backbone` accepts it; only timm can check what follows `timm/`.

    Raises:
        BackboneError: There is no such backbone.
    """
    if not name.startswith(TIMM_PREFIX):
        network_named(name)
    return name


def published_weights(name: str) -> list[str]:
    """Valid values of `weights`, besides a file."""
    return ["random", "imagenet"] if name.startswith(TIMM_PREFIX) else ["random", *network_named(name).published]


def network_named(name: str) -> Network:
    """The entry of a backbone.

    Raises:
        BackboneError: There is none.
    """
    if name not in _NETWORKS:
        raise BackboneError(f"no backbone {name!r}, expected one of {', '.join(_NETWORKS)} or {TIMM_PREFIX}NAME")
    return _NETWORKS[name]


def _c2d_resnet50(choices: BackboneChoices) -> VideoBackbone:
    from torchvision.models.resnet import Bottleneck

    from video_backbones.c2d import C2DResNet

    return C2DResNet(Bottleneck, (3, 4, 6, 3), choices)


def _c2d_resnet18(choices: BackboneChoices, width: int = 64) -> VideoBackbone:
    from torchvision.models.resnet import BasicBlock

    from video_backbones.c2d import C2DResNet

    return C2DResNet(BasicBlock, (2, 2, 2, 2), choices, width=width)


def _temporal_resnet50(
    choices: BackboneChoices, blocks: Literal["inflated", "appearance_preserving", "none"], *, non_local: bool = False
) -> VideoBackbone:
    from video_backbones.appearance_preserving import AppearancePreservingConvolution
    from video_backbones.clip_blocks import InflatedConvolution
    from video_backbones.temporal_resnet import TemporalResNet50

    convolution = {
        "inflated": InflatedConvolution,
        "appearance_preserving": AppearancePreservingConvolution,
        "none": None,
    }[blocks]
    return TemporalResNet50(choices, convolution, non_local=non_local)


def _resnet_3d(choices: BackboneChoices, name: Literal["r3d_18", "mc3_18", "r2plus1d_18"]) -> VideoBackbone:
    from torchvision.models.video import mc3_18, r2plus1d_18, r3d_18

    from video_backbones.torchvision_video import ResNet3D18

    make = {"r3d_18": r3d_18, "mc3_18": mc3_18, "r2plus1d_18": r2plus1d_18}[name]
    return ResNet3D18(make(weights=None), choices)


def _s3d(choices: BackboneChoices) -> VideoBackbone:
    from video_backbones.torchvision_video import S3D

    return S3D(choices)


def _swin3d_t(choices: BackboneChoices) -> VideoBackbone:
    from video_backbones.torchvision_video import Swin3D

    return Swin3D(choices)


def _mvit_v2_s(choices: BackboneChoices) -> VideoBackbone:
    from video_backbones.torchvision_video import MViTv2

    return MViTv2(choices)


_RESNET50 = {"imagenet": "ResNet50_Weights.IMAGENET1K_V1"}
_NETWORKS: dict[str, Network] = {
    "c2d_resnet50": Network(_c2d_resnet50, _RESNET50),
    "i3d_resnet50": Network(partial(_temporal_resnet50, blocks="inflated"), _RESNET50),
    "ap3d_resnet50": Network(partial(_temporal_resnet50, blocks="appearance_preserving"), _RESNET50),
    "nl_resnet50": Network(partial(_temporal_resnet50, blocks="none", non_local=True), _RESNET50),
    "ap3d_nl_resnet50": Network(partial(_temporal_resnet50, blocks="appearance_preserving", non_local=True), _RESNET50),
    "c2d_resnet18": Network(_c2d_resnet18, {"imagenet": "ResNet18_Weights.IMAGENET1K_V1"}),
    "c2d_resnet18_slim": Network(partial(_c2d_resnet18, width=32)),
    "r3d_18": Network(partial(_resnet_3d, name="r3d_18"), {"kinetics": "R3D_18_Weights.KINETICS400_V1"}),
    "mc3_18": Network(partial(_resnet_3d, name="mc3_18"), {"kinetics": "MC3_18_Weights.KINETICS400_V1"}),
    "r2plus1d_18": Network(partial(_resnet_3d, name="r2plus1d_18"), {"kinetics": "R2Plus1D_18_Weights.KINETICS400_V1"}),
    "s3d": Network(_s3d, {"kinetics": "S3D_Weights.KINETICS400_V1"}),
    "swin3d_t": Network(_swin3d_t, {"kinetics": "Swin3D_T_Weights.KINETICS400_V1"}),
    "mvit_v2_s": Network(_mvit_v2_s, {"kinetics": "MViT_V2_S_Weights.KINETICS400_V1"}),
}
"""One row per backbone. Networks are imported only when built: that takes seconds, and most processes build none."""
