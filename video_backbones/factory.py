"""Backbones by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torchvision.models import ResNet18_Weights, ResNet50_Weights, WeightsEnum
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.video import R3D_18_Weights

from video_backbones.appearance_preserving import AppearancePreservingConvolution
from video_backbones.backbone import BackboneChoices, VideoBackbone
from video_backbones.c2d import C2DResNet
from video_backbones.clip_blocks import InflatedConvolution
from video_backbones.pooling import SpatialPoolName, TemporalPoolName
from video_backbones.r3d import R3DResNet18
from video_backbones.released import own_state
from video_backbones.temporal_resnet import TemporalResNet50
from video_backbones.weights import WeightsError, fetch_weights, load_weights, read_weights

BackboneName = Literal[
    "c2d_resnet50",
    "i3d_resnet50",
    "ap3d_resnet50",
    "nl_resnet50",
    "ap3d_nl_resnet50",
    "c2d_resnet18",
    "c2d_resnet18_slim",
    "r3d_18",
]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to make a backbone, and the weights that torchvision publishes for it."""

    make: Callable[[BackboneChoices], VideoBackbone]
    published: Mapping[str, WeightsEnum] = field(default_factory=dict)


_RESNET50 = {"imagenet": ResNet50_Weights.IMAGENET1K_V1}
_RECIPES: dict[BackboneName, _Recipe] = {
    "c2d_resnet50": _Recipe(lambda choices: C2DResNet(Bottleneck, (3, 4, 6, 3), choices), _RESNET50),
    "i3d_resnet50": _Recipe(lambda choices: TemporalResNet50(choices, InflatedConvolution), _RESNET50),
    "ap3d_resnet50": _Recipe(lambda choices: TemporalResNet50(choices, AppearancePreservingConvolution), _RESNET50),
    "nl_resnet50": _Recipe(lambda choices: TemporalResNet50(choices, None, non_local=True), _RESNET50),
    "ap3d_nl_resnet50": _Recipe(
        lambda choices: TemporalResNet50(choices, AppearancePreservingConvolution, non_local=True), _RESNET50
    ),
    "c2d_resnet18": _Recipe(
        lambda choices: C2DResNet(BasicBlock, (2, 2, 2, 2), choices),
        {"imagenet": ResNet18_Weights.IMAGENET1K_V1},
    ),
    "c2d_resnet18_slim": _Recipe(lambda choices: C2DResNet(BasicBlock, (2, 2, 2, 2), choices, width=32)),
    "r3d_18": _Recipe(R3DResNet18, {"kinetics": R3D_18_Weights.KINETICS400_V1}),
}


def build_backbone(
    name: BackboneName,
    *,
    weights: str | Path,
    last_stride: int = 1,
    spatial_pool: SpatialPoolName = "max",
    temporal_pool: TemporalPoolName = "mean",
    clip_size: tuple[int, int, int] = (8, 256, 128),
    whole: bool = False,
) -> VideoBackbone:
    """A backbone in training mode, on the CPU, in float32.

    Args:
        name: `c2d_resnet50` (D = 2048, CAL's) and its kin with frames that meet, `i3d_`, `ap3d_`, `nl_` and
            `ap3d_nl_resnet50`; `c2d_resnet18` (512), `c2d_resnet18_slim` (256: half the width, for CPUs) or
            `r3d_18` (512).
        weights: `random` (from torch's global generator), `imagenet` or `kinetics` (torchvision's, downloaded
            to its cache unless there), or a file: `.safetensors`, ours or not, a state dict saved by `torch.save`,
            or a released CAL checkpoint.
        last_stride: 1 or 2, the last stage's stride in space.
        spatial_pool: How a frame's map becomes a vector; `max_avg` doubles D.
        temporal_pool: How the frames' vectors become one.
        clip_size: (T, H, W) of the clips; read only where the number of parameters depends on it.
        whole: A file must also hold the neck and the learned pools: it is a trained model, no starting point.

    Raises:
        WeightsError: The weights cannot be had, read, or do not fit; the message says what to do.
    """
    recipe = _RECIPES[name]
    backbone = recipe.make(
        BackboneChoices(
            last_stride=last_stride, spatial_pool=spatial_pool, temporal_pool=temporal_pool, clip_size=clip_size
        )
    )
    if weights == "random":
        return backbone
    if weights in ("imagenet", "kinetics"):
        if weights not in recipe.published:
            known = ", ".join(["random", *recipe.published])
            raise WeightsError(f"no {weights} weights are published for {name}; give {known} or a file")
        state = backbone.from_published(fetch_weights(recipe.published[str(weights)]))
        load_weights(backbone, state, f"{weights} weights of {name}")
    else:
        state = own_state(read_weights(Path(weights)), origin=str(weights), name=name, spatial_pool=spatial_pool)
        load_weights(backbone, state, str(weights), whole=whole)
    return backbone
