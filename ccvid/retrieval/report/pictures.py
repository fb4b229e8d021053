"""Pictures of tracklets as JPEG files: a few frames side by side, one file per tracklet, however often it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import simplejpeg

from ccvid.retrieval.report.film_strip import Picture, Thumbnails, film_strip
from data_tools.cpus import available_cpus
from data_tools.progress import Meter

ItemT = TypeVar("ItemT")
Wanted = tuple[int, Thumbnails, int]
"""A picture's number, and where the frames come from."""

QUALITY = 82
FOLDER_SIZE = 1000
"""Pictures per folder; they are numbered, never named after data."""
PICTURES_AT_A_TIME = 32
"""By one thread."""


@dataclass(frozen=True, slots=True)
class PictureWidths:
    """The widths of all pictures in pixels: ``most``, but for those in ``others``, by number; 0: no picture."""

    most: int
    others: dict[int, int]


class PictureFolder:
    """Numbers the tracklets that pages show, in the order of first mention, and then writes a picture of each.

    Queries and gallery share pictures if they have the same thumbnails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number: dict[Thumbnails, dict[int, int]] = {}
        self._count = 0

    def number(self, thumbnails: Thumbnails, index: int) -> int:
        """The number of a tracklet's picture, which need not exist yet."""
        known = self._number.setdefault(thumbnails, {})
        if index not in known:
            known[index] = self._count
            self._count += 1
        return known[index]

    def write(self) -> PictureWidths:
        """Write all pictures, on all CPUs; tracklets without frames have none. Raises what the thumbnails raise."""
        for folder in range(0, self._count, FOLDER_SIZE):
            (self._folder / str(folder // FOLDER_SIZE)).mkdir(parents=True)
        width_of: dict[int, int] = {}
        meter = Meter("pictures", self._count, "tracklets", brief=True)
        with ThreadPoolExecutor(available_cpus(), thread_name_prefix="pictures") as threads:
            for widths in threads.map(self._write_some, self._shares()):
                width_of |= widths
                meter.add(len(widths), pictures=len(widths))
        most = Counter(width_of.values()).most_common(1)[0][0] if width_of else 0
        return PictureWidths(most, {number: width for number, width in sorted(width_of.items()) if width != most})

    def _shares(self) -> Iterator[list[Wanted]]:
        """What the threads take at a time, in the order of the indices, which is mostly that of the stored frames."""
        wanted = (
            (known[index], thumbnails, index) for thumbnails, known in self._number.items() for index in sorted(known)
        )
        return in_parts(wanted, PICTURES_AT_A_TIME)

    def _write_some(self, wanted: list[Wanted]) -> dict[int, int]:
        return {number: self._write_one(number, thumbnails(index)) for number, thumbnails, index in wanted}

    def _write_one(self, number: int, frames: Sequence[Picture]) -> int:
        if not frames:
            return 0
        strip = film_strip(frames)
        with open(self._path(number), "wb") as file:
            file.write(simplejpeg.encode_jpeg(strip, quality=QUALITY, colorsubsampling="420"))
        return int(strip.shape[1])

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number // FOLDER_SIZE}/{number % FOLDER_SIZE}.jpg"


def in_parts(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Lists of ``size`` items each, the last one shorter."""
    remaining = iter(items)
    return iter(lambda: list(islice(remaining, size)), [])
