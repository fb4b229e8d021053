"""Backbones by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torchvision.models import ResNet18_Weights, ResNet50_Weights, WeightsEnum
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.video import R3D_18_Weights

from video_backbones.backbone import VideoBackbone
from video_backbones.c2d import C2DResNet
from video_backbones.r3d import R3DResNet18
from video_backbones.weights import WeightsError, fetch_weights, load_weights, read_weights

BackboneName = Literal["c2d_resnet50", "c2d_resnet18", "c2d_resnet18_slim", "r3d_18"]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to make a backbone, given its last stride, and the weights that torchvision publishes for it."""

    make: Callable[[int], VideoBackbone]
    published: Mapping[str, WeightsEnum] = field(default_factory=dict)


_RECIPES: dict[BackboneName, _Recipe] = {
    "c2d_resnet50": _Recipe(
        lambda stride: C2DResNet(Bottleneck, (3, 4, 6, 3), last_stride=stride),
        {"imagenet": ResNet50_Weights.IMAGENET1K_V1},
    ),
    "c2d_resnet18": _Recipe(
        lambda stride: C2DResNet(BasicBlock, (2, 2, 2, 2), last_stride=stride),
        {"imagenet": ResNet18_Weights.IMAGENET1K_V1},
    ),
    "c2d_resnet18_slim": _Recipe(lambda stride: C2DResNet(BasicBlock, (2, 2, 2, 2), width=32, last_stride=stride)),
    "r3d_18": _Recipe(lambda stride: R3DResNet18(last_stride=stride), {"kinetics": R3D_18_Weights.KINETICS400_V1}),
}


def build_backbone(name: BackboneName, *, weights: str | Path, last_stride: int = 1) -> VideoBackbone:
    """A backbone in training mode, on the CPU, in float32.

    Args:
        name: `c2d_resnet50` (D = 2048, CAL's), `c2d_resnet18` (512), `c2d_resnet18_slim` (256: half the
            width, for CPUs) or `r3d_18` (512).
        weights: `random` (from torch's global generator), `imagenet` or `kinetics` (torchvision's, downloaded
            to its cache unless there), or a file: `.safetensors`, or a state dict saved by `torch.save`.
        last_stride: 1 or 2, the last stage's stride in space.

    Raises:
        WeightsError: The weights cannot be had, read, or do not fit; the message says what to do.
    """
    recipe = _RECIPES[name]
    backbone = recipe.make(last_stride)
    if weights == "random":
        return backbone
    if weights in ("imagenet", "kinetics"):
        if weights not in recipe.published:
            known = ", ".join(["random", *recipe.published])
            raise WeightsError(f"no {weights} weights are published for {name}; give {known} or a file")
        state, origin = fetch_weights(recipe.published[str(weights)]), f"{weights} weights of {name}"
    else:
        state, origin = read_weights(Path(weights)), str(weights)
    load_weights(backbone, state, origin)
    return backbone
