"""Footage and tracks for tests: MOT text, and reading it with any options."""

from __future__ import annotations

from pathlib import Path

from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import Dataset
from data_tools.tracklet import Tracklet, VideoFrames
from tests.data.made_videos import make_video

WIDTH, HEIGHT, FRAMES = 96, 64, 60


def make_gate(folder: Path) -> Path:
    """Write ``gate.mp4``, 60 frames of 96x64 pixels at 25 frames a second; returns ``folder``."""
    make_video(folder / "gate.mp4", FRAMES, WIDTH, HEIGHT)
    return folder


def mot(track: int, frames: range, box: str = "10,12,20,40", rest: str = ",1,-1,-1,-1") -> str:
    """MOT text lines of one track, ``frames`` counted from 1."""
    return "".join(f"{frame},{track},{box}{rest}\n" for frame in frames)


def read(folder: Path, **options: object) -> Dataset:
    return read_footage(FootageOptions.model_validate({"videos": folder, **options}))


def frames_of(tracklet: Tracklet) -> list[int]:
    assert isinstance(tracklet.source, VideoFrames)
    assert tracklet.source.frames == tracklet.frame_index
    return list(tracklet.frame_index)


def boxes_of(tracklet: Tracklet) -> set[tuple[float, float, float, float]]:
    assert isinstance(tracklet.source, VideoFrames)
    assert tracklet.source.boxes is not None
    assert len(tracklet.source.boxes) == len(tracklet.frame_index)
    return set(tracklet.source.boxes)
