"""Converting the state dicts of released CAL networks (Simple-CCReID's `model_state_dict`) to our names and back.

The video networks have our names, but all their kernels are 5-D; the image networks' names are `base.N. ...`. A
released image ResNet-50 is our `c2d_resnet50` on clips of one frame with another spatial pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import SpatialPoolName, WeightsError
from video_backbones.pooling import SpatialMaxPool, TemporalMeanPool

LayoutName = Literal[
    "c2dres50",
    "i3dres50",
    "ap3dres50",
    "nlres50",
    "ap3dnlres50",
    "resnet50-avg or resnet50-max",
    "resnet50-gem",
    "resnet50-maxavg",
]

VIDEO_LAYOUTS: Mapping[str, LayoutName] = {
    "c2d_resnet50": "c2dres50",
    "i3d_resnet50": "i3dres50",
    "ap3d_resnet50": "ap3dres50",
    "nl_resnet50": "nlres50",
    "ap3d_nl_resnet50": "ap3dnlres50",
}
"""Our backbones that were released, and their released names."""
_IMAGE_POOLS: Mapping[LayoutName, tuple[SpatialPoolName, ...]] = {
    "resnet50-avg or resnet50-max": ("avg", "max"),
    "resnet50-gem": ("gem",),
    "resnet50-maxavg": ("max_avg",),
}
_IMAGE_PARTS = {
    "conv1": "base.0",
    "bn1": "base.1",
    "layer1": "base.4",
    "layer2": "base.5",
    "layer3": "base.6",
    "layer4": "base.7",
    "spatial_pool": "globalpooling",
}
"""Prefixes of our names and of the released image networks' names, in the released order; `bn` follows."""


def layout_of(state: Mapping[str, Tensor]) -> LayoutName | None:
    """The released network to which a state belongs, under its released names or ours; None: not one of them.

    Average and max pooling have no parameters, so these two image networks look alike; under our names, an image
    network is a `c2dres50`.
    """
    if "base.7.2.conv3.weight" in state:
        if "globalpooling.p" in state:
            return "resnet50-gem"
        neck = state.get("bn.weight")
        return "resnet50-maxavg" if neck is not None and len(neck) == 4096 else "resnet50-avg or resnet50-max"
    last = state.get("layer4.2.conv3.weight")
    if last is None or tuple(last.shape[:2]) != (2048, 512):
        return None
    if any(".conv2.conv3d." in name for name in state):
        return "i3dres50"
    non_local = any(".theta." in name for name in state)
    if any(".APM." in name for name in state):
        return "ap3dnlres50" if non_local else "ap3dres50"
    return "nlres50" if non_local else "c2dres50"


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state under our names and shapes, sharing its memory; any other state is returned unchanged."""
    layout = layout_of(state)
    if layout is None:
        return dict(state)
    if layout in _IMAGE_POOLS:
        ours = {theirs: name for name, theirs in _IMAGE_PARTS.items()}
        return {_renamed(name, ours): x for name, x in state.items()}
    return {name: x.squeeze(2) if x.ndim == 5 and x.shape[2] == 1 else x for name, x in state.items()}


def own_state(
    state: Mapping[str, Tensor], *, origin: str, name: str, spatial_pool: SpatialPoolName
) -> dict[str, Tensor]:
    """A state from a file under our names.

    Args:
        state: Released or ours, of any backbone.
        origin: Where it comes from, for the message.
        name: The requested backbone.
        spatial_pool: The requested spatial pool.

    Raises:
        WeightsError: It belongs to another released backbone, or to an image network with another pool.
    """
    found = layout_of(state)
    is_image = found in _IMAGE_POOLS
    if found is not None and found != VIDEO_LAYOUTS.get(name) and not (is_image and name == "c2d_resnet50"):
        raise WeightsError(f"{origin}: contains weights of {found}, expected {name}")
    if found is not None and is_image and spatial_pool not in _IMAGE_POOLS[found]:
        raise WeightsError(f"{origin}: contains weights of {found}, expected {name} with spatial pool {spatial_pool}")
    return from_released(state)


def to_released(backbone: VideoBackbone, *, image: bool = False) -> dict[str, Tensor]:
    """The backbone's state with released names, order and shapes: contiguous, detached, on the CPU.

    Args:
        backbone: A ResNet-50 of the released kinds.
        image: Whether to convert to an image network (only for `c2d_resnet50`) or a video network.

    Raises:
        WeightsError: No released network has this backbone's structure.
    """
    state = backbone.state_dict()
    layout = layout_of(state)
    if layout is None or not isinstance(backbone.temporal_pool, TemporalMeanPool):
        raise WeightsError("only c2d, i3d, ap3d, nl and ap3d_nl ResNet-50s with the temporal pool mean were released")
    if image and layout != "c2dres50":
        raise WeightsError(f"{layout} has no released image format; only c2d_resnet50 has one")
    if not image and not isinstance(backbone.spatial_pool, SpatialMaxPool):
        raise WeightsError("released video networks have the spatial pool max; convert others to an image network")
    released = {}
    for name in sorted(state, key=_place_in_tail):
        x = state[name].detach().cpu()
        x = x.unsqueeze(2) if x.ndim == 4 and not image else x
        released[_renamed(name, _IMAGE_PARTS) if image else name] = x.contiguous()
    return released


def _place_in_tail(name: str) -> int:
    """Sort key for the released order: the trunk unchanged, then the pool, then the neck."""
    return {"spatial_pool": 1, "bn": 2}.get(name.split(".")[0], 0)


def _renamed(name: str, parts: Mapping[str, str]) -> str:
    """`name` with its prefix replaced; a name with another prefix (`bn.`) is unchanged."""
    for old, new in parts.items():
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name
