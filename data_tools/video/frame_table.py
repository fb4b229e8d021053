"""The frame table of a video: its pictures and their timestamps, counted once."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, model_validator

from data_tools.encoded_pictures import check_size
from data_tools.errors import UnreadableSourceError
from data_tools.options import Options
from data_tools.video.picture_folders import list_pictures, read_picture
from data_tools.video.pictures import (
    Pictures,
    Pulse,
    checksum_of,
    no_pulse,
    open_video,
    stamp_of,
)
from data_tools.video.plain_files import plain_stamps
from data_tools.wording import first_line

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

Integers = npt.NDArray[np.int64]
Turn = Literal[0, 90, 180, 270]

UNKNOWN = np.iinfo(np.int64).min
"""Stands for a timestamp that the file does not contain."""
DEFAULT_RATE = 25.0
"""Frames per second for files that contain neither timestamps nor a rate."""
MOST_FRAMES = 2**24
"""Most frames of a video: three days at 60 per second."""
PICTURES = "pictures"
"""The value of ``container`` for a sequence of pictures."""


class FrameTable(Options):
    """The pictures of one video as ``data_tools.video`` numbers them. Compact, because it is sent with a shard plan."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    file_bytes: int = Field(ge=0)
    """The file's size when the table was made."""
    container: str
    """FFmpeg's name of the format, or ``PICTURES``."""
    created: str | None
    """Start of the recording according to the container; ISO 8601."""
    width: int = Field(ge=1)
    """Width of the upright pictures, in pixels."""
    height: int = Field(ge=1)
    turn: Turn
    """Degrees clockwise from the coded picture to the upright one."""
    video_streams: int = Field(ge=1)
    """Number of video streams in the file."""
    count: int = Field(ge=1, le=MOST_FRAMES)
    damage: str | None
    """Why the pictures end before the file does; None if they do not."""
    seconds_a_tick: str = Field(pattern=r"^[1-9]\d{0,19}(/[1-9]\d{0,19})?$")
    """Unit of the timestamps in seconds, as a fraction."""
    frames_per_second: float = Field(ge=0, allow_inf_nan=False)
    """Average rate according to the container; 0: unknown."""
    packed_stamps: bytes
    packed_keys: bytes
    packed_checksums: bytes | None
    """None if the packets alone determine the pictures: the file is plain."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Check consistency: tables are stored beside shards, where they may be damaged."""
        check_size(self.width, self.height)
        keys = self.keys
        if len(self.stamps) != self.count or (self.checksums is not None and len(self.checksums) != self.count):
            raise ValueError(f"expected {self.count} stamps and as many checksums")
        if (np.diff(keys) <= 0).any() or not (keys >= 0).all() or not (keys < self.count).all():
            raise ValueError("expected ascending frame numbers as keys")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether every packet is a picture, in closed groups, so that any decoder finds the same ones."""
        return self.packed_checksums is None

    @property
    def stamps(self) -> Integers:
        """(count,) timestamp of each frame, in ticks; ``UNKNOWN`` where the file has none."""
        return np.cumsum(self._unpacked(self.packed_stamps))

    @property
    def keys(self) -> Integers:
        """Numbers of the key frames, ascending; a decoder can start at any of them."""
        return np.cumsum(self._unpacked(self.packed_keys))

    @property
    def checksums(self) -> Integers | None:
        """(count,) checksums of the pictures; None for a plain file."""
        return None if self.packed_checksums is None else self._unpacked(self.packed_checksums)

    def _unpacked(self, packed: bytes) -> Integers:
        """The packed numbers, at most ``count + 1`` of them, so that a surplus is noticed."""
        try:
            numbers = zlib.decompressobj().decompress(packed, 8 * (self.count + 1))
        except zlib.error as error:
            raise ValueError(f"packed numbers cannot be decompressed: {error}") from None
        return np.frombuffer(numbers, "<i8").astype(np.int64)

    def seconds(self) -> npt.NDArray[np.float64]:
        """(count,) seconds from the first frame to each frame, never decreasing.

        Where the file's clock starts again (joined recordings) and where timestamps are missing, a frame follows the
        previous one after the average frame time.
        """
        tick = float(Fraction(self.seconds_a_tick))
        stamps = self.stamps
        steps = np.diff(stamps) * tick
        known = (stamps[1:] != UNKNOWN) & (stamps[:-1] != UNKNOWN) & (steps >= 0)
        usual = 1 / (self.frames_per_second or DEFAULT_RATE)
        return np.concatenate([[0.0], np.cumsum(np.where(known, steps, usual))])[: self.count]


def make_table(path: Path, pulse: Pulse = no_pulse) -> FrameTable:
    """Number the pictures of a video: from its packets if these suffice, otherwise by decoding it once.

    Args:
        path: a video file, or the folder of a sequence of pictures.
        pulse: called as the work progresses.

    Raises:
        UnreadableSourceError: the file is missing, is not a video, or yields no picture.
    """
    if path.is_dir():
        return _sequence_table(path)
    return plain_table(path, pulse) or _decoded_table(path, pulse)


def _sequence_table(folder: Path) -> FrameTable:
    """The table of a sequence of pictures, where a tick is a frame."""
    sequence = list_pictures(folder)
    height, width, _ = read_picture(sequence.paths[0]).shape
    rate = Fraction(sequence.frames_per_second or DEFAULT_RATE).limit_denominator(10**6) or Fraction(1)
    return FrameTable(
        file_bytes=0,
        container=PICTURES,
        created=None,
        width=width,
        height=height,
        turn=0,
        video_streams=1,
        count=len(sequence.numbers),
        damage=None,
        seconds_a_tick=str(1 / rate),
        frames_per_second=sequence.frames_per_second,
        packed_stamps=_packed(np.diff(np.arange(len(sequence.numbers)), prepend=0)),
        packed_keys=_packed(np.diff(np.arange(len(sequence.numbers)), prepend=0)),
        packed_checksums=None,
    )


def plain_table(path: Path, pulse: Pulse = no_pulse) -> FrameTable | None:
    """The table of a plain file, decoding only its beginning and end; None for any other file.

    Raises:
        UnreadableSourceError: as :func:`make_table`.
    """
    with open_video(path) as (container, stream):
        found = plain_stamps(container, stream, pulse)
    if found is None:
        return None
    stamps, keys = found
    with open_video(path) as (container, stream):
        head = list(islice(Pictures(container, stream, pulse), HEAD))
        if not _ends_agree(head, container, stream, stamps, keys, pulse):
            return None
        return _table(path, container, stream, head[0], stamps=stamps, keys=keys)


def _decoded_table(path: Path, pulse: Pulse) -> FrameTable:
    stamps: list[int] = []
    keys: list[int] = []
    checksums: list[int] = []
    first: av.VideoFrame | None = None
    with open_video(path) as (container, stream):
        pictures = Pictures(container, stream, pulse)
        for number, picture in enumerate(pictures):
            if first is None:
                first = picture
            stamp = stamp_of(picture)
            stamps.append(UNKNOWN if stamp is None else stamp)
            checksums.append(checksum_of(picture))
            if picture.key_frame:
                keys.append(number)
        if first is None:
            raise UnreadableSourceError(f"{path}: no picture can be read: {pictures.damage or 'the file has none'}")
        return _table(
            path,
            container,
            stream,
            first,
            stamps=np.array(stamps, np.int64),
            keys=np.array(keys, np.int64),
            checksums=np.array(checksums, np.int64),
            damage=pictures.damage,
        )


def _table(
    path: Path,
    container: InputContainer,
    stream: av.VideoStream,
    first: av.VideoFrame,
    *,
    stamps: Integers,
    keys: Integers,
    checksums: Integers | None = None,
    damage: str | None = None,
) -> FrameTable:
    turn = turn_of(stream, first)
    width, height = (first.height, first.width) if turn % 180 else (first.width, first.height)
    return FrameTable(
        file_bytes=path.stat().st_size,
        container=container.format.name,
        created=container.metadata.get("creation_time") or stream.metadata.get("creation_time"),
        width=width,
        height=height,
        turn=turn,
        video_streams=len(container.streams.video),
        count=len(stamps),
        damage=damage,
        seconds_a_tick=str(stream.time_base or Fraction(1, 1)),
        frames_per_second=float(stream.average_rate or stream.base_rate or 0),
        packed_stamps=_packed(np.diff(stamps, prepend=0)),
        packed_keys=_packed(np.diff(keys, prepend=0)),
        packed_checksums=None if checksums is None else _packed(checksums),
    )


def turn_of(stream: av.VideoStream, first: av.VideoFrame) -> Turn:
    """Degrees clockwise by which OpenCV rotates the stream's pictures: 0, 90, 180 or 270."""
    turns: dict[int, Turn] = {90: 90, 180: 180, 270: 270}
    turn = turns.get(-round(first.rotation) % 360, 0)
    return 0 if turn and _turned_by_codec(stream, first) else turn


def _turned_by_codec(stream: av.VideoStream, first: av.VideoFrame) -> bool:
    """Whether the angle is in the coded pictures, where OpenCV does not look, and not in the container.

    A decoder opened without the container reports only the former.
    """
    import av

    if stream.codec_context.name not in ("h264", "hevc"):
        return False
    decoder = av.CodecContext.create(stream.codec_context.name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = stream.codec_context.extradata
    try:
        with av.open(stream.container.name) as again:
            for packet in again.demux(again.streams[stream.index]):
                for picture in decoder.decode(packet):
                    return bool(picture.rotation == first.rotation)
    except av.FFmpegError:
        return False
    return False


def _ends_agree(
    head: Sequence[av.VideoFrame],
    container: InputContainer,
    stream: av.VideoStream,
    stamps: Integers,
    keys: Integers,
    pulse: Pulse,
) -> bool:
    """Whether the first pictures and the last group decode to the timestamps of the packets."""
    import av

    if [stamp_of(picture) for picture in head] != stamps[:HEAD].tolist():
        return False
    tail = stamps[keys[-1] :].tolist()
    if len(stamps) < HEAD or len(tail) > LONGEST_TAIL:
        return True
    try:
        container.seek(tail[0], stream=stream)
    except av.FFmpegError as error:
        raise UnreadableSourceError(f"{container.name}: cannot seek: {first_line(error)}") from error
    found = [stamp_of(picture) for picture in Pictures(container, stream, pulse)]
    return bool(found == tail)


HEAD = 24
"""Number of pictures decoded from the start; a shorter file is decoded completely."""
LONGEST_TAIL = 300


def _packed(numbers: npt.NDArray[Any]) -> bytes:
    return zlib.compress(numbers.astype("<i8").tobytes())
