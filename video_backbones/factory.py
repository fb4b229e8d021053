"""Backbones by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torchvision.models import get_weight

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import (
    TIMM_PREFIX,
    AttentionName,
    BackboneChoices,
    BackboneError,
    SpatialPoolName,
    TemporalPoolName,
    WeightsError,
    check_choices,
    is_csci,
    network_named,
    published_kinds,
    published_weights,
)
from video_backbones.released import own_state
from video_backbones.timm_frames import build_timm, require_timm
from video_backbones.weights import fetch_weights, load_weights, read_weights


def build_backbone(
    name: str,
    *,
    weights: str | Path,
    last_stride: int = 1,
    spatial_pool: SpatialPoolName = "max",
    temporal_pool: TemporalPoolName = "mean",
    clip_size: tuple[int, int, int] = (8, 256, 128),
    patch: int | None = None,
    drop_path: float = 0.0,
    checkpoint_blocks: bool = False,
    attention: AttentionName = "s2a",
    whole: bool = False,
) -> VideoBackbone:
    """A backbone in training mode, on the CPU, in float32.

    Args:
        name: A row of `choices.NETWORKS`, `timm/NAME`, any image network of timm, or `csci_plain/NAME`,
            `csci_image/NAME`, `csci_video/NAME`, any EVA-02 or ViT of timm, or one of `choices.CSCI_OWN_SIZES`.
            `python -m video_backbones.summary` lists them with their D.
        weights: `random` (from torch's global generator), `imagenet` or `kinetics` (torchvision's or timm's,
            downloaded to its cache if missing), or a file: `.safetensors`, ours or not, a state dict saved by
            `torch.save`, or a released CAL or CSCI checkpoint.
        last_stride: 1 or 2, the spatial stride of the last stage.
        spatial_pool: How a frame's map becomes a vector; `max_avg` doubles D.
        temporal_pool: How the frames' vectors become one.
        clip_size: (T, H, W) of the clips; used only if the number of parameters depends on it.
        patch: Height and width of a patch, of CSCI's networks alone. Default: that of the named network.
        drop_path: Stochastic depth of the last block, of CSCI's networks alone.
        checkpoint_blocks: Recompute blocks in the backward pass, of all but timm's networks.
        attention: How class and colour token see each other, of `csci_image` and `csci_video` alone.
        whole: A file must also contain the neck, the learned pools and whatever else is new in the network: it is a
            trained model, not a starting point.

    Raises:
        BackboneError: There is no such backbone, or not for such clips.
        WeightsError: The weights cannot be obtained or read, or do not fit; the message says what to do.
    """
    choices = BackboneChoices(
        last_stride=last_stride,
        spatial_pool=spatial_pool,
        temporal_pool=temporal_pool,
        clip_size=clip_size,
        patch=patch,
        drop_path=drop_path,
        checkpoint_blocks=checkpoint_blocks,
        attention=attention,
    )
    check_choices(name, choices)
    if name.startswith(TIMM_PREFIX):
        image_network, image_state = build_timm(name, choices, weights=weights, whole=whole)
        _choose_recomputing(image_network, name, choices)
        if image_state:
            load_weights(image_network, image_state, str(weights), whole=whole)
        return image_network
    backbone = _made(name, choices)
    _choose_recomputing(backbone, name, choices)
    if weights == "random":
        return backbone
    if weights in published_kinds():
        published = backbone.from_published(_published(name, str(weights), choices))
        load_weights(backbone, published, f"{weights} weights of {name}")
    else:
        state = own_state(read_weights(Path(weights)), origin=str(weights), name=name, spatial_pool=spatial_pool)
        load_weights(backbone, state if whole else backbone.from_file(state), str(weights), whole=whole)
    return backbone


def _made(name: str, choices: BackboneChoices) -> VideoBackbone:
    """With random weights."""
    if not is_csci(name):
        return network_named(name).make(choices)
    require_timm(name)
    from video_backbones.csci.trunk import build_csci  # needs timm, which may be missing

    return build_csci(name, choices)


def _choose_recomputing(backbone: VideoBackbone, name: str, choices: BackboneChoices) -> None:
    if choices.checkpoint_blocks and not backbone.recomputes:
        raise BackboneError(f"{name} cannot recompute its blocks: checkpoint_blocks must be false")
    backbone.checkpoint_blocks = choices.checkpoint_blocks


def _published(name: str, kind: str, choices: BackboneChoices) -> Mapping[str, Tensor]:
    if kind not in published_weights(name):
        known = ", ".join(published_weights(name))
        raise WeightsError(f"no {kind} weights are published for {name}; choose {known} or a file")
    if not is_csci(name):
        return fetch_weights(get_weight(network_named(name).published[kind]))
    from video_backbones.csci.trunk import pretrained_state

    return pretrained_state(name, choices)
