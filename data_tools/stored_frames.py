"""Decoding stored frames into clips."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

from data_tools.clips import Positions
from data_tools.encoded_pictures import check_size, open_picture
from data_tools.errors import InputError
from data_tools.loading_options import ResizeFilter
from data_tools.transforms import resize

Picture = NDArray[np.uint8]


class StoredTracklet(Protocol):
    """What the loader needs of a stored tracklet."""

    @property
    def id(self) -> str: ...
    @property
    def frame_count(self) -> int: ...


class FrameStore(Protocol):
    """A source of frames: `data_tools.shards.ShardFolder`, or anything with the same interface."""

    @property
    def rows(self) -> Sequence[StoredTracklet]: ...

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        """The frames at 0-based ``positions``: JPEG (or PNG) bytes, 1-D, or RGB pictures, (H, W, 3)."""


def decode_clip_(
    clip_TCHW: Tensor, store: FrameStore, row: int, positions: Positions, resize_filter: ResizeFilter = "bicubic"
) -> None:
    """Fill a uint8 clip, channels last in memory, as ``decode_frames_`` does."""
    decode_frames_(clip_TCHW.permute(0, 2, 3, 1).numpy(), store, row, positions.tolist(), resize_filter)


def decode_frames_(
    frames_THWC: Picture,
    store: FrameStore,
    row: int,
    positions: Sequence[int],
    resize_filter: ResizeFilter = "bicubic",
    *,
    reduced: bool = False,
) -> None:
    """Fill uint8 pictures with stored frames; frames of another size are resized.

    Args:
        reduced: decode larger JPEGs at a smaller scale, the next one of eighths, and only then resize: for pictures to
            look at, several times faster.

    Raises:
        InputError: a frame cannot be decoded; names the tracklet and the frame's position in it.
    """
    stored = store.encoded_frames(row, positions)
    for out_HWC, frame, position in zip(frames_THWC, stored, positions, strict=True):
        try:
            _fill_(out_HWC, frame, resize_filter, reduced)
        except (ValueError, OSError) as error:
            raise InputError(
                f"tracklet {store.rows[row].id}: stored frame {position} ({frame.size} bytes) is not a complete "
                "JPEG or PNG picture; verify the shards"
            ) from error


def _fill_(out_HWC: Picture, frame: NDArray[np.uint8], resize_filter: ResizeFilter, reduced: bool) -> None:
    """Decode straight into the batch, bit-identical to PIL (which ignores an EXIF orientation, too) unless reduced."""
    height, width = out_HWC.shape[:2]
    try:
        if frame.ndim == 1:
            size = decode_jpeg_header(frame)[:2]
            if size == (height, width):
                decode_jpeg(frame, "RGB", buffer=out_HWC)
                return
            if reduced:
                check_size(*size)
                frame = decode_jpeg(frame, "RGB", min_height=height, min_width=width)
    except ValueError:
        pass  # not an RGB or grey JPEG: PIL reads more kinds
    picture = frame if frame.ndim == 3 else _decoded(frame)
    fits = picture.shape == out_HWC.shape
    np.copyto(out_HWC, picture if fits else resize(picture, height, width, resize_filter))


def _decoded(frame: NDArray[np.uint8]) -> Picture:
    with open_picture(io.BytesIO(frame.tobytes()), ("JPEG", "PNG")) as picture:
        return np.asarray(picture.convert("RGB"))
