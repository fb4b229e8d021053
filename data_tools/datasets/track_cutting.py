"""Cutting a track's boxes into the runs of frames that become tracklets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from data_tools.datasets.track_files import TrackBox
from data_tools.tracklet import Box

Run = Sequence[TrackBox]
"""Boxes of one track, with increasing frame numbers."""


def clip_box(box: Box, width: int, height: int, padding: float = 0.0) -> Box | None:
    """The part of the box inside a ``width`` × ``height`` picture, or None if the box lies entirely outside.

    ``padding`` first grows the box by this share of its width on the left and right, and of its height at the top and
    bottom. Whether the box lies outside is decided without padding.
    """
    x, y, w, h = box
    if not (x < width and y < height and x + w > 0 and y + h > 0):
        return None
    left, top = max(x - padding * w, 0.0), max(y - padding * h, 0.0)
    right, bottom = min(x + w + padding * w, float(width)), min(y + h + padding * h, float(height))
    return left, top, right - left, bottom - top


def split_at_gaps(run: Run, max_gap: int) -> list[Run]:
    """Cut where more than ``max_gap`` frames are missing between two boxes."""
    cuts = [i for i in range(1, len(run)) if run[i].frame - run[i - 1].frame - 1 > max_gap]
    bounds = [0, *cuts, len(run)]
    return [run[start:end] for start, end in pairwise(bounds) if end > start]


def take_stride(run: Run, stride: int) -> Run:
    """The boxes whose frame distance from the first is a multiple of ``stride``."""
    return [box for box in run if (box.frame - run[0].frame) % stride == 0]


def cut_evenly(run: Run, maximum: int | None) -> list[Run]:
    """Cut into as few runs of at most ``maximum`` boxes as possible, with lengths that differ by at most one."""
    count = 1 if maximum is None else math.ceil(len(run) / maximum)
    bounds = [len(run) * i // count for i in range(count + 1)]
    return [run[start:end] for start, end in pairwise(bounds)]


def cut_apart(run: Run, pieces: int, gap: int) -> list[Run]:
    """Cut into ``pieces`` whose lengths differ by at most one, dropping ``gap`` boxes between neighbours.

    A track has at most one box per frame, so at least ``gap`` frames lie between two pieces. Empty if the run is too
    short to give every piece a box.
    """
    kept = len(run) - gap * (pieces - 1)
    if kept < pieces:
        return []
    bounds = [kept * i // pieces for i in range(pieces + 1)]
    return [run[bounds[i] + gap * i : bounds[i + 1] + gap * i] for i in range(pieces)]
