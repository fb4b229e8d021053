"""Reading videos: right frames, by either decoder, within bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from data_tools import video
from data_tools.errors import UnreadableSourceError
from data_tools.video import probe_video, read_frames
from tests.data.made_videos import grey_of, make_video


def greys(path: Path, frames: list[int] | None = None) -> list[tuple[int, int]]:
    return [(number, round(float(frame.mean()))) for number, frame in read_frames(path, frames)]


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".ts"])
@pytest.mark.parametrize("wanted", [None, [0], [3, 4, 29], list(range(0, 60, 7)), [59]])
def test_frames_are_the_wanted_ones(tmp_path: Path, suffix: str, codec: str, wanted: list[int] | None) -> None:
    path = make_video(tmp_path / f"clip{suffix}", frame_count=60, codec=codec)
    found = greys(path, wanted)
    assert [number for number, _ in found] == (list(range(60)) if wanted is None else wanted)
    assert all(abs(grey - grey_of(number)) <= 2 for number, grey in found)


def test_both_decoders_give_the_same_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", frame_count=40)
    wanted = list(range(0, 40, 3))
    by_decord, by_pyav = (
        [frame for _, frame in decoder]
        for decoder in (video._decord_frames(path, wanted), video._pyav_frames(path, wanted, 0))
    )
    assert len(by_decord) == len(wanted)
    assert all(np.abs(one.astype(int) - other).max() <= 2 for one, other in zip(by_decord, by_pyav, strict=True))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("group", [12, 60])
def test_decoders_agree_on_frames_coded_out_of_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, group: int
) -> None:
    """B-frames, runs and gaps, pieces that end anywhere: each frame compared with its neighbours in mind."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (12, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(group), "bf": "3", "sc_threshold": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(120):
            moved = np.roll(base, (number * 3, number * 5), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    monkeypatch.setattr(video, "PIECE_BYTES", 160 * 96 * 3 * 30)
    expected = dict(video._pyav_frames(path, None, 0))
    assert len(expected) == 120
    patterns = (range(120), range(3, 120, 13), range(50, 90), [119], [0, 119], rng.choice(120, 20, replace=False))
    for wanted in (sorted(int(number) for number in pattern) for pattern in patterns):
        for frames in (video._decord_frames(path, wanted), video._pyav_frames(path, wanted, 0)):
            found = dict(frames)
            assert list(found) == wanted
            assert all(np.abs(frame.astype(int) - expected[number]).mean() < 1 for number, frame in found.items())


def test_pieces_begin_at_keyframes_and_are_bounded() -> None:
    pieces = list(video._cut_at_keyframes(range(100), [0, 12, 24, 50, 60, 90], most=30, longest=30))
    assert [piece[0] for piece in pieces] == [0, 24, 50, 60, 90]
    assert [frame for piece in pieces for frame in piece] == list(range(100))
    with pytest.raises(video._NotForDecord):
        list(video._cut_at_keyframes(range(100), [0, 60], most=30, longest=50))
    pieces = list(video._cut_at_keyframes(range(100), [0, 60], most=30, longest=60))
    assert [len(piece) for piece in pieces] == [60, 40]
    sparse = list(video._cut_at_keyframes([5, 70, 71], [0, 60], most=2, longest=2))
    assert sparse == [[5], [70, 71]]


def test_a_large_file_is_read_by_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "clip.mp4", frame_count=60)
    monkeypatch.setattr(video, "FILE_BYTES", path.stat().st_size - 1)
    assert [number for number, _ in greys(path)] == list(range(60))
    with pytest.raises(video._NotForDecord):
        list(video._decord_frames(path, None))


def test_a_long_group_of_pictures_is_read_by_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "clip.mp4", frame_count=60, codec="libx264")
    assert [number for number, _ in video._decord_frames(path, None)] == list(range(60))
    monkeypatch.setattr(video, "PIECE_BYTES", 96 * 64 * 3)
    monkeypatch.setattr(video, "GROUP_BYTES", 96 * 64 * 3 * 2)
    assert [number for number, _ in greys(path)] == list(range(60))
    with pytest.raises(video._NotForDecord):
        list(video._decord_frames(path, None))


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


def test_frames_beyond_the_end_and_missing_files(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", frame_count=10)
    with pytest.raises(UnreadableSourceError, match="frame 10"):
        greys(path, [8, 9, 10])
    with pytest.raises(UnreadableSourceError, match="no such file"):
        greys(tmp_path / "none.mp4")


def test_facts(tmp_path: Path) -> None:
    facts = probe_video(make_video(tmp_path / "clip.mp4", frame_count=12, frames_per_second=10))
    assert (facts.width, facts.height, facts.frame_count, facts.frames_per_second) == (96, 64, 12, 10.0)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableSourceError, match=r"text\.mp4"):
        probe_video(tmp_path / "text.mp4")


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
    """Left alone, decord would hold 400 frames of 2.8 MB; a process of its own, so that the peak is the reader's."""
    _noise_video(tmp_path / "long.mp4", 400, gop)
    program = (
        "import re, sys, time; from pathlib import Path; from data_tools.video import read_frames\n"
        "count = sum(time.sleep(0.003) or 1 for _ in read_frames(Path(sys.argv[1])))\n"
        # Not getrusage: its peak counts what pytest held when it forked.
        "print(count, int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "long.mp4")]
    count, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert count == 400
    assert peak < 700, f"{peak} MB"
