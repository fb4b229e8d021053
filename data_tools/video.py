"""Reading videos: decord first, PyAV for stream facts and for what decord cannot read.

Both decoders stand behind :func:`read_frames`, which yields single frames in time order and holds memory bounded
whatever the length of the video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.errors import UnreadableSourceError

RgbFrame = npt.NDArray[np.uint8]
"""One decoded frame: (height, width, 3), uint8, RGB."""

PIECE_BYTES = 64 * 2**20
"""How much decoded video is read at a time, as far as groups of pictures allow; memory is some four times this."""
GROUP_BYTES = 192 * 2**20
"""The largest group of pictures that decord reads, for it must be held whole."""
FILE_BYTES = 256 * 2**20
"""The largest file that decord reads: its demuxer runs ahead while its decoder works, as far as the file goes."""

DECORD_CONTAINERS = frozenset({"mov", "matroska"})
"""Where decord's frame numbers are right. After a seek it was 25 frames off in a transport stream, and one in an AVI
file with B-frames."""
TIMED_CONTAINERS = DECORD_CONTAINERS | {"mpegts"}
"""Where every packet carries the time of its picture, so that PyAV can seek; elsewhere it counts from the start."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What the container says of its first video stream; ``frame_count`` is None where it does not say."""

    width: int
    height: int
    frame_count: int | None
    frames_per_second: float
    container: str


def probe_video(path: Path) -> VideoFacts:
    """Read the stream's facts without decoding.

    Raises:
        UnreadableSourceError: the file is missing, no video, or has no usable picture size.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.base_rate or 0)
            facts = VideoFacts(stream.width, stream.height, stream.frames or None, rate, container.format.name)
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise UnreadableSourceError(f"{path}: no readable video: {_first_line(error)}") from error
    if facts.width < 1 or facts.height < 1:
        raise UnreadableSourceError(f"{path}: the stream says {facts.width}x{facts.height} pixels, expected a picture")
    return facts


def read_frames(path: Path, frames: Sequence[int] | None = None) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(frame number, frame)`` for the wanted frames.

    Args:
        path: a video file.
        frames: frame numbers from 0, strictly increasing; None for every frame.

    Raises:
        UnreadableSourceError: neither decoder can read the next wanted frame; the message names the frame. The
            frames yielded before it are good.
    """
    if not path.is_file():
        raise UnreadableSourceError(f"{path}: no such file")
    done = 0
    try:
        for number, frame in _decord_frames(path, frames):
            yield number, frame
            done += 1
        return
    except _NotForDecord:
        pass  # left before the next decoder starts, for the exception holds decord's reader and its memory
    yield from _pyav_frames(path, None if frames is None else frames[done:], first=done)


def decoder_versions() -> dict[str, str]:
    """Names and versions of the decoders in use, for the manifest."""
    versions = {}
    for package in ("decord", "decord2", "av"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


class _NotForDecord(Exception):  # noqa: N818
    """decord cannot read the file, or not within bounded memory."""


def _decord_frames(path: Path, frames: Sequence[int] | None) -> Iterator[tuple[int, RgbFrame]]:
    import decord

    facts = probe_video(path)
    if DECORD_CONTAINERS.isdisjoint(facts.container.split(",")) or path.stat().st_size > FILE_BYTES:
        raise _NotForDecord
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        wanted: Sequence[int] = range(len(reader)) if frames is None else frames
        frame_bytes = facts.width * facts.height * 3
        pieces = _cut_at_keyframes(
            wanted, reader.get_key_indices(), most=PIECE_BYTES // frame_bytes, longest=GROUP_BYTES // frame_bytes
        )
        for numbers in pieces:
            piece: deque[RgbFrame] = deque()
            if numbers[-1] - numbers[0] + 1 == len(numbers):
                # A run goes twice as fast frame by frame: a batch needs a large new piece of memory every time.
                piece.extend(reader.get_batch(numbers[:1]).asnumpy())
                piece.extend(reader.next().asnumpy() for _ in numbers[1:])
            else:
                piece.extend(reader.get_batch(numbers).asnumpy())
            # Left alone, decord's thread decodes on to the end of the video and keeps every frame.
            reader.seek(0)
            for number in numbers:
                yield number, piece.popleft()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise _NotForDecord from error


def _cut_at_keyframes(
    wanted: Sequence[int], keyframes: Sequence[int], *, most: int, longest: int
) -> Iterator[list[int]]:
    """Cut the wanted frames into pieces of whole groups of pictures, ``most`` frames where the groups allow.

    A piece that began inside a group would decode the group's beginning once more; where one group alone holds
    more than ``longest`` wanted frames, decord is the wrong tool.
    """
    bounds = np.searchsorted(np.asarray(wanted), np.asarray([*keyframes, np.iinfo(np.int64).max]))
    start = end = 0
    for bound in np.unique(bounds).tolist():
        if bound - start > most and end > start:
            yield list(wanted[start:end])
            start = end
        if bound - start > longest:
            raise _NotForDecord
        end = bound
    if end > start:
        yield list(wanted[start:end])


def _pyav_frames(path: Path, frames: Sequence[int] | None, first: int) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``frames``, or all from number ``first`` where ``frames`` is None."""
    import av

    number = first if frames is None else frames[0]
    try:
        with av.open(str(path)) as container:
            has_times = not TIMED_CONTAINERS.isdisjoint(container.format.name.split(","))
            packets = container.demux(container.streams.video[0])
            stamps = [packet.pts if has_times else packet.dts for packet in packets if packet.size]
            times = sorted(stamp for stamp in stamps if stamp is not None)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # FRAME threads hang when a generator is left early (PyAV #1849).
            stream.thread_type, stream.thread_count = "SLICE", 1
            wanted = iter(range(first, max(len(times), stream.frames)) if frames is None else frames)
            number = next(wanted)
            # Transport streams seek to any packet, not to a keyframe: aim well before the wanted frame.
            well_before = times[number] - int(15 / (stream.time_base or 1))
            if has_times and well_before > times[0]:
                container.seek(well_before, stream=stream)
            position_of = {time: position for position, time in enumerate(times)}
            for count, picture in enumerate(container.decode(stream)):
                found = position_of.get(picture.pts or 0, -1) if has_times else count
                if found > number:
                    break
                if found == number:
                    yield number, picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
                    number = next(wanted)
    except StopIteration:
        return
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise UnreadableSourceError(f"{path}: frame {number} cannot be read: {_first_line(error)}") from error
    raise UnreadableSourceError(f"{path}: frame {number} cannot be read")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
