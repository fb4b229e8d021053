"""The pictures of a file in OpenCV's order, decoded with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt

from data_tools.encoded_pictures import MOST_PIXELS, check_size
from data_tools.errors import UnreadableSourceError
from data_tools.wording import first_line

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

RgbFrame = npt.NDArray[np.uint8]
"""One decoded frame: (height, width, 3), uint8, RGB."""

Pulse: TypeAlias = Callable[[], None]
"""Called whenever decoding has made progress."""

LISTS = frozenset({"hls", "concat", "dash", "imf", "image2", "sdp", "rtsp"})
"""FFmpeg's formats that only refer to other files, wherever these are."""
BEGINNING_BYTES = 2**16
"""Checked first: FFmpeg would scan all the zeros of a file that a recorder has only preallocated."""
MOST_OTHER_PACKETS = 4096
"""OpenCV stops reading after this many consecutive packets of other streams."""
MOST_REFUSALS = 64
"""OpenCV stops reading after this many consecutive pictures that the decoder drops after accepting their packets."""
CHECKED_ROWS = 4
"""Only every 4th row counts for a picture's checksum: enough to tell pictures apart."""


def no_pulse() -> None:
    """A pulse that does nothing."""


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The open file and the stream that OpenCV reads: the first with pictures.

    Raises:
        UnreadableSourceError: the file is missing, is not a video, is a list of other files, or its codec is unknown.
    """
    import av

    if not path.is_file():
        raise UnreadableSourceError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING_BYTES)
        if not any(beginning):
            what = f"its first {len(beginning)} bytes are all zero" if beginning else "it is empty"
            raise UnreadableSourceError(f"{path}: not a readable video: {what}")
        container = av.open(str(path))
    except UnreadableSourceError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableSourceError(f"{path}: not a readable video: {first_line(error)}") from error
    with container:
        if container.format.name in LISTS:
            kind = container.format.name
            raise UnreadableSourceError(f"{path}: not a readable video: it is a list of other files ({kind})")
        if not container.streams.video:
            raise UnreadableSourceError(f"{path}: not a readable video: it has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UnreadableSourceError(f"{path}: not a readable video: FFmpeg has no decoder for its codec")
        context = stream.codec_context
        try:
            check_size(context.width, context.height)
        except ValueError as error:
            raise UnreadableSourceError(f"{path}: not a readable video: {error}") from None
        context.options = {"max_pixels": str(MOST_PIXELS)}
        # FRAME threads hang when a generator is closed early (PyAV #1849).
        stream.thread_type, stream.thread_count = "SLICE", 1
        yield container, stream


class Pictures:
    """Iterates over the pictures that OpenCV reads from here on. Afterwards, ``damage`` says why they ended; None if
    the end of the file was reached."""

    def __init__(self, container: InputContainer, stream: av.VideoStream, pulse: Pulse = no_pulse) -> None:
        self._container, self._stream, self._pulse = container, stream, pulse
        self.damage: str | None = None

    def __iter__(self) -> Iterator[av.VideoFrame]:
        import av

        others = refusals = 0
        for packet in self._packets():
            self._pulse()
            if packet is not None and packet.stream_index != self._stream.index:
                others += 1
                if others > MOST_OTHER_PACKETS:
                    self.damage = f"more than {MOST_OTHER_PACKETS} packets of other streams in a row"
                    return
                continue
            try:
                found = self._stream.codec_context.decode(packet)
            except av.FFmpegError as error:
                refusals += 1
                if error.filename == "avcodec_receive_frame()" and refusals <= MOST_REFUSALS:
                    continue
                self.damage = first_line(error)
                return
            for picture in found:
                others = refusals = 0
                try:
                    check_size(picture.width, picture.height)
                except ValueError as error:
                    self.damage = str(error)
                    return
                yield picture

    def _packets(self) -> Iterator[av.Packet[Any] | None]:
        """All packets, including those of other streams; then None, which flushes the decoder."""
        import av

        try:
            for packet in self._container.demux():
                if packet.size or packet.dts is not None:  # skip PyAV's flush packets, one per stream, at the end
                    yield packet
        except (av.FFmpegError, OSError) as error:
            self.damage = first_line(error)
        yield None


def stamp_of(picture: av.VideoFrame) -> int | None:
    """The picture's presentation time in the stream's time base; its decoding time if that is unknown."""
    return picture.dts if picture.pts is None else picture.pts


def checksum_of(picture: av.VideoFrame) -> int:
    """A 32-bit checksum that distinguishes the pictures of a video."""
    plane = picture.planes[0]
    content = np.frombuffer(memoryview(plane), np.uint8)[: plane.line_size * plane.height]
    rows = content.reshape(plane.height, plane.line_size)[::CHECKED_ROWS, : plane.width]
    return crc32(rows.tobytes())


def to_rgb(picture: av.VideoFrame, turn: int) -> RgbFrame:
    """The picture rotated clockwise by ``turn`` degrees."""
    frame = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(frame, -turn // 90)) if turn else frame
