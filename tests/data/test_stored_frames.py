"""Frames decoded for looking at: at a smaller scale, of any kind, or with a clear error."""

from __future__ import annotations

import io
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_tools.errors import InputError
from data_tools.stored_frames import Picture, decode_frames_

SIZE = (128, 64)


class Frames:
    """A store of one tracklet with these frames."""

    def __init__(self, *frames: Picture) -> None:
        self.rows = [SimpleNamespace(id="walk", frame_count=len(frames))]
        self._frames = frames

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[Picture]:
        assert row == 0
        return [self._frames[position] for position in positions]


def scene(height: int, width: int) -> Image.Image:
    """Soft colours, so that a picture's scale makes no difference."""
    coarse = np.random.default_rng(height).integers(0, 256, (6, 3, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "JPEG") -> Picture:
    content = io.BytesIO()
    picture.save(content, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return np.frombuffer(content.getvalue(), np.uint8)


def reduced(*frames: Picture) -> Picture:
    pictures = np.empty((len(frames), *SIZE, 3), np.uint8)
    decode_frames_(pictures, Frames(*frames), 0, range(len(frames)), reduced=True)
    return pictures


@pytest.mark.parametrize("size", [(256, 128), (384, 192), (129, 65), (1000, 77), (40, 20)])
def test_a_reduced_frame_looks_as_a_resized_one(size: tuple[int, int]) -> None:
    frame = encoded(scene(*size))
    whole = np.empty((1, *SIZE, 3), np.uint8)
    decode_frames_(whole, Frames(frame), 0, [0])
    assert np.abs(reduced(frame).astype(int) - whole).mean() < 2


def test_a_frame_of_the_wanted_size_is_decoded_as_it_is() -> None:
    frame = encoded(scene(*SIZE))
    np.testing.assert_array_equal(reduced(frame)[0], np.asarray(Image.open(io.BytesIO(frame.tobytes()))))


def test_frames_of_every_kind_can_be_reduced() -> None:
    picture = scene(256, 128)
    grey, cmyk = (encoded(picture.convert(mode)) for mode in ("L", "CMYK"))
    frames = reduced(encoded(picture), encoded(picture, "PNG"), np.asarray(picture), cmyk, grey)
    assert np.abs(frames[1:4].astype(int) - frames[0]).mean(axis=(1, 2, 3)).max() < 3
    np.testing.assert_array_equal(frames[4][..., 0], frames[4][..., 1])


def test_a_damaged_frame_is_named() -> None:
    frame = encoded(scene(256, 128))
    with pytest.raises(InputError, match=r"tracklet walk: stored frame 1 \(\d+ bytes\) is not a complete JPEG or PNG"):
        reduced(frame, frame[: len(frame) // 2])


def test_a_frame_that_claims_a_huge_size_is_not_decoded() -> None:
    frame = encoded(scene(256, 128)).copy()
    start = frame.tobytes().index(b"\xff\xc0") + 5
    frame[start : start + 4] = 255  # 65,535 pixels high and wide
    with pytest.raises(InputError, match="stored frame 0"):
        reduced(frame)
