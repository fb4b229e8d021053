"""Tiny videos for tests, written with PyAV."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GREY_STEP = 4
"""Grey levels between one frame and the next: frame n is everywhere about ``(n % 60) * GREY_STEP``."""


def make_video(
    path: Path,
    frame_count: int = 20,
    width: int = 96,
    height: int = 64,
    frames_per_second: int = 25,
    codec: str = "mpeg4",
) -> Path:
    """Write a video of plain frames whose grey level encodes their number; returns ``path``."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=frames_per_second)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(frame_count):
            grey = np.full((height, width, 3), grey_of(number), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def grey_of(frame: int) -> int:
    """The grey level (0 to 236) of a frame by its number from 0; codecs change it by a level or two."""
    return frame % 60 * GREY_STEP
