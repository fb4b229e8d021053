"""Pictures of tracklets as JPEG files: a few frames side by side, one file per tracklet, however often it is shown."""

from __future__ import annotations

from pathlib import Path

import simplejpeg

from ccvid.retrieval.report.film_strip import Thumbnails, film_strip

NO_PICTURE = -1, 80
QUALITY = 82
FOLDER_SIZE = 1000
"""Pictures per folder; they are numbered, never named after data."""


class PictureFolder:
    """Writes each tracklet's picture when it is first requested."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[Thumbnails, int], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def picture(self, thumbnails: Thumbnails, index: int) -> tuple[int, int]:
        """The number and the width in pixels of a tracklet's picture; the number is −1 if there are no frames.

        Queries and gallery share pictures if they have the same thumbnails.
        """
        key = thumbnails, index
        if key not in self._known:
            frames = thumbnails(index)
            if not frames:
                return NO_PICTURE
            strip = film_strip(frames)
            number = len(self._known)
            path = self._folder / str(number // FOLDER_SIZE) / f"{number % FOLDER_SIZE}.jpg"
            if number % FOLDER_SIZE == 0:
                path.parent.mkdir(parents=True)
            path.write_bytes(simplejpeg.encode_jpeg(strip, quality=QUALITY, colorsubsampling="420"))
            self._known[key] = number, strip.shape[1]
        return self._known[key]
