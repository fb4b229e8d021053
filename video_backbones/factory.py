"""Backbones by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torchvision.models import ResNet18_Weights, ResNet50_Weights, WeightsEnum
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.video import (
    MC3_18_Weights,
    MViT_V2_S_Weights,
    R2Plus1D_18_Weights,
    R3D_18_Weights,
    S3D_Weights,
    Swin3D_T_Weights,
    mc3_18,
    r2plus1d_18,
    r3d_18,
)

from video_backbones.appearance_preserving import AppearancePreservingConvolution
from video_backbones.backbone import BackboneChoices, BackboneError, VideoBackbone
from video_backbones.c2d import C2DResNet
from video_backbones.clip_blocks import InflatedConvolution
from video_backbones.pooling import SpatialPoolName, TemporalPoolName
from video_backbones.released import own_state
from video_backbones.temporal_resnet import TemporalResNet50
from video_backbones.timm_frames import PREFIX, build_timm
from video_backbones.torchvision_video import S3D, MViTv2, ResNet3D18, Swin3D
from video_backbones.weights import WeightsError, fetch_weights, load_weights, read_weights


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How to make a backbone, and the weights that torchvision publishes for it."""

    make: Callable[[BackboneChoices], VideoBackbone]
    published: Mapping[str, WeightsEnum] = field(default_factory=dict)


_RESNET50 = {"imagenet": ResNet50_Weights.IMAGENET1K_V1}
_RECIPES: dict[str, _Recipe] = {
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
    "r3d_18": _Recipe(
        lambda choices: ResNet3D18(r3d_18(weights=None), choices), {"kinetics": R3D_18_Weights.KINETICS400_V1}
    ),
    "mc3_18": _Recipe(
        lambda choices: ResNet3D18(mc3_18(weights=None), choices), {"kinetics": MC3_18_Weights.KINETICS400_V1}
    ),
    "r2plus1d_18": _Recipe(
        lambda choices: ResNet3D18(r2plus1d_18(weights=None), choices),
        {"kinetics": R2Plus1D_18_Weights.KINETICS400_V1},
    ),
    "s3d": _Recipe(S3D, {"kinetics": S3D_Weights.KINETICS400_V1}),
    "swin3d_t": _Recipe(Swin3D, {"kinetics": Swin3D_T_Weights.KINETICS400_V1}),
    "mvit_v2_s": _Recipe(MViTv2, {"kinetics": MViT_V2_S_Weights.KINETICS400_V1}),
}


def backbone_names() -> list[str]:
    """Every name that `build_backbone` takes, besides `timm/NAME`."""
    return list(_RECIPES)


def check_name(name: str) -> str:
    """The name itself, if `build_backbone` takes it; what follows `timm/` only timm can tell.

    Raises:
        BackboneError: There is no such backbone.
    """
    if not name.startswith(PREFIX):
        _recipe(name)
    return name


def published_weights(name: str) -> list[str]:
    """What `weights` may be, besides a file."""
    return ["random", "imagenet"] if name.startswith(PREFIX) else ["random", *_recipe(name).published]


def build_backbone(
    name: str,
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
            `ap3d_nl_resnet50`; `c2d_resnet18` (512), `c2d_resnet18_slim` (256: half the width, for CPUs);
            torchvision's `r3d_18`, `mc3_18`, `r2plus1d_18` (512), `s3d` (1024), `swin3d_t`, `mvit_v2_s` (768); or
            `timm/NAME`, any image network of timm. `python -m video_backbones.summary` lists what each takes.
        weights: `random` (from torch's global generator), `imagenet` or `kinetics` (torchvision's, downloaded
            to its cache unless there), or a file: `.safetensors`, ours or not, a state dict saved by `torch.save`,
            or a released CAL checkpoint.
        last_stride: 1 or 2, the last stage's stride in space.
        spatial_pool: How a frame's map becomes a vector; `max_avg` doubles D.
        temporal_pool: How the frames' vectors become one.
        clip_size: (T, H, W) of the clips; read only where the number of parameters depends on it.
        whole: A file must also hold the neck and the learned pools: it is a trained model, no starting point.

    Raises:
        BackboneError: No such backbone, or not for such clips.
        WeightsError: The weights cannot be had, read, or do not fit; the message says what to do.
    """
    choices = BackboneChoices(
        last_stride=last_stride, spatial_pool=spatial_pool, temporal_pool=temporal_pool, clip_size=clip_size
    )
    if name.startswith(PREFIX):
        image_network, image_state = build_timm(name, choices, weights=weights, whole=whole)
        if image_state:
            load_weights(image_network, image_state, str(weights), whole=whole)
        return image_network
    recipe = _recipe(name)
    backbone = recipe.make(choices)
    if weights == "random":
        return backbone
    if weights in ("imagenet", "kinetics"):
        if weights not in recipe.published:
            known = ", ".join(["random", *recipe.published])
            raise WeightsError(f"no {weights} weights are published for {name}; give {known} or a file")
        published = backbone.from_published(fetch_weights(recipe.published[str(weights)]))
        load_weights(backbone, published, f"{weights} weights of {name}")
    else:
        state = own_state(read_weights(Path(weights)), origin=str(weights), name=name, spatial_pool=spatial_pool)
        load_weights(backbone, state if whole else backbone.from_file(state), str(weights), whole=whole)
    return backbone


def _recipe(name: str) -> _Recipe:
    if name not in _RECIPES:
        raise BackboneError(f"no backbone {name!r}; there are {', '.join(_RECIPES)} and {PREFIX}NAME")
    return _RECIPES[name]
