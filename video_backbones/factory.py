"""Backbones by name."""

from __future__ import annotations

from pathlib import Path

from torchvision.models import get_weight

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import (
    TIMM_PREFIX,
    BackboneChoices,
    SpatialPoolName,
    TemporalPoolName,
    WeightsError,
    network_named,
    published_kinds,
    published_weights,
)
from video_backbones.released import own_state
from video_backbones.timm_frames import build_timm
from video_backbones.weights import fetch_weights, load_weights, read_weights


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
        name: A row of `choices.NETWORKS`, or `timm/NAME`, any image network of timm.
            `python -m video_backbones.summary` lists them with their D.
        weights: `random` (from torch's global generator), `imagenet` or `kinetics` (torchvision's, downloaded
            to its cache if missing), or a file: `.safetensors`, ours or not, a state dict saved by `torch.save`,
            or a released CAL checkpoint.
        last_stride: 1 or 2, the spatial stride of the last stage.
        spatial_pool: How a frame's map becomes a vector; `max_avg` doubles D.
        temporal_pool: How the frames' vectors become one.
        clip_size: (T, H, W) of the clips; used only if the number of parameters depends on it.
        whole: A file must also contain the neck and the learned pools: it is a trained model, not a starting point.

    Raises:
        BackboneError: There is no such backbone, or not for such clips.
        WeightsError: The weights cannot be obtained or read, or do not fit; the message says what to do.
    """
    choices = BackboneChoices(
        last_stride=last_stride, spatial_pool=spatial_pool, temporal_pool=temporal_pool, clip_size=clip_size
    )
    if name.startswith(TIMM_PREFIX):
        image_network, image_state = build_timm(name, choices, weights=weights, whole=whole)
        if image_state:
            load_weights(image_network, image_state, str(weights), whole=whole)
        return image_network
    network = network_named(name)
    backbone = network.make(choices)
    if weights == "random":
        return backbone
    if weights in published_kinds():
        if weights not in network.published:
            known = ", ".join(published_weights(name))
            raise WeightsError(f"no {weights} weights are published for {name}; choose {known} or a file")
        published = backbone.from_published(fetch_weights(get_weight(network.published[str(weights)])))
        load_weights(backbone, published, f"{weights} weights of {name}")
    else:
        state = own_state(read_weights(Path(weights)), origin=str(weights), name=name, spatial_pool=spatial_pool)
        load_weights(backbone, state if whole else backbone.from_file(state), str(weights), whole=whole)
    return backbone
