"""timm's image networks, frame by frame: `timm/NAME`. timm is an optional dependency."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import TIMM_PREFIX, BackboneChoices, BackboneError, WeightsError, published_kinds
from video_backbones.weights import first_line, read_weights

_COMPUTED = ("relative_position_index", "attn_mask", "relative_coords_table")
"""Buffers that are in older files but that timm computes."""


class TimmFrames(VideoBackbone):
    """Each frame through an image network with its own pooling; frames interact only in the temporal pool.

    Any T >= 1. The map has a single position, so only the spatial pools max and avg, which change nothing, are
    accepted; the last stride is ignored. Names in the state dict are timm's, prefixed by `network.`.

    Raises:
        BackboneError: timm is not installed, does not know the name, or cannot build it for frames of this size.
        WeightsError: timm's weights for it cannot be obtained.
    """

    def __init__(self, name: str, choices: BackboneChoices, *, pretrained: bool = False) -> None:
        if choices.spatial_pool not in ("max", "avg"):
            raise BackboneError(
                f"{TIMM_PREFIX}{name} pools over space itself: expected spatial pool avg or max, got "
                f"{choices.spatial_pool}"
            )
        network = create_timm(f"{TIMM_PREFIX}{name}", choices, pretrained=pretrained)
        height, width = choices.clip_size[1:]
        was_training = network.training
        try:
            with torch.no_grad():
                pooled_BD = network.eval()(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise BackboneError(
                f"{TIMM_PREFIX}{name} does not accept frames of {height}x{width}: {first_line(error)}"
            ) from error
        network.train(was_training)
        super().__init__(pooled_BD.shape[1], choices.spatial_pool, choices.temporal_pool)
        self.network = network

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, D, 1, 1)."""
        pooled_ND: Tensor = self.network(frames_BTCHW.flatten(0, 1))
        return torch.unflatten(pooled_ND, 0, frames_BTCHW.shape[:2])[..., None, None]

    def from_published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """timm's names converted to ours; classification heads are dropped."""
        if any(name.startswith("network.") for name in state):
            return state
        own = self.network.state_dict()
        return {f"network.{name}": value for name, value in state.items() if name in own or not _is_head(name)}


def build_timm(
    name: str, choices: BackboneChoices, *, weights: str | Path, whole: bool = False
) -> tuple[TimmFrames, dict[str, Tensor]]:
    """The network named after `timm/`, and the weights still to be loaded: {} unless `weights` is a file.

    Raises:
        BackboneError, WeightsError: see `TimmFrames`.
    """
    short = name.removeprefix(TIMM_PREFIX)
    if weights in published_kinds() and weights != "imagenet":
        raise WeightsError(f"no {weights} weights are published for {name}; choose random, imagenet or a file")
    backbone = TimmFrames(short, choices, pretrained=weights == "imagenet")
    if weights in ("random", "imagenet"):
        return backbone, {}
    state = dict(backbone.from_published(read_weights(Path(weights))))
    return backbone, state if whole else _resized(short, choices, backbone, state)


def _resized(name: str, choices: BackboneChoices, backbone: TimmFrames, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let timm interpolate position tables of another frame size; a state with other names is returned unchanged."""
    own = {n: value for n, value in backbone.state_dict().items() if n.startswith("network.")}
    kept = {n: value for n, value in state.items() if n in own or not n.endswith(_COMPUTED)}
    misfit = any(kept[n].shape != value.shape for n, value in own.items() if n in kept)
    if not misfit or not kept.keys() >= own.keys():
        return kept
    bare = {n.removeprefix("network."): kept[n] for n in own}
    try:
        network = create_timm(
            f"{TIMM_PREFIX}{name}", choices, pretrained=True, pretrained_cfg_overlay={"state_dict": bare}
        )
    except BackboneError:  # tensors of another network under the same names
        return kept
    return {**kept, **{f"network.{n}": value for n, value in network.state_dict().items()}}


def require_timm(name: str) -> Any:
    """The module timm, for the backbone of this name.

    Raises:
        BackboneError: It is not installed.
    """
    try:
        import timm
    except ImportError:
        raise BackboneError(f"{name} needs timm: pip install 'ccvid[timm]'") from None
    return timm


def timm_for(name: str) -> Any:
    """The module timm, which knows the network in the backbone's name: what follows `timm/` or `csci_plain/`.

    Raises:
        BackboneError: timm is not installed, or has no such network.
    """
    timm = require_timm(name)
    prefix, _, inner = name.partition("/")
    if not timm.is_model(inner):
        close = difflib.get_close_matches(inner, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(f'{prefix}/{found}' for found in close)}?" if close else ""
        raise BackboneError(f"timm has no model {inner!r}{hint}")
    return timm


def create_timm(name: str, choices: BackboneChoices, *, pretrained: bool, **more: Any) -> nn.Module:
    """timm's network without its classifier, for frames of the chosen size.

    Args:
        name: The whole backbone's: `timm/NAME` or `csci_plain/NAME`.
        choices: `clip_size` counts.
        pretrained: With timm's weights.
        more: For timm.

    Raises:
        BackboneError: timm is not installed, does not know the name, or cannot build it for frames of this size.
        WeightsError: timm's weights for it cannot be obtained.
    """
    timm, inner = timm_for(name), name.partition("/")[2]
    sized: dict[str, Any] = {"img_size": choices.clip_size[1:]}
    for arguments in (sized, {}):  # networks whose parameters do not depend on the frame size do not accept one
        try:
            network: nn.Module = timm.create_model(inner, pretrained=pretrained, num_classes=0, **arguments, **more)
            return network
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        except (OSError, RuntimeError) as error:  # OSError: from the hub; RuntimeError: nothing is published
            if not pretrained:
                raise BackboneError(f"{name}: {first_line(error)}") from error
            raise WeightsError(
                f"cannot get timm's weights for {inner}: {first_line(error)}; give the path of a weights file, "
                "or use random weights"
            ) from error
        except (AssertionError, ValueError) as error:
            raise BackboneError(f"{name} with frames of {sized['img_size']}: {first_line(error)}") from error
    raise BackboneError(f"timm cannot build {inner}")


def _is_head(name: str) -> bool:
    return name.startswith(("head.", "fc.", "classifier.", "head_dist."))
