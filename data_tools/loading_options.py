"""Options for decoding, resizing and augmenting stored clips. Does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data_tools.options import Options, Rare

ResizeFilter = Literal["bicubic", "bilinear"]


class LoaderOptions(Options):
    """How batches are decoded ahead of the training step."""

    threads: int = Field(default=2, ge=1, le=256)
    """Decoding threads of a worker. Evaluation always decodes in threads."""
    processes: Annotated[int, Rare()] = Field(default=0, ge=0, le=256)
    """Decoding processes of a worker, instead of threads, for training; 0: threads."""
    prefetch: Annotated[int, Rare()] = Field(default=2, ge=1, le=64)
    """Batches decoded ahead of the one in use."""


class AugmentOptions(Options):
    """Random changes to a training clip, drawn once for all its frames."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    crop: float = Field(default=0.0, ge=0, le=1)
    """Probability of a random crop. The clip is enlarged by an eighth and cropped to its size at a random place."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Probability of erasing a random rectangle. It covers 2 to 40 % of the picture."""
