"""Recognises plain files, whose packets alone determine which pictures come out and when.

In case of doubt a file is not plain; then it is decoded once instead, which works for every file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data_tools.video.pictures import Pulse

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

CONTAINERS = frozenset({"mov", "matroska"})
"""Containers whose every packet has its picture's timestamp and which can seek to a key frame by its time."""
DEEPEST_REORDERING = 16
"""H.264 and HEVC never hold back more pictures than this."""


def plain_stamps(
    container: InputContainer, stream: av.VideoStream, pulse: Pulse
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """The pictures' timestamps in order and the numbers of the key frames; None: the file is not plain.

    In a plain file, every packet begins exactly one picture with a unique timestamp; no packet is marked as hidden;
    groups begin with a picture that resets the decoder and none of their pictures is shown before it; no picture needs
    a deeper reordering than the decoder's; and the container's frame count agrees.
    """
    import av

    starts = _picture_starts(stream)
    if starts is None or CONTAINERS.isdisjoint(container.format.name.split(",")):
        return None
    stamps: list[int] = []
    keys: list[int] = []
    try:
        for packet in container.demux(stream):
            if not packet.size and packet.dts is None and packet.pts is None:
                continue  # PyAV's flush packet at the end
            pulse()
            if packet.pts is None or packet.is_discard or packet.is_corrupt or not packet.size:
                return None
            if starts.begins_group(packet) != packet.is_keyframe:
                return None
            if packet.is_keyframe:
                keys.append(len(stamps))
            stamps.append(packet.pts)
    except (av.FFmpegError, OSError, _NotPlainError):
        return None
    if "mov" in container.format.name and stream.frames != len(stamps):
        return None
    depth = stream.codec_context.reorder_depth
    return _in_order(np.array(stamps, np.int64), np.array(keys, np.int64), depth)


def _in_order(
    stamps: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], depth: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Sort timestamps given in decoding order; None unless groups are closed and reordered at most ``depth`` deep."""
    if not len(keys) or keys[0] != 0:
        return None
    order = np.argsort(stamps, kind="stable")
    ordered = stamps[order]
    if (np.diff(ordered) <= 0).any():
        return None
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    # In closed groups, a key frame has the same position in display and decoding order, and nothing later precedes it.
    if (place[keys] != keys).any() or (np.minimum.accumulate(place[::-1])[::-1][keys] != keys).any():
        return None
    # The decoder must still hold back all pictures that are decoded earlier but shown later.
    waits = max((int((place[max(0, i - DEEPEST_REORDERING) : i] > place[i]).sum()) for i in _moved(place)), default=0)
    return (ordered, keys) if waits <= depth else None


def _moved(place: npt.NDArray[np.int64]) -> Iterator[int]:
    """Pictures that are shown before one that is decoded earlier."""
    return iter(np.flatnonzero(place < np.maximum.accumulate(place)).tolist())


class _NotPlainError(Exception):
    """The packets contain something that is not understood with certainty."""


class _PictureStarts:
    """Parses H.264 or HEVC packets: length-prefixed NAL units."""

    def __init__(self, codec: str, length_bytes: int) -> None:
        self._hevc, self._length_bytes = codec == "hevc", length_bytes

    def begins_group(self, packet: av.Packet[av.VideoStream]) -> bool:
        """Whether the packet's picture resets the decoder.

        Raises:
            _NotPlainError: not exactly one picture begins in the packet, or it is coded in an unusual way.
        """
        data = memoryview(packet)
        position = pictures = resets = slices = 0
        while position < len(data):
            begin = position + self._length_bytes
            position = begin + int.from_bytes(data[begin - self._length_bytes : begin], "big")
            if position > len(data) or position < begin + 3:
                if position == begin:
                    continue
                raise _NotPlainError
            kind, first = self._unit(data, begin)
            if first is None:
                continue
            slices += 1
            pictures += first
            resets += kind
        if pictures != 1 or resets not in (0, slices):
            raise _NotPlainError
        return resets > 0

    def _unit(self, data: memoryview, begin: int) -> tuple[bool, bool | None]:
        """Whether the NAL unit's picture resets the decoder, and whether it begins that picture (None: no picture)."""
        if self._hevc:
            kind = data[begin] >> 1 & 0x3F
            if data[begin] & 1 or data[begin + 1] >> 3:  # a layer above the base
                raise _NotPlainError
            if kind >= 32:
                return False, None
            return kind in (19, 20), bool(data[begin + 2] & 0x80)
        kind = data[begin] & 0x1F
        if kind in (2, 3, 4, 20, 21):  # data partitions, layers
            raise _NotPlainError
        if kind not in (1, 5):
            return False, None
        return kind == 5, bool(data[begin + 1] & 0x80)


def _picture_starts(stream: av.VideoStream) -> _PictureStarts | None:
    """The packet parser for the stream; None if its packets are not understood."""
    head = stream.codec_context.extradata or b""
    codec = stream.codec_context.name
    if codec == "h264" and len(head) > 4 and head[0] == 1:
        return _PictureStarts(codec, (head[4] & 3) + 1)
    if codec == "hevc" and len(head) > 21 and head[0] == 1:
        return _PictureStarts(codec, (head[21] & 3) + 1)
    return None
