"""A crop shows the frame that OpenCV shows, for every kind of file: a small part of ``tests.data.video_campaign``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.numbered_videos import Video, read
from tests.data.video_campaign import draw_videos, seen_by_opencv, try_video

KINDS = [
    Video(b_frames=2),
    Video(treatment="cut", b_frames=2),
    Video(codec="hevc", treatment="cut", open_groups=True, b_frames=3),
    Video(codec="hevc", suffix="mkv", open_groups=True, b_frames=4, frames=150),
    Video(suffix="mkv", treatment="mid_group", open_groups=True, b_frames=2, group=25),
    Video(suffix="ts", treatment="mid_group", b_frames=2, group=25),
    Video(suffix="ts", treatment="joined", b_frames=2),
    Video(suffix="ts", frames=200, open_groups=True, b_frames=2),
    Video(suffix="h264", b_frames=2),
    Video(codec="hevc", suffix="hevc", treatment="joined"),
    Video(suffix="avi", b_frames=2),
    Video(codec="mpeg4", suffix="avi", b_frames=2),
    Video(codec="mpeg2", suffix="ts", open_groups=True, b_frames=2),
    Video(codec="vp8", suffix="webm", b_frames=2),
    Video(codec="vp9", suffix="webm"),
    Video(codec="mjpeg", suffix="mov"),
    Video(treatment="fragment_a_frame", b_frames=2),
    Video(treatment="fragments", b_frames=2),
    Video(treatment="fragments_after", suffix="mov"),
    Video(treatment="variable_rate", suffix="mkv"),
    Video(treatment="empty_packet", b_frames=2),
    Video(treatment="small_stream_first"),
    Video(treatment="small_stream_second", suffix="mkv"),
    Video(treatment="audio_first", suffix="ts"),
    Video(treatment="turned_90"),
    Video(treatment="turned_180", suffix="mkv"),
    Video(treatment="turned_270", suffix="mov", open_groups=True, b_frames=2),
    Video(treatment="mirrored"),
    Video(treatment="flipped"),
    *draw_videos(6, seed=5, sizes=((192, 144),)),
]


@pytest.mark.parametrize("video", KINDS, ids=lambda video: video.kind.replace(" ", "-"))
def test_crops_show_what_opencv_shows(tmp_path: Path, video: Video) -> None:
    outcome = try_video(video, tmp_path)
    assert not outcome.reasons
    assert set(outcome.tracks) <= {"right", "refused", "hung"}
    assert outcome.tracks["right"] == outcome.tracks.total() >= 4


def test_the_referee_reads_the_numbers(tmp_path: Path) -> None:
    """Otherwise the tests above could compare nothing with nothing."""
    assert try_video(Video(treatment="turned_90", frames=20), tmp_path).tracks["right"] >= 4
    seen = [read(picture) for picture in seen_by_opencv(tmp_path / "gate.mp4")]
    assert seen == [("turned 90", number) for number in range(20)]
