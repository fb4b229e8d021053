"""Pictures of tracklets as JPEG files: a few frames side by side, one file a tracklet, however often it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from ccvid.retrieval.ranked_picture import Picture, Thumbnails

HEIGHT = 160
WIDEST_FRAME = 2 * HEIGHT
BETWEEN = 2
QUALITY = 82
FOLDER_SIZE = 1000
"""Pictures are numbered, never named after data; so many share a folder."""


class PictureFolder:
    """Writes each tracklet's picture when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[Thumbnails, int], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def picture(self, thumbnails: Thumbnails, index: int) -> tuple[int, int]:
        """The number and the width in pixels of a tracklet's picture; sides with the same thumbnails share pictures."""
        key = thumbnails, index
        if key not in self._known:
            strip = film_strip(thumbnails(index))
            number = len(self._known)
            path = self._folder / str(number // FOLDER_SIZE) / f"{number % FOLDER_SIZE}.jpg"
            if number % FOLDER_SIZE == 0:
                path.parent.mkdir(parents=True)
            path.write_bytes(simplejpeg.encode_jpeg(strip, quality=QUALITY, colorsubsampling="420"))
            self._known[key] = number, strip.shape[1]
        return self._known[key]


def film_strip(frames: Sequence[Picture]) -> Picture:
    """The frames side by side, ``HEIGHT`` pixels high, a dark line between them: RGB (HEIGHT, W, 3) uint8."""
    scaled = [np.asarray(_scaled(Image.fromarray(frame))) for frame in frames]
    width = sum(frame.shape[1] + BETWEEN for frame in scaled) - BETWEEN
    strip = np.full((HEIGHT, width, 3), 24, np.uint8)
    left = 0
    for frame in scaled:
        strip[:, left : left + frame.shape[1]] = frame
        left += frame.shape[1] + BETWEEN
    return strip


def _scaled(frame: Image.Image) -> Image.Image:
    width = round(frame.width * HEIGHT / frame.height)
    return frame.resize((min(max(width, 1), WIDEST_FRAME), HEIGHT), Image.Resampling.LANCZOS, reducing_gap=2.0)
