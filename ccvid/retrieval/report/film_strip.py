"""Frames of a tracklet side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]
Thumbnails = Callable[[int], Sequence[Picture]]
"""Some frames of the tracklet with this index, RGB (H, W, 3) each; none if there are no pictures of it.

May be called by several threads at a time.
"""

HEIGHT = 128
"""As the pages show it, in pixels; JPEGs of 256x128 are decoded at this size."""
WIDEST_FRAME = 2 * HEIGHT
BETWEEN = 2
DARK = 24


def film_strip(frames: Sequence[Picture]) -> Picture:
    """The frames, ``HEIGHT`` pixels high, with dark lines between them: RGB (HEIGHT, W, 3) uint8; grey if none."""
    if not frames:
        return np.full((HEIGHT, HEIGHT // 2, 3), 208, np.uint8)
    scaled = [_scaled(frame) for frame in frames]
    width = sum(frame.shape[1] + BETWEEN for frame in scaled) - BETWEEN
    strip = np.full((HEIGHT, width, 3), DARK, np.uint8)
    left = 0
    for frame in scaled:
        strip[:, left : left + frame.shape[1]] = frame
        left += frame.shape[1] + BETWEEN
    return strip


def _scaled(frame: Picture) -> Picture:
    height, width = frame.shape[:2]
    size = min(max(round(width * HEIGHT / height), 1), WIDEST_FRAME), HEIGHT
    if size == (width, height):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
