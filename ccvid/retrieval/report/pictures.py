"""Pictures of tracklets as JPEG files: a few frames side by side, one file a tracklet, however often it is shown."""

from __future__ import annotations

from pathlib import Path

import simplejpeg

from ccvid.retrieval.report.film_strip import Thumbnails, film_strip

NO_PICTURE = -1, 80
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
        """The number and the width in pixels of a tracklet's picture; sides with the same thumbnails share pictures.

        Without frames the number is −1.
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
