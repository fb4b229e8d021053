"""The common structure of backbones: frame maps -> spatial pool -> temporal pool -> BatchNorm neck."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from video_backbones.checkpointing import recomputed
from video_backbones.choices import SpatialPoolName, TemporalPoolName
from video_backbones.pooling import build_spatial_pool, build_temporal_pool


class VideoBackbone(nn.Module, ABC):
    """Maps a clip's frames to one feature vector.

    A subclass computes the maps (`feature_maps`). The tail is common to all, as in CAL (Gu et al., CVPR 2022): each
    frame's map is pooled over space, the frames are pooled over time, and the neck, `bn`, normalises unless there is
    none. The tail computes in at least float32, also under autocast.

    Shape letters: B clips, T frames, C colour channels, H and W pixels; D features.

    Args:
        map_size: Channels of the maps; the feature has as many, with `max_avg` twice as many.
        spatial_pool: How one frame's map becomes a vector.
        temporal_pool: How the frames' vectors become one.
        neck: Whether a BatchNorm follows; without one the feature is the pooled vector, and the state has no `bn.*`.
    """

    heads: ClassVar[tuple[str, ...]] = ("fc.", "head.", "classifier.")
    """Starts of names in weights files that are ignored: they classify."""
    recomputes: ClassVar[bool] = False
    """Whether the blocks go through `run_block`, so that `checkpoint_blocks` has an effect."""
    checkpoint_blocks: bool = False
    """Whether blocks are recomputed in the backward pass."""

    def __init__(
        self, map_size: int, spatial_pool: SpatialPoolName, temporal_pool: TemporalPoolName, *, neck: bool = True
    ) -> None:
        super().__init__()
        self.feature_size = 2 * map_size if spatial_pool == "max_avg" else map_size
        self.spatial_pool = build_spatial_pool(spatial_pool)
        self.temporal_pool = build_temporal_pool(temporal_pool, self.feature_size)
        self.bn = nn.BatchNorm1d(self.feature_size) if neck else nn.Identity()
        if isinstance(self.bn, nn.BatchNorm1d):
            nn.init.normal_(self.bn.weight, 1.0, 0.02)

    @abstractmethod
    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T', D, H', W'); T' may be smaller than T, never 0."""

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """`block(*inputs)`, in training recomputed in the backward pass if that was chosen."""
        return recomputed(block, *inputs, network=block) if self.checkpoint_blocks and self.training else block(*inputs)

    def is_new(self, name: str) -> bool:
        """Whether a starting point may lack this tensor, which then keeps its initial value."""
        return name.startswith(("bn.", "spatial_pool.", "temporal_pool."))

    def from_published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Convert weights published by torchvision to this network's names; by default they are the same."""
        return state

    def from_file(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Convert initial weights from a file to this network's names and shapes; by default they are unchanged."""
        return state

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        """Normalised floating-point frames (B, T, 3, H, W), T >= 1 -> features (B, D) after the neck, if any."""
        return self.necked(self.pooled(frames_BTCHW))

    def pooled(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, D) before the neck: each clip on its own, but for BatchNorm within the network."""
        assert frames_BTCHW.ndim == 5, f"got {frames_BTCHW.shape = }"
        maps_BTDHW = self.feature_maps(frames_BTCHW)
        with torch.autocast(maps_BTDHW.device.type, enabled=False):
            pooled_BD: Tensor = self.temporal_pool(self.spatial_pool(maps_BTDHW))
        return pooled_BD

    def necked(self, pooled_BD: Tensor) -> Tensor:
        """(B, D) -> features (B, D)."""
        if isinstance(self.bn, nn.Identity):
            return pooled_BD
        with torch.autocast(pooled_BD.device.type, enabled=False):
            feature_BD: Tensor = self.bn(pooled_BD)
        return feature_BD
