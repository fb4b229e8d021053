"""Reading frames with PyAV: counted from the start of the file, or identified by timestamp after a seek."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import UnreadableSourceError
from data_tools.video.frame_table import UNKNOWN, FrameTable, turn_of
from data_tools.video.pictures import (
    Pictures,
    Pulse,
    RgbFrame,
    checksum_of,
    open_video,
    stamp_of,
    to_rgb,
)

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

WORTHWHILE = 48
"""A seek must skip at least this many frames; otherwise they are decoded and dropped."""
GROUPS_EARLY = 2
"""In files that are not plain, a seek goes this many key frames further back, because pictures after a key frame may
need those of the group before."""


class _LostError(Exception):
    """After a seek, the pictures do not match the table."""


def pyav_frames(path: Path, table: FrameTable, wanted: Sequence[int], pulse: Pulse) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(number, frame)`` for the wanted numbers, in ascending order.

    Raises:
        UnreadableSourceError: the next wanted frame cannot be read. The frames yielded before it are good.
    """
    done = 0
    reader = _Reader(path, table, pulse)
    if reader.can_seek:
        try:
            for number, frame in reader.read(wanted):
                yield number, frame
                done += 1
            return
        except _LostError:
            reader.can_seek = False
    yield from reader.read(wanted[done:])


def all_frames(path: Path, pulse: Pulse) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(number, frame)`` for every frame of a file without a table.

    Raises:
        UnreadableSourceError: as :func:`data_tools.video.read_frames`.
    """
    with open_video(path) as (container, stream):
        pictures = Pictures(container, stream, pulse)
        turn, size, number = 0, (0, 0), -1
        for number, picture in enumerate(pictures):
            if number == 0:
                turn, size = turn_of(stream, picture), (picture.width, picture.height)
            _check_size(picture, size, path, number)
            yield number, to_rgb(picture, turn)
    if pictures.damage or number < 0:
        reason = pictures.damage or "the file has no pictures"
        raise UnreadableSourceError(f"{path}: frame {number + 1} cannot be read: {reason}")


class _Reader:
    def __init__(self, path: Path, table: FrameTable, pulse: Pulse) -> None:
        self._path, self._table, self._pulse = path, table, pulse
        self._stamps, self._keys, self._checksums = table.stamps, table.keys, table.checksums
        self._damage: str | None = None
        self._size = (table.height, table.width) if table.turn % 180 else (table.width, table.height)
        self.can_seek = bool((np.diff(self._stamps) > 0).all() and (self._stamps != UNKNOWN).all())

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, RgbFrame]]:
        """Raises ``_LostError`` if the frame may still be found by counting from the start."""
        if not len(wanted):
            return
        left = iter(wanted)
        number = next(left)
        with open_video(self._path) as (container, stream):
            begin = self._begin_for(number, 0)
            while True:
                if begin is None:
                    pictures = self._counted(container, stream)
                else:
                    pictures = self._found_again(container, stream, begin)
                for position, picture in pictures:
                    if position == number:
                        self._check(picture, number, sought=begin is not None)
                        yield number, to_rgb(picture, self._table.turn)
                        following = next(left, None)
                        if following is None:
                            return
                        number = following
                        ahead = self._begin_for(number, position + 1)
                        if ahead is not None:
                            begin = ahead
                            break
                else:
                    if begin is not None:
                        raise _LostError
                    raise UnreadableSourceError(f"{self._path}: frame {number} cannot be read: {self._reason()}")

    def _begin_for(self, number: int, position: int) -> int | None:
        """The key frame to seek to for ``number``; None: continue decoding from ``position``."""
        if not self.can_seek:
            return None
        groups = np.searchsorted(self._keys, number, side="right") - (1 if self._table.is_plain else 1 + GROUPS_EARLY)
        if groups < 0 or self._keys[groups] < position + WORTHWHILE:
            return None
        return int(self._keys[groups])

    def _counted(self, container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[int, av.VideoFrame]]:
        """Pictures from the start of the file, numbered by counting."""
        pictures = Pictures(container, stream, self._pulse)
        for position, picture in enumerate(pictures):
            stamp = stamp_of(picture)
            if position >= self._table.count or (UNKNOWN if stamp is None else stamp) != self._stamps[position]:
                raise UnreadableSourceError(
                    f"{self._path}: frame {position} has another timestamp than when the file was first read; "
                    "the file has changed, or its index is wrong: remux it"
                )
            yield position, picture
        self._damage = pictures.damage

    def _found_again(
        self, container: InputContainer, stream: av.VideoStream, begin: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Pictures from a key frame on, numbered by looking up their timestamps in the table."""
        import av

        try:
            container.seek(int(self._stamps[begin]), stream=stream)
        except (av.FFmpegError, OSError):
            raise _LostError from None
        expected = None
        with _complaints() as complaints:
            for picture in Pictures(container, stream, self._pulse):
                stamp = stamp_of(picture)
                position = int(np.searchsorted(self._stamps, UNKNOWN if stamp is None else stamp))
                if position == self._table.count or self._stamps[position] != stamp:
                    raise _LostError
                if self._table.is_plain and (complaints or expected not in (None, position)):
                    raise _LostError
                expected = position + 1
                yield position, picture

    def _check(self, picture: av.VideoFrame, number: int, *, sought: bool) -> None:
        if sought and self._checksums is not None and checksum_of(picture) != self._checksums[number]:
            raise _LostError
        _check_size(picture, self._size, self._path, number)

    def _reason(self) -> str:
        return self._damage or "the video ends before it"


@contextmanager
def _complaints() -> Iterator[Sequence[object]]:
    """FFmpeg's error messages: how it conceals a damaged picture depends on where decoding began."""
    from av import logging

    level = logging.get_level()
    logging.set_level(logging.ERROR)
    try:
        with logging.Capture() as messages:
            yield messages
    finally:
        logging.set_level(level)


def _check_size(picture: av.VideoFrame, size: tuple[int, int], path: Path, number: int) -> None:
    if (picture.width, picture.height) != size:
        raise UnreadableSourceError(
            f"{path}: frame {number} has {picture.width}x{picture.height} pixels, the first frame {size[0]}x{size[1]}"
        )
