"""Reading frames with decord, where it is right: in plain files whose index it reads as the table has it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.video.frame_table import FrameTable
from data_tools.video.pictures import Pulse, RgbFrame

PIECE_BYTES = 64 * 2**20
"""How much decoded video is read at a time, as far as groups of pictures allow; memory is some four times this."""
GROUP_BYTES = 192 * 2**20
"""The largest group of pictures that decord reads, for it must be held whole."""
FILE_BYTES = 256 * 2**20
"""The largest file that decord reads: its demuxer runs ahead while its decoder works, as far as the file goes."""
CLOCK_ERROR = 0.25
"""Share of the time from one frame to the next by which decord's single-precision seconds may differ."""


class NotForDecordError(Exception):
    """decord cannot read the file, or not within bounded memory, or it numbers its frames otherwise."""


def decord_frames(path: Path, table: FrameTable, wanted: Sequence[int], pulse: Pulse) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(number, frame)`` for the wanted numbers, which ascend.

    Raises:
        NotForDecordError: another decoder must read on; the frames yielded before are good.
    """
    import decord

    if not table.is_plain or table.turn or table.video_streams > 1 or table.file_bytes > FILE_BYTES or not len(wanted):
        raise NotForDecordError
    try:
        with _complaints() as complained:
            reader = decord.VideoReader(str(path), num_threads=1)
            keys = reader.get_key_indices()
            if not _agrees(reader, keys, table):
                raise NotForDecordError
            most, longest = (size // (table.width * table.height * 3) for size in (PIECE_BYTES, GROUP_BYTES))
            for numbers in _cut_at_keys(wanted, keys, most=most, longest=longest):
                piece = _read_piece(reader, numbers)
                pulse()
                if complained() or any(frame.shape != (table.height, table.width, 3) for frame in piece):
                    raise NotForDecordError
                for number in numbers:
                    yield number, piece.popleft()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise NotForDecordError from error


def _read_piece(reader: Any, numbers: list[int]) -> deque[RgbFrame]:
    piece: deque[RgbFrame] = deque()
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        # A run goes twice as fast frame by frame: a batch needs a large new piece of memory every time.
        piece.extend(reader.get_batch(numbers[:1]).asnumpy())
        piece.extend(reader.next().asnumpy() for _ in numbers[1:])
    else:
        piece.extend(reader.get_batch(numbers).asnumpy())
    # Left alone, decord's thread decodes on to the end of the video and keeps every frame.
    reader.seek(0)
    return piece


@contextmanager
def _complaints() -> Iterator[Callable[[], bool]]:
    """Tells whether something was written to stderr meanwhile.

    Where a file is damaged decord goes on with other pictures than OpenCV, and only its FFmpeg's messages tell.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as messages:
            os.dup2(messages.fileno(), 2)
            yield lambda: os.fstat(messages.fileno()).st_size > 0
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _agrees(reader: Any, keys: Sequence[int], table: FrameTable) -> bool:
    """Whether decord's index has the table's frames, each at its time, and the same key frames."""
    if len(reader) != table.count or list(keys) != table.keys.tolist():
        return False
    stamps = table.stamps * float(Fraction(table.seconds_a_tick))
    found = np.asarray(reader.get_frame_timestamp(range(table.count)))[:, 0].astype(np.float64)
    shortest = np.diff(stamps).min(initial=1.0)
    return bool((np.abs(found - stamps) < CLOCK_ERROR * shortest).all())


def _cut_at_keys(wanted: Sequence[int], keys: Sequence[int], *, most: int, longest: int) -> Iterator[list[int]]:
    """Cut the wanted frames into pieces of whole groups of pictures, ``most`` frames where the groups allow.

    A piece that began inside a group would decode the group's beginning once more; where one group alone holds
    more than ``longest`` wanted frames, decord is the wrong tool.
    """
    bounds = np.searchsorted(np.asarray(wanted), np.asarray([*keys, np.iinfo(np.int64).max]))
    start = end = 0
    for bound in np.unique(bounds).tolist():
        if bound - start > most and end > start:
            yield list(wanted[start:end])
            start = end
        if bound - start > longest:
            raise NotForDecordError
        end = bound
    if end > start:
        yield list(wanted[start:end])
