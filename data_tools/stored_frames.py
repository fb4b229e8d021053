"""Stored frames, wherever they are kept, decoded into clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

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
    pictures_THWC = clip_TCHW.permute(0, 2, 3, 1).numpy()
    encoded = store.encoded_frames(row, positions.tolist())
    for picture_HWC, code, position in zip(pictures_THWC, encoded, positions, strict=True):
        try:
            frame_HWC = code if code.ndim == 3 else _decode(code)
        except RuntimeError as error:
            raise InputError(
                f"tracklet {store.rows[row].id}: its stored frame {position} ({code.size} bytes) is not a "
                "whole JPEG or PNG picture; verify the shards"
            ) from error
        same_size = frame_HWC.shape == picture_HWC.shape
        picture_HWC[:] = frame_HWC if same_size else resize(frame_HWC, *picture_HWC.shape[:2])


def _decode(code: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Copied because torch warns of memory maps, which cannot be written; some 15 KB of 100 KB that come out.
    frame_CHW = decode_image(torch.from_numpy(code.copy()), ImageReadMode.RGB)
    picture: NDArray[np.uint8] = frame_CHW.permute(1, 2, 0).numpy()
    return picture
