"""Reads frame sources and encodes the crops that a shard stores."""

from __future__ import annotations

import io
import mmap
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from data_tools.decoding_process import HANG_SECONDS, decoding_process
from data_tools.encoded_pictures import open_picture
from data_tools.errors import InputError, UnreadableSourceError
from data_tools.files import read_document
from data_tools.manifest import StorageMode
from data_tools.options import Options, Rare
from data_tools.tracklet import Box, ImageFrames, Tracklet, VideoFrames
from data_tools.video import FrameTable, RgbFrame, read_frames
from data_tools.video.pictures import Pulse
from data_tools.wording import one_line

SPOOL_BYTES = 64 * 2**20
"""A tracklet with more bytes than this is spooled to a temporary file, so that a long one cannot fill the memory."""
MOST_TRACKLET_BYTES = 2**31 - 1
"""The offsets of an Arrow binary column have 32 bits."""


class CropOptions(Options):
    """How a person crop is stored."""

    format: StorageMode = Field(default="jpeg", serialization_alias="storage")
    """Form of stored frames. jpeg: resized crops, JPEG-coded. source: pictures byte for byte as released (crops of
    videos in their own size, JPEG-coded). raw: resized uint8 pixels, for data sets that fit local disks."""
    height: int = Field(default=256, ge=8, le=4096)
    """Height in pixels of stored frames (not for source)."""
    width: int = Field(default=128, ge=8, le=4096)
    """Width in pixels of stored frames (not for source)."""
    quality: Annotated[int, Rare()] = Field(default=95, ge=1, le=100)
    """JPEG quality of crops that are encoded here."""
    hang_seconds: Annotated[float, Rare()] = Field(default=HANG_SECONDS, gt=0)
    """Seconds without a decoded frame after which a video is given up; the other videos go on."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every stored frame; None where each keeps its own."""
        return None if self.format == "source" else (self.height, self.width)


class TrackletFrames:
    """The encoded frames of one tracklet, concatenated in one buffer."""

    def __init__(self) -> None:
        self.sizes = array("q")
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115

    def append(self, encoded: bytes) -> None:
        """Add a frame; raises ``UnreadableSourceError`` if the tracklet becomes too large for one row."""
        if self._spool.tell() + len(encoded) > MOST_TRACKLET_BYTES:
            raise UnreadableSourceError(
                f"frame {len(self.sizes)}: the tracklet has more than 2 GiB of frames; split it into shorter ones"
            )
        self.sizes.append(len(encoded))
        self._spool.write(encoded)

    @property
    def offsets(self) -> npt.NDArray[np.int32]:
        """(frames + 1,) int32 byte offsets into :meth:`data`."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int32)

    def data(self) -> bytes | mmap.mmap:
        """All frames' bytes; memory-mapped if the tracklet was spooled to disk."""
        self._spool.flush()
        if self._spool.tell() > SPOOL_BYTES:
            return mmap.mmap(self._spool.fileno(), 0, access=mmap.ACCESS_READ)
        self._spool.seek(0)
        return self._spool.read()


def read_tracklets(
    tracklets: Sequence[Tracklet], options: CropOptions
) -> Iterator[tuple[Tracklet, TrackletFrames | UnreadableSourceError]]:
    """Yield every tracklet, in order, with its frames or the reason why they cannot be read.

    A video shared by consecutive tracklets is decoded once.
    """
    for video, group in groupby(tracklets, _video_of):
        if video is None:
            for tracklet in group:
                yield tracklet, _read_images(tracklet, options)
        else:
            members = list(group)
            yield from zip(members, _read_video(video, members, options), strict=True)


def _video_of(tracklet: Tracklet) -> Path | None:
    return tracklet.source.video if isinstance(tracklet.source, VideoFrames) else None


def _read_images(tracklet: Tracklet, options: CropOptions) -> TrackletFrames | UnreadableSourceError:
    source = tracklet.source
    assert isinstance(source, ImageFrames)
    content = TrackletFrames()
    if not source.names:
        return UnreadableSourceError(f"{source.folder}: tracklet {tracklet.id} has no frames")
    for name in source.names:
        path = source.folder / name
        try:
            encoded = read_document(path)
            with open_picture(io.BytesIO(encoded), ("JPEG", "PNG")) as picture:
                picture.load()
                content.append(
                    encoded if options.format == "source" else _encode(picture.convert("RGB"), None, options)
                )
        except UnreadableSourceError as error:
            return error
        except InputError as error:
            return UnreadableSourceError(str(error))
        except (OSError, ValueError) as error:
            reason = "the file is empty" if path.is_file() and path.stat().st_size == 0 else _reason(error)
            return UnreadableSourceError(f"{path}: {reason}")
    return content


def _read_video(
    video: Path, tracklets: Sequence[Tracklet], options: CropOptions
) -> list[TrackletFrames | UnreadableSourceError]:
    """Decode the video once for all its tracklets, in the decoding process."""
    contents: list[TrackletFrames | UnreadableSourceError] = [TrackletFrames() for _ in tracklets]
    sources = [source for tracklet in tracklets if isinstance(source := tracklet.source, VideoFrames)]
    wanted = [(source.frames, source.boxes) for source in sources]
    work = decoding_process().run(
        encoded_crops, video, wanted, sources[0].table, options, what=video, hang_seconds=options.hang_seconds
    )
    failure: UnreadableSourceError | None = None
    try:
        for number, encoded in work:
            content = contents[number]
            if isinstance(content, TrackletFrames):
                contents[number] = _extended(content, encoded)
    except UnreadableSourceError as error:
        failure = error
    for number, (content, source) in enumerate(zip(contents, sources, strict=True)):
        if isinstance(content, TrackletFrames):
            if failure and (source.frames is None or len(content.sizes) < len(source.frames)):
                contents[number] = failure
            elif not content.sizes:
                contents[number] = UnreadableSourceError(f"{video}: tracklet {tracklets[number].id} has no frames")
    return contents


def _extended(
    content: TrackletFrames, encoded: bytes | UnreadableSourceError
) -> TrackletFrames | UnreadableSourceError:
    if isinstance(encoded, UnreadableSourceError):
        return encoded
    try:
        content.append(encoded)
    except UnreadableSourceError as error:
        return error
    return content


def encoded_crops(
    pulse: Pulse,
    video: Path,
    wanted: Sequence[tuple[tuple[int, ...] | None, tuple[Box, ...] | None]],
    table: FrameTable | None,
    options: CropOptions,
) -> Iterator[tuple[int, bytes | UnreadableSourceError]]:
    """Yield ``(tracklet number, encoded crop)`` for one video's tracklets; an error in place of a crop ends a tracklet.

    Args:
        pulse: called as decoding progresses.
        video: the file.
        wanted: frames and boxes of each tracklet, as in ``VideoFrames``.
        table: the video's frame table, if known.
        options: how crops are stored.
    """
    places: dict[int, list[tuple[int, Box | None]]] = {}
    whole = [number for number, (frames, _) in enumerate(wanted) if frames is None]
    for number, (frames, boxes) in enumerate(wanted):
        for frame, box in zip(frames or (), boxes or [None] * len(frames or ()), strict=True):
            places.setdefault(frame, []).append((number, box))
    failed = set()
    try:
        for frame, pixels in read_frames(video, None if whole else sorted(places), table, pulse):
            for number, box in [*places.pop(frame, ()), *((number, None) for number in whole)]:
                if number not in failed:
                    try:
                        yield number, _encode(*_cut(pixels, box, f"{video}: frame {frame}"), options)
                    except UnreadableSourceError as error:
                        failed.add(number)
                        yield number, error
        failure = UnreadableSourceError(f"{video}: frame {min(places, default=0)}: the video ends before it")
        unread = set()
    except UnreadableSourceError as error:
        failure, unread = error, set(whole)
    unread.update(number for numbers in places.values() for number, _ in numbers)
    yield from ((number, failure) for number in sorted(unread))


def _cut(pixels: RgbFrame, box: Box | None, place: str) -> tuple[Image.Image, Box | None]:
    """The region of the picture that covers the box, and the box's left, upper, right and lower edges within it."""
    if box is None:
        return Image.fromarray(pixels), None
    height, width, _ = pixels.shape
    left, upper = max(box[0], 0.0), max(box[1], 0.0)
    right, lower = min(box[0] + box[2], width), min(box[1] + box[3], height)
    if right - left < 1 or lower - upper < 1:
        raise UnreadableSourceError(f"{place}: box {box} lies outside the picture of {width}x{height} pixels")
    x, y = int(left), int(upper)
    region = pixels[y : int(np.ceil(lower)), x : int(np.ceil(right))]
    return Image.fromarray(np.ascontiguousarray(region)), (left - x, upper - y, right - x, lower - y)


def _encode(picture: Image.Image, edges: Box | None, options: CropOptions) -> bytes:
    if options.size is not None and (picture.size != (options.width, options.height) or edges is not None):
        picture = picture.resize((options.width, options.height), Image.Resampling.BICUBIC, box=edges)
    if options.format == "raw":
        return picture.tobytes()
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=options.quality)
    return encoded.getvalue()


def _reason(error: Exception) -> str:
    return one_line(error.strerror if isinstance(error, OSError) and error.strerror else error)
