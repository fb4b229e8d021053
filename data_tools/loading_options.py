"""Options for decoding, resizing and augmenting stored clips. Does not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_tools.options import Options

ResizeFilter = Literal["bicubic", "bilinear"]


class LoaderOptions(Options):
    """How batches are decoded ahead of the training step."""

    threads: int = Field(default=2, ge=1, le=256)
    """Decoding threads of a worker (evaluation always decodes in threads)."""
    processes: int = Field(default=0, ge=0, le=256)
    """Loader processes of a worker, for training in place of threads; 0 uses threads."""
    prefetch: int = Field(default=2, ge=1, le=64)
    """Batches kept ready ahead of the training step."""


class AugmentOptions(Options):
    """Random changes to a training clip, drawn once for all its frames."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance of a horizontal flip."""
    crop: float = Field(default=0.0, ge=0, le=1)
    """Chance that the clip is enlarged by an eighth and cut back to its size at a random place."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Chance that a random rectangle (2 to 40 % of the picture) is erased."""
