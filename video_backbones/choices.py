"""The available backbones and their options. Does not import torch or the networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from video_backbones.backbone import VideoBackbone

SpatialPoolName = Literal["max", "avg", "gem", "max_avg"]
TemporalPoolName = Literal["mean", "attention", "gem"]
AttentionName = Literal["s2a", "masked", "joint"]

TIMM_PREFIX = "timm/"
CSCI_FAMILIES = ("csci_plain", "csci_image", "csci_video")
"""Each is built on an EVA-02 or ViT: `csci_plain/NAME`."""


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
    patch: int | None = None
    """Height and width of a patch; None: the named network's."""
    drop_path: float = 0.0
    """Probability that an image skips the last block; it rises linearly from 0 at the first."""
    checkpoint_blocks: bool = False
    """Recompute each block in the backward pass, which saves memory and costs a second forward pass; not for
    `timm/NAME`."""
    attention: AttentionName = "s2a"
    """How an image's class and colour token see each other."""


@dataclass(frozen=True, slots=True)
class CsciSize:
    """A network of EVA-02-CLIP's structure."""

    width: int
    depth: int
    heads: int
    patch: int


CSCI_OWN_SIZES: Mapping[str, CsciSize] = {"eva_slim": CsciSize(width=96, depth=5, heads=3, patch=8)}
"""For small pictures and CPUs; every other NAME is timm's."""


@dataclass(frozen=True, slots=True)
class Network:
    """How to build a backbone, and torchvision's names of its published weights."""

    maker: str
    """`module:callable` within this package; it takes `BackboneChoices` and returns a `VideoBackbone`."""
    published: Mapping[str, str] = field(default_factory=dict)

    def make(self, choices: BackboneChoices) -> VideoBackbone:
        """The network with random weights."""
        backbone: VideoBackbone = resolve_name(f"{__package__}.{self.maker}")(choices)
        return backbone


_RESNET50 = {"imagenet": "ResNet50_Weights.IMAGENET1K_V1"}
NETWORKS: dict[str, Network] = {
    "c2d_resnet50": Network("c2d:c2d_resnet50", _RESNET50),
    "i3d_resnet50": Network("temporal_resnet:i3d_resnet50", _RESNET50),
    "ap3d_resnet50": Network("temporal_resnet:ap3d_resnet50", _RESNET50),
    "nl_resnet50": Network("temporal_resnet:nl_resnet50", _RESNET50),
    "ap3d_nl_resnet50": Network("temporal_resnet:ap3d_nl_resnet50", _RESNET50),
    "c2d_resnet18": Network("c2d:c2d_resnet18", {"imagenet": "ResNet18_Weights.IMAGENET1K_V1"}),
    "c2d_resnet18_slim": Network("c2d:c2d_resnet18_slim"),
    "r3d_18": Network("torchvision_video:r3d_18", {"kinetics": "R3D_18_Weights.KINETICS400_V1"}),
    "mc3_18": Network("torchvision_video:mc3_18", {"kinetics": "MC3_18_Weights.KINETICS400_V1"}),
    "r2plus1d_18": Network("torchvision_video:r2plus1d_18", {"kinetics": "R2Plus1D_18_Weights.KINETICS400_V1"}),
    "s3d": Network("torchvision_video:S3D", {"kinetics": "S3D_Weights.KINETICS400_V1"}),
    "swin3d_t": Network("torchvision_video:Swin3D", {"kinetics": "Swin3D_T_Weights.KINETICS400_V1"}),
    "mvit_v2_s": Network("torchvision_video:MViTv2", {"kinetics": "MViT_V2_S_Weights.KINETICS400_V1"}),
}
"""A row a backbone: all that names the backbones is made from it. A network's module is imported when the network is
made: that takes seconds, and most processes make none."""


def backbone_names() -> list[str]:
    """Every name that `build_backbone` accepts, besides `timm/NAME` and CSCI's."""
    return list(NETWORKS)


def csci_names() -> list[str]:
    """CSCI's networks of our own sizes."""
    return [f"{family}/{size}" for size in CSCI_OWN_SIZES for family in CSCI_FAMILIES]


def is_csci(name: str) -> bool:
    """Whether the backbone is one of CSCI's."""
    return name.partition("/")[0] in CSCI_FAMILIES and "/" in name


def csci_parts(name: str) -> tuple[str, str]:
    """Family and network of one of CSCI's."""
    family, _, inner = name.partition("/")
    return family, inner


def check_name(name: str) -> str:
    """The name itself, if `build_backbone` accepts it; only timm can check what follows a `/`.

    Raises:
        BackboneError: There is no such backbone.
    """
    if not name.startswith(TIMM_PREFIX) and not is_csci(name):
        network_named(name)
    return name


def check_choices(name: str, choices: BackboneChoices) -> None:
    """Refuse a choice that has no effect on the backbone.

    Raises:
        BackboneError: There is one.
    """
    coloured = name.startswith(("csci_image/", "csci_video/"))
    without_effect = {
        "patch": choices.patch is not None and not is_csci(name),
        "drop_path": choices.drop_path > 0 and not is_csci(name),
        "attention": choices.attention != "s2a" and not coloured,
    }
    for setting, refused in without_effect.items():
        if refused:
            needed = CSCI_FAMILIES[1:] if setting == "attention" else CSCI_FAMILIES
            raise BackboneError(
                f"{name} has no {setting} to set: it is a setting of {', '.join(f'{family}/NAME' for family in needed)}"
            )


def published_weights(name: str) -> list[str]:
    """Valid values of `weights`, besides a file."""
    if is_csci(name):
        return ["random"] if csci_parts(name)[1] in CSCI_OWN_SIZES else ["random", "imagenet"]
    return ["random", "imagenet"] if name.startswith(TIMM_PREFIX) else ["random", *network_named(name).published]


def published_kinds() -> list[str]:
    """What weights are published for, of one backbone or another: `imagenet` first."""
    return list(dict.fromkeys(kind for network in NETWORKS.values() for kind in network.published))


def network_named(name: str) -> Network:
    """The entry of a backbone.

    Raises:
        BackboneError: There is none.
    """
    if name not in NETWORKS:
        families = ", ".join(f"{family}/NAME" for family in CSCI_FAMILIES)
        raise BackboneError(
            f"no backbone {name!r}, expected one of {', '.join(NETWORKS)}, {families} or {TIMM_PREFIX}NAME"
        )
    return NETWORKS[name]
