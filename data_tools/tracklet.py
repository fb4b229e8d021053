"""The tracklet: one person seen by one camera, in time order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from data_tools.errors import InputError
from data_tools.video.frame_table import FrameTable

Split = Literal["train", "query", "gallery"]
SPLITS: tuple[Split, ...] = get_args(Split)

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the frame; x and y of the upper left corner, from 0."""


@dataclass(frozen=True, slots=True)
class ImageFrames:
    """Frames stored as one image file each: ``folder / name`` for every name, in time order."""

    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class VideoFrames:
    """Frames of a video file, or of a folder of numbered pictures in place of one, in time order.

    ``frames`` are frame numbers from 0, strictly increasing. ``boxes`` has one box per frame, clipped to the picture
    if the annotation's reader knows its size (the decoder clips again); None takes whole frames. ``frames`` None (with
    ``boxes`` None) takes every frame, as many as the decoder finds. ``table`` is the video's frame table, if it was
    made already; tracklets of one video share it.
    """

    video: Path
    frames: tuple[int, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    table: FrameTable | None = field(default=None, repr=False, compare=False)


FrameSource = ImageFrames | VideoFrames


@dataclass(frozen=True, slots=True)
class Tracklet:
    """One person seen by one camera, in time order.

    ``id`` is unique within the data set. ``person`` and ``clothes`` are labels as released (strings), None if
    unknown. A clothes label is unique only within its person: the clothes *class* is the pair (person, clothes),
    so that two people in the same shirt have two classes. ``camera`` is the camera as the retrieval protocol
    understands it. ``frame_index`` holds the frames' numbers in the recording (empty if every frame of a video is
    taken). ``attributes`` holds whatever else a protocol may need: location, scale, session, start time.
    ``origin`` is the annotation's position, ``file:line``.
    """

    id: str
    person: str | None
    clothes: str | None
    camera: str
    split: Split
    source: FrameSource
    frame_index: tuple[int, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"tracklet {self.id}: split {self.split!r}, expected one of {', '.join(SPLITS)}")
