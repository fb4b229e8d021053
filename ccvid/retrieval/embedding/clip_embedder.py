"""What embedding needs from a network."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class ClipEmbedder(Protocol):
    """A network that maps clips to features, whatever runs it."""

    @property
    def feature_size(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Where ``embed_frames`` expects frames."""

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        """uint8 RGB (B, T, 3, H, W) -> float32 features (B, D), in evaluation mode."""
