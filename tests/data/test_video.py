"""Reading videos: the right frames, with either decoder, within bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from data_tools.errors import UnreadableSourceError
from data_tools.video import FrameTable, by_decord, by_pyav, make_table, read_frames
from data_tools.video.by_decord import NotForDecordError, decord_frames
from data_tools.video.by_pyav import pyav_frames
from data_tools.video.pictures import RgbFrame, no_pulse
from tests.data.hostile_forgeries import large_png
from tests.data.made_videos import grey_of, make_video
from tests.data.numbered_videos import Video, make, read


def greys(path: Path, frames: list[int] | None = None) -> list[tuple[int, int]]:
    return [(number, round(float(frame.mean()))) for number, frame in read_frames(path, frames)]


def numbers(path: Path, wanted: Sequence[int], table: FrameTable | None = None) -> list[int | None]:
    return [read(frame)[1] for _, frame in read_frames(path, wanted, table)]


def by_decord_alone(path: Path, wanted: Sequence[int]) -> dict[int, RgbFrame]:
    return dict(decord_frames(path, make_table(path), wanted, no_pulse))


def by_pyav_alone(path: Path, wanted: Sequence[int]) -> dict[int, RgbFrame]:
    return dict(pyav_frames(path, make_table(path), wanted, no_pulse))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".ts"])
@pytest.mark.parametrize("wanted", [None, [0], [3, 4, 29], list(range(0, 60, 7)), [59]])
def test_frames_are_the_wanted_ones(tmp_path: Path, suffix: str, codec: str, wanted: list[int] | None) -> None:
    path = make_video(tmp_path / f"clip{suffix}", frame_count=60, codec=codec)
    found = greys(path, wanted)
    assert [number for number, _ in found] == (list(range(60)) if wanted is None else wanted)
    assert all(abs(grey - grey_of(number)) <= 2 for number, grey in found)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("group", [12, 60])
def test_decoders_agree_on_frames_coded_out_of_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, group: int
) -> None:
    """B-frames, runs and gaps, pieces that end anywhere, seeks to every possible place."""
    path = make(Video(suffix=suffix, group=group, b_frames=3, frames=120), tmp_path / f"clip.{suffix}")
    monkeypatch.setattr(by_decord, "PIECE_BYTES", 192 * 144 * 3 * 30)
    monkeypatch.setattr(by_pyav, "WORTHWHILE", 2)
    some = np.random.default_rng(0).choice(120, 20, replace=False)
    for wanted in (range(120), range(3, 120, 13), range(50, 90), [119], [0, 119], sorted(some.tolist())):
        one, other = by_decord_alone(path, wanted), by_pyav_alone(path, wanted)
        assert list(one) == list(other) == [read(frame)[1] for frame in other.values()] == list(wanted)
        assert all(np.abs(frame.astype(int) - other[number]).mean() < 2 for number, frame in one.items())


def test_pieces_begin_at_keyframes_and_are_bounded() -> None:
    pieces = list(by_decord._cut_at_keys(range(100), [0, 12, 24, 50, 60, 90], most=30, longest=30))
    assert [piece[0] for piece in pieces] == [0, 24, 50, 60, 90]
    assert [frame for piece in pieces for frame in piece] == list(range(100))
    with pytest.raises(NotForDecordError):
        list(by_decord._cut_at_keys(range(100), [0, 60], most=30, longest=50))
    pieces = list(by_decord._cut_at_keys(range(100), [0, 60], most=30, longest=60))
    assert [len(piece) for piece in pieces] == [60, 40]
    sparse = list(by_decord._cut_at_keys([5, 70, 71], [0, 60], most=2, longest=2))
    assert sparse == [[5], [70, 71]]


@pytest.mark.parametrize("limits", [{"FILE_BYTES": 1}, {"PIECE_BYTES": 192 * 144 * 3, "GROUP_BYTES": 192 * 144 * 6}])
def test_large_files_and_long_groups_are_read_by_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    path = make(Video(group=60), tmp_path / "clip.mp4")
    assert list(by_decord_alone(path, range(60))) == list(range(60))
    for name, limit in limits.items():
        monkeypatch.setattr(by_decord, name, limit)
    assert numbers(path, range(60)) == list(range(60))
    with pytest.raises(NotForDecordError):
        by_decord_alone(path, range(60))


@pytest.mark.parametrize(
    ("video", "plain"),
    [
        (Video(b_frames=2), True),
        (Video(codec="hevc", suffix="mov", b_frames=2), True),
        (Video(suffix="mkv"), True),
        (Video(treatment="variable_rate"), True),
        (Video(treatment="turned_90"), True),
        (Video(treatment="cut"), False),
        (Video(suffix="mkv", treatment="mid_group"), False),
        (Video(open_groups=True, b_frames=3), False),
        (Video(codec="hevc", open_groups=True, b_frames=3), False),
        (Video(treatment="fragment_a_frame", b_frames=2), False),
        (Video(suffix="ts"), False),
        (Video(codec="mpeg4"), False),
    ],
)
def test_only_plain_files_are_decords(tmp_path: Path, video: Video, plain: bool) -> None:
    path = make(video, tmp_path / f"clip.{video.suffix}")
    table = make_table(path)
    assert table.is_plain == plain
    if not plain or video.treatment == "turned_90":
        with pytest.raises(NotForDecordError):
            by_decord_alone(path, [0])


def test_a_file_of_two_videos_is_not_decords(tmp_path: Path) -> None:
    """It takes the stream that it prefers, even if both have the same size."""
    path = make(Video(treatment="small_stream_second", width=64, height=48), tmp_path / "clip.mp4")
    assert make_table(path).is_plain
    with pytest.raises(NotForDecordError):
        by_decord_alone(path, [0])


def test_a_table_that_decord_does_not_agree_with_is_pyavs(tmp_path: Path) -> None:
    path = make(Video(), tmp_path / "clip.mp4")
    later = make_table(path).model_copy(update={"seconds_a_tick": "1/100"})
    with pytest.raises(NotForDecordError):
        list(decord_frames(path, later, [0], no_pulse))


@pytest.mark.parametrize("keep", [0, 40, 0.5])
def test_damaged_videos_are_named_with_the_frame(tmp_path: Path, keep: float) -> None:
    whole = make_video(tmp_path / "whole.mp4", frame_count=60).read_bytes()
    path = tmp_path / "damaged.mp4"
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UnreadableSourceError, match=r"damaged\.mp4"):
        greys(path)


def test_a_truncated_stream_gives_its_good_frames_first(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    whole = make_video(path, frame_count=200, width=160, height=120).read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    found: list[tuple[int, int]] = []
    with pytest.raises(UnreadableSourceError, match=r"frame \d+"):
        found.extend((number, round(float(frame.mean()))) for number, frame in read_frames(path, list(range(200))))
    assert 20 < len(found) < 200
    assert all(abs(grey - grey_of(number)) <= 2 for number, grey in found)


def test_what_a_decoder_makes_of_damage_does_not_depend_on_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_pyav, "WORTHWHILE", 2)
    path = make(Video(suffix="mkv", treatment="damaged", b_frames=2), tmp_path / "clip.mkv")
    table = make_table(path)
    whole = dict(pyav_frames(path, table, range(table.count), no_pulse))
    for wanted in (range(26, 40), [30], range(3, table.count, 9)):
        found = dict(read_frames(path, list(wanted), table))
        assert all((frame == whole[number]).all() for number, frame in found.items())


def test_frames_beyond_the_end_and_missing_files(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", frame_count=10)
    with pytest.raises(UnreadableSourceError, match="frame 10"):
        greys(path, [8, 9, 10])
    with pytest.raises(UnreadableSourceError, match="no such file"):
        greys(tmp_path / "none.mp4")


@pytest.mark.parametrize("content", [b"", bytes(10), bytes(2**22)])
def test_a_file_of_nothing_is_no_video(tmp_path: Path, content: bytes) -> None:
    """Like a file from a recorder that reserved space and was interrupted."""
    (tmp_path / "clip.h264").write_bytes(content)
    with pytest.raises(
        UnreadableSourceError, match=r"clip\.h264: not a readable video: (it is empty|its first \d+ bytes are all zero)"
    ):
        make_table(tmp_path / "clip.h264")


def test_a_list_of_other_files_is_no_video(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.ts", frame_count=3)
    lists = {
        "clip.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n",
        "clip.mp4": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UnreadableSourceError, match=f"{name}: not a readable video"):
            make_table(tmp_path / name)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    """FFmpeg reads a picture as a video of one frame, whatever the file's name."""
    (tmp_path / "clip.mp4").write_bytes(large_png(1000))
    assert make_table(tmp_path / "clip.mp4").width == 1000
    (tmp_path / "clip.mp4").write_bytes(large_png(9000))
    with pytest.raises(UnreadableSourceError, match=r"clip\.mp4: .*9000x9000 pixels, expected at most 37 million"):
        make_table(tmp_path / "clip.mp4")


def test_a_file_that_changes_after_its_frames_were_counted_is_refused(tmp_path: Path) -> None:
    path = make(Video(), tmp_path / "clip.mp4")
    table = make_table(path)
    make(Video(frames=40), path)
    with pytest.raises(UnreadableSourceError, match="the file has changed since its frames were counted"):
        numbers(path, [3], table)


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    """Two recordings joined, the second of another size."""
    first, second = (make(Video(suffix="ts", width=width, frames=20), tmp_path / f"{width}.ts") for width in (192, 320))
    path = tmp_path / "joined.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    table = make_table(path)
    assert (table.width, table.height, table.count) == (192, 144, 40)
    assert numbers(path, range(20), table) == list(range(20))
    with pytest.raises(UnreadableSourceError, match="frame 25 has 320x144 pixels, the first frame 192x144"):
        numbers(path, [3, 25], table)


def test_the_table(tmp_path: Path) -> None:
    table = make_table(make_video(tmp_path / "clip.mp4", frame_count=12, frames_per_second=10, codec="libx264"))
    assert (table.width, table.height, table.count, table.turn) == (96, 64, 12, 0)
    assert table.seconds().tolist() == pytest.approx([number / 10 for number in range(12)])
    assert FrameTable.model_validate_json(table.model_dump_json()) == table
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableSourceError, match=r"text\.mp4"):
        make_table(tmp_path / "text.mp4")


def test_seconds_are_those_of_the_stamps(tmp_path: Path) -> None:
    varying = make_table(make(Video(treatment="variable_rate"), tmp_path / "varying.mp4")).seconds()
    assert varying[[0, 9, 10, 25, 59]].tolist() == pytest.approx([0, 0.36, 0.42, 1.08, 2.86], abs=0.002)
    late = make_table(make(Video(suffix="ts", treatment="late_start"), tmp_path / "late.ts")).seconds()
    assert late[[0, 25]].tolist() == pytest.approx([0, 1], abs=0.002)
    joined = make_table(make(Video(suffix="ts", treatment="joined"), tmp_path / "joined.ts")).seconds()
    assert (np.diff(joined) >= 0).all()
    assert joined[[29, 30, 59]].tolist() == pytest.approx([1.16, 1.2, 2.36], abs=0.01)
    raw = make_table(make(Video(suffix="h264", b_frames=2), tmp_path / "raw.h264")).seconds()
    assert raw[[0, 25]].tolist() == pytest.approx([0, 1], abs=0.01)


def test_an_angle_in_the_coded_pictures_does_not_turn_them(tmp_path: Path) -> None:
    """OpenCV looks for it only in the container."""
    import cv2

    path, turned = make(Video(), tmp_path / "clip.mp4"), tmp_path / "turned.mkv"
    with av.open(str(path)) as source, av.open(str(turned), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        turner = av.BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", stream)
        for packet in source.demux(stream):
            for changed in turner.filter(packet if packet.size else None):
                changed.stream = copy
                target.mux(changed)
    _, shown = cv2.VideoCapture(str(turned), cv2.CAP_FFMPEG).read()
    assert shown.shape[:2] == (144, 192)
    assert make_table(turned).turn == 0
    assert numbers(turned, [0, 30]) == [0, 30]


def _noise_video(path: Path, frames: int, gop: int) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (45, 80, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": str(gop)})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(np.roll(base, number * 5, 1), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account of memory")
@pytest.mark.parametrize("gop", [25, 400])
def test_memory_is_bounded_however_slow_the_consumer(tmp_path: Path, gop: int) -> None:
    """By default decord would hold 400 frames of 2.8 MB; in a separate process, so that the peak is the reader's."""
    _noise_video(tmp_path / "long.mp4", 400, gop)
    program = (
        "import re, sys, time; from pathlib import Path; from data_tools.video import read_frames\n"
        "count = sum(time.sleep(0.003) or 1 for _ in read_frames(Path(sys.argv[1])))\n"
        # Not getrusage: its peak includes what pytest held when it forked.
        "print(count, int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "long.mp4")]
    count, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert count == 400
    assert peak < 700, f"{peak} MB"
