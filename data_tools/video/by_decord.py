"""Reading frames with decord, where it is right: in plain files for which its index agrees with the frame table."""

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
"""Decoded video read at a time, as far as groups of pictures (GOPs) allow; memory use is about four times this."""
GROUP_BYTES = 192 * 2**20
"""The largest GOP read with decord, because it is held in memory as a whole."""
FILE_BYTES = 256 * 2**20
"""The largest file read with decord, because its demuxer reads ahead of its decoder without a limit."""
CLOCK_ERROR = 0.25
"""Allowed error of decord's single-precision seconds, as a share of the shortest time between frames."""


class NotForDecordError(Exception):
    """decord cannot read the file, cannot do so in bounded memory, or numbers its frames differently."""


def decord_frames(path: Path, table: FrameTable, wanted: Sequence[int], pulse: Pulse) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(number, frame)`` for the wanted numbers, in ascending order.

    Raises:
        NotForDecordError: another decoder must continue; the frames yielded so far are good.
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
        # Consecutive frames are twice as fast one by one: each batch allocates a large block of memory.
        piece.extend(reader.get_batch(numbers[:1]).asnumpy())
        piece.extend(reader.next().asnumpy() for _ in numbers[1:])
    else:
        piece.extend(reader.get_batch(numbers).asnumpy())
    # Otherwise decord's thread goes on decoding to the end of the video and keeps every frame.
    reader.seek(0)
    return piece


@contextmanager
def _complaints() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether anything was written to stderr since.

    In a damaged file, decord returns other pictures than OpenCV, and only FFmpeg's messages on stderr show it.
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
    """Whether decord's index has the table's frames, at the same times, and the same key frames."""
    if len(reader) != table.count or list(keys) != table.keys.tolist():
        return False
    stamps = table.stamps * float(Fraction(table.seconds_a_tick))
    found = np.asarray(reader.get_frame_timestamp(range(table.count)))[:, 0].astype(np.float64)
    shortest = np.diff(stamps).min(initial=1.0)
    return bool((np.abs(found - stamps) < CLOCK_ERROR * shortest).all())


def _cut_at_keys(wanted: Sequence[int], keys: Sequence[int], *, most: int, longest: int) -> Iterator[list[int]]:
    """Cut the wanted frames into pieces of whole GOPs, of up to ``most`` frames if the GOPs allow.

    A piece that began inside a GOP would decode the GOP's beginning again. If one GOP has more than ``longest`` wanted
    frames, decord would need too much memory.
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
