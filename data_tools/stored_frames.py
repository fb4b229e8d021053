"""Stored frames, wherever they are kept, decoded into clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode

from data_tools.clips import Positions
from data_tools.errors import InputError
from data_tools.transforms import resize


class StoredTracklet(Protocol):
    """What the loader asks of a stored tracklet."""

    @property
    def id(self) -> str: ...
    @property
    def frame_count(self) -> int: ...


class FrameStore(Protocol):
    """Where frames come from: `data_tools.shards.ShardFolder`, or anything that gives the same."""

    @property
    def rows(self) -> Sequence[StoredTracklet]: ...

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        """The frames at 0-based ``positions``: JPEG (or PNG) bytes, 1-D, or RGB pictures, (H, W, 3)."""


def decode_clip_(clip_TCHW: Tensor, store: FrameStore, row: int, positions: Positions) -> None:
    """Fill a uint8 clip, channels last in memory, with stored frames; frames of another size are resized.

    Raises:
        InputError: a frame cannot be decoded; names the tracklet and the frame's position in it.
    """
    clip_THWC = clip_TCHW.permute(0, 2, 3, 1)
    stored = store.encoded_frames(row, positions.tolist())
    if stored[0].ndim == 3:
        _copy(stored, clip_THWC)
        return
    frames_HWC: list[Tensor] = []
    for position, code in zip(positions, stored, strict=True):
        try:
            frames_HWC.append(_decode(code))
        except RuntimeError as error:
            raise InputError(
                f"tracklet {store.rows[row].id}: its stored frame {position} ({code.size} bytes) is not a "
                "whole JPEG or PNG picture; verify the shards"
            ) from error
    # Copied together and last: the decoder's stores go past the cache, and to read them at once waits for memory.
    shape = clip_THWC.shape[1:]
    if all(frame_HWC.shape == shape for frame_HWC in frames_HWC):
        torch.stack(frames_HWC, out=clip_THWC)
    else:
        _copy([frame_HWC.numpy() for frame_HWC in frames_HWC], clip_THWC)


def _decode(code: NDArray[np.uint8]) -> Tensor:
    """RGB, (H, W, 3), to the bit as PIL decodes it; an EXIF orientation is left alone, as PIL does."""
    # The operator of torchvision.io.decode_image, without the wrapper's warning at every frame (2 % of the time).
    # The code is copied because torch warns of memory maps, which cannot be written.
    frame_CHW: Tensor = torch.ops.image.decode_image(torch.from_numpy(code.copy()), ImageReadMode.RGB.value, False)
    return frame_CHW.permute(1, 2, 0)


def _copy(pictures: list[NDArray[np.uint8]], clip_THWC: Tensor) -> None:
    size = clip_THWC.shape[1:3]
    fitting = [picture if picture.shape[:2] == size else resize(picture, *size) for picture in pictures]
    np.stack(fitting, out=clip_THWC.numpy())
