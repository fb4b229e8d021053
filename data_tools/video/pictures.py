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

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

RgbFrame = npt.NDArray[np.uint8]
"""One decoded frame: (height, width, 3), uint8, RGB."""

Pulse: TypeAlias = Callable[[], None]
"""Told whenever decoding has moved on."""

LISTS = frozenset({"hls", "concat", "dash", "imf", "image2", "sdp", "rtsp"})
"""FFmpeg's formats whose pictures are those of other files, wherever these are."""
BEGINNING_BYTES = 2**16
"""Looked at first: of a file that a recorder only made room for, FFmpeg would look through all the zeros."""
MOST_OTHER_PACKETS = 4096
"""OpenCV stops reading after so many packets of other streams in a row."""
MOST_REFUSALS = 64
"""And after so many pictures in a row that the decoder gives up after it has taken their packets."""
CHECKED_ROWS = 4
"""Every so many rows count for a picture's checksum: enough to tell pictures apart."""


def no_pulse() -> None:
    """For those who do not watch."""


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The file and the stream that OpenCV takes: the first of those with pictures.

    Raises:
        UnreadableSourceError: the file is missing, is no video but a list of other files, or its codec is unknown.
    """
    import av

    if not path.is_file():
        raise UnreadableSourceError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING_BYTES)
        if not any(beginning):
            what = "begins with nothing but zeros" if beginning else "is empty"
            raise UnreadableSourceError(f"{path}: no readable video: it {what}")
        container = av.open(str(path))
    except UnreadableSourceError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableSourceError(f"{path}: no readable video: {first_line(error)}") from error
    with container:
        if container.format.name in LISTS:
            kind = container.format.name
            raise UnreadableSourceError(f"{path}: no readable video: it is a list of other files ({kind})")
        if not container.streams.video:
            raise UnreadableSourceError(f"{path}: no readable video: it has no stream with pictures")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UnreadableSourceError(f"{path}: no readable video: nothing here decodes its codec")
        context = stream.codec_context
        try:
            check_size(context.width, context.height)
        except ValueError as error:
            raise UnreadableSourceError(f"{path}: no readable video: {error}") from None
        context.options = {"max_pixels": str(MOST_PIXELS)}
        # FRAME threads hang when a generator is left early (PyAV #1849).
        stream.thread_type, stream.thread_count = "SLICE", 1
        yield container, stream


class Pictures:
    """Iterates over the pictures that OpenCV reads from here on; afterwards ``damage`` says why they ended, or None
    where the file ended."""

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
        """All packets, of other streams too; then None, which makes the decoder give up what it holds back."""
        import av

        try:
            for packet in self._container.demux():
                if packet.size or packet.dts is not None:  # not PyAV's own, one a stream, at the end
                    yield packet
        except (av.FFmpegError, OSError) as error:
            self.damage = first_line(error)
        yield None


def stamp_of(picture: av.VideoFrame) -> int | None:
    """When the picture is shown, in the stream's time base; where that is unknown, when it was decoded."""
    return picture.dts if picture.pts is None else picture.pts


def checksum_of(picture: av.VideoFrame) -> int:
    """Tells the picture from others of the same video; 32 bits."""
    plane = picture.planes[0]
    content = np.frombuffer(memoryview(plane), np.uint8)[: plane.line_size * plane.height]
    rows = content.reshape(plane.height, plane.line_size)[::CHECKED_ROWS, : plane.width]
    return crc32(rows.tobytes())


def to_rgb(picture: av.VideoFrame, turn: int) -> RgbFrame:
    """The picture turned clockwise by ``turn`` degrees."""
    frame = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(frame, -turn // 90)) if turn else frame


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
