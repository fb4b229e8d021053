"""Warnings about boxes that are readable but look wrong: one per file, with counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.track_files import TrackBox, TrackFile

EDGE_SHARE = 0.3
"""If at least this share of boxes crosses the right or lower edge, they are checked for being x1 y1 x2 y2."""
CORNER_SHARE = 0.98
CUT_SHARE = 0.9
"""If at least this share crosses the edge and they are not x1 y1 x2 y2, they are for a larger picture."""
QUARTER = 0.52
"""Slightly more than half of each side."""
FEW_BOXES = 8
STILL_BOXES = 10
STILL_TRACKS = 2


def warn_of_doubts(file: TrackFile, width: int, height: int, log: ProblemLog) -> None:
    """Warn of boxes that look like corner coordinates, that seem to belong to another picture, or that never move.

    Args:
        file: the boxes of one video.
        width, height: picture size of the video, in pixels.
        log: gets the warnings.
    """
    boxes = [box for run in file.tracks.values() for box in run]
    if file.picture_size not in (None, (width, height)):
        stated_width, stated_height = file.picture_size or (0, 0)
        log.warn(
            file.path,
            None,
            f"its boxes are for {stated_width}x{stated_height} pixels, but the video has {width}x{height}",
        )
    if len(boxes) >= FEW_BOXES:
        _warn_of_places(boxes, file.path, width, height, log)
    _warn_of_still(file.tracks, file.path, log)


def _warn_of_places(boxes: Sequence[TrackBox], path: Path, width: int, height: int, log: ProblemLog) -> None:
    count = len(boxes)
    cut = corners = small = quarter = 0
    for _, (x, y, w, h), _ in boxes:
        cut += x + w > width or y + h > height
        corners += w > x >= 0 and h > y >= 0 and w <= width and h <= height
        small += w <= 1 and h <= 1 and x <= 1 and y <= 1
        quarter += x + w <= QUARTER * width and y + h <= QUARTER * height
    if small == count:
        log.warn(path, None, f"{small} of {count} boxes lie within 0 to 1: are they normalised instead of in pixels?")
    elif cut >= EDGE_SHARE * count and corners >= CORNER_SHARE * count:
        log.warn(path, None, f"{cut} of {count} boxes cross the edge: are these x1 y1 x2 y2?")
    elif cut >= CUT_SHARE * count:
        log.warn(
            path,
            None,
            f"{cut} of {count} boxes cross the edge of {width}x{height} pixels: are they for a larger picture?",
        )
    elif quarter == count:
        log.warn(
            path,
            None,
            f"{quarter} of {count} boxes lie in the upper left quarter of {width}x{height} pixels: are they for a "
            "smaller picture?",
        )


def _warn_of_still(tracks: Mapping[int, Sequence[TrackBox]], path: Path, log: ProblemLog) -> None:
    long = [run for run in tracks.values() if len(run) >= STILL_BOXES]
    still = sum(all(box.box == run[0].box for box in run) for run in long)
    if still >= STILL_TRACKS and 2 * still >= len(long):
        log.warn(
            path,
            None,
            f"in {still} of {len(long)} tracks with at least {STILL_BOXES} boxes, all boxes are identical: does the "
            "file repeat one box per track?",
        )
