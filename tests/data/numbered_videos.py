"""Videos of every kind for tests: each frame carries its number and four coloured quadrants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""(height, width, 3) uint8 RGB."""

QUADRANTS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30))
"""Upper left, upper right, lower left, lower right: red, green, blue, yellow."""
BITS = 8
TURNS = {"0123": "upright", "2031": "turned 90", "3210": "turned 180", "1302": "turned 270"}
TICKS = 90
"""Ticks of the time base per frame; with TIME_BASE 25 frames a second."""
TIME_BASE = Fraction(1, 25 * TICKS)

ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "mpeg4": "mpeg4",
    "mpeg2": "mpeg2video",
    "mjpeg": "mjpeg",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}
MUXERS = {"m4v": "mp4", "ts": "mpegts", "h264": "h264", "hevc": "hevc", "mkv": "matroska", "mpg": "mpeg"}


@dataclass(frozen=True, slots=True)
class Video:
    """A video to make; ``treatment`` is one of ``TREATMENTS``."""

    codec: str = "h264"
    suffix: str = "mp4"
    group: int = 12
    open_groups: bool = False
    b_frames: int = 0
    treatment: str = "plain"
    width: int = 192
    height: int = 144
    frames: int = 60
    cut: int = 17
    """Where a cut video begins, in frames of the whole one."""

    @property
    def kind(self) -> str:
        return f"{self.codec} {self.suffix} {self.treatment}"


TREATMENTS = (
    *("plain", "cut", "mid_group", "joined", "turned_90", "turned_180", "turned_270", "mirrored", "flipped"),
    *("variable_rate", "late_start", "fragments", "fragments_after", "fragment_a_frame"),
    *("small_stream_first", "small_stream_second", "audio_first", "empty_packet", "truncated", "damaged"),
)


def draw(number: int, width: int, height: int) -> Picture:
    """The quadrants and, in the middle, ``BITS`` black or white blocks, highest bit on the left."""
    picture = np.empty((height, width, 3), np.uint8)
    for quadrant, colour in enumerate(QUADRANTS):
        row, column = divmod(quadrant, 2)
        picture[row * height // 2 :, column * width // 2 :] = colour
    band = slice(height // 2 - height // 12, height // 2 + height // 12)
    for bit in range(BITS):
        grey = 255 if number >> (BITS - 1 - bit) & 1 else 0
        picture[band, bit * width // BITS : (bit + 1) * width // BITS] = grey
    return picture


def read(picture: Picture) -> tuple[str, int | None]:
    """The picture's rotation and the number that it carries; or what was seen, and None."""
    height, width = picture.shape[:2]
    places = [(int(height * y), int(width * x)) for y in (0.2, 0.8) for x in (0.2, 0.8)]
    spots = [picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0) for y, x in places]
    seen = "".join(str(np.abs(np.asarray(QUADRANTS) - spot).sum(1).argmin()) for spot in spots)
    if seen not in TURNS:
        return f"quadrants {seen}", None
    upright = np.rot90(picture, list(TURNS).index(seen))
    height, width = upright.shape[:2]
    middle = upright[height // 2 - 3 : height // 2 + 3]
    blocks = [middle[:, int((bit + 0.3) * width / BITS) : int((bit + 0.7) * width / BITS)] for bit in range(BITS)]
    return TURNS[seen], sum(int(block.mean() > 128) << (BITS - 1 - bit) for bit, block in enumerate(blocks))


def make(video: Video, path: Path) -> Path:
    """Write the video; returns ``path``.

    Raises:
        av.FFmpegError, ValueError: this build of FFmpeg has no such encoder, or its container does not take the codec.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    treatment = video.treatment
    if treatment in ("cut", "mid_group"):
        _remux(video, _encode(video, path.with_suffix(f".whole.{video.suffix}"), range(video.frames)), path)
    elif treatment == "joined":
        middle = video.frames // 2
        parts = range(middle), range(middle, video.frames)
        names = [path.with_suffix(f".{part}.{video.suffix}") for part in range(2)]
        pieces = [_encode(video, name, numbers).read_bytes() for name, numbers in zip(names, parts, strict=True)]
        path.write_bytes(b"".join(pieces))
        for name in names:
            name.unlink()
    else:
        _encode(video, path, range(video.frames))
    if treatment == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    elif treatment == "damaged":
        _damage(path)
    return path


def _encode(video: Video, path: Path, numbers: Iterable[int]) -> Path:
    options = {
        "fragments": "frag_keyframe+empty_moov",
        "fragments_after": "frag_keyframe",  # the header counts the frames before the first fragment only
        "fragment_a_frame": "dash+frag_every_frame+empty_moov",
    }
    flags = options.get(video.treatment)
    with av.open(
        str(path),
        "w",
        format=MUXERS.get(video.suffix),
        options={"fflags": "+bitexact", **({"movflags": flags} if flags else {})},  # the same file every time
    ) as container:
        if video.treatment == "audio_first":
            sound = container.add_stream("aac", rate=48000)
        small = None
        if video.treatment == "small_stream_first":
            small = _add_stream(container, video, 64, 48)
        stream = _add_stream(container, video, video.width, video.height)
        if video.treatment == "small_stream_second":
            small = _add_stream(container, video, 64, 48)
        _turn(stream, video.treatment)
        for place, number in enumerate(numbers):
            stamp = _stamp(video, place)
            for target in [stream] if small is None else [stream, small]:
                frame = av.VideoFrame.from_ndarray(draw(number, target.width, target.height), format="rgb24")
                frame.pts, frame.time_base = stamp, TIME_BASE
                _mux(container, target.encode(frame.reformat(format=target.pix_fmt)), video, place)
            if video.treatment == "audio_first":
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), format="fltp", layout="mono")
                silence.sample_rate, silence.pts = 48000, place * 1920
                container.mux(sound.encode(silence))
        for target in [stream] if small is None else [stream, small]:
            container.mux(target.encode())
    return path


def _mux(
    container: av.container.OutputContainer, packets: list[av.Packet[av.VideoStream]], video: Video, place: int
) -> None:
    for packet in packets:
        if video.treatment == "empty_packet" and place == video.frames // 2:
            empty = av.Packet(b"")
            empty.stream, empty.time_base = packet.stream, packet.time_base
            empty.pts, empty.dts = packet.pts, packet.dts
            container.mux(empty)
        else:
            container.mux(packet)


def _stamp(video: Video, place: int) -> int:
    if video.treatment == "variable_rate":
        return place * TICKS + (place // 10) ** 2 * TICKS // 2
    return place * TICKS + (500 * TICKS if video.treatment == "late_start" else 0)


def _turn(stream: av.VideoStream, treatment: str) -> None:
    if treatment.startswith("turned_"):
        stream.set_display_rotation(-int(treatment.removeprefix("turned_")))
    elif treatment in ("mirrored", "flipped"):
        stream.set_display_rotation(0, hflip=treatment == "mirrored", vflip=treatment == "flipped")


def _add_stream(container: av.container.OutputContainer, video: Video, width: int, height: int) -> av.VideoStream:
    stream = container.add_stream(ENCODERS[video.codec], rate=25, options=_encoder_options(video))
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuvj420p" if video.codec == "mjpeg" else "yuv420p"
    stream.codec_context.time_base = Fraction(1, 25) if video.codec in ("mpeg4", "mpeg2") else TIME_BASE
    stream.codec_context.thread_count = 1
    stream.bit_rate = width * height * 20
    return stream


def _encoder_options(video: Video) -> dict[str, str]:
    group, b_frames, opened = str(video.group), str(video.b_frames), int(video.open_groups)
    common = {"g": group, "bf": b_frames}
    if video.codec == "h264":
        more = f"keyint={group}:scenecut=0:b-adapt=0:open-gop={opened}"
        return {**common, "preset": "ultrafast", "crf": "20", "x264-params": more}
    if video.codec == "hevc":
        more = f"keyint={group}:scenecut=0:b-adapt=0:open-gop={opened}:bframes={b_frames}:log-level=none:pools=1"
        return {"preset": "ultrafast", "x265-params": more}
    if video.codec in ("mpeg4", "mpeg2"):
        closed = {} if video.open_groups else {"flags": "+cgop", "sc_threshold": "1000000000"}
        return {**common, **closed, "qscale": "2"}
    if video.codec == "vp8":
        return {"g": group, "auto-alt-ref": str(int(video.b_frames > 0)), "lag-in-frames": "16", "deadline": "realtime"}
    if video.codec == "vp9":
        return {"g": group, "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "8"}
    if video.codec == "av1":
        return {"g": group, "preset": "12", "svtav1-params": "lp=1"}
    return {}


def _remux(video: Video, whole: Path, path: Path) -> None:
    """As a cut by stream copy does: ``cut`` from the key frame before, with stamps below 0; ``mid_group`` from
    any packet."""
    with av.open(str(whole)) as source, av.open(str(path), "w", format=MUXERS.get(video.suffix)) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        stamps = sorted(packet.pts if packet.pts is not None else packet.dts or 0 for packet in packets)
        begin = stamps[video.cut]
        for packet in _from(packets, begin, video):
            packet.stream = copy
            packet.pts = None if packet.pts is None else packet.pts - begin
            packet.dts = None if packet.dts is None else packet.dts - begin
            target.mux(packet)
    whole.unlink()


def _from(packets: list[av.Packet[av.VideoStream]], begin: int, video: Video) -> Iterator[av.Packet[av.VideoStream]]:
    place = video.cut
    if video.treatment == "cut":
        keys = [
            i for i, packet in enumerate(packets) if packet.is_keyframe and (packet.pts or packet.dts or 0) <= begin
        ]
        place = max(keys, default=0)
    yield from packets[place:]


def _damage(path: Path) -> None:
    """Overwrite some bytes in the middle, far from header and index."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(range(40, 80))
    path.write_bytes(bytes(content))
