"""Fitting a track file's boxes to its video: frames numbered from 0, boxes clipped to the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.track_cutting import Run, clip_box
from data_tools.datasets.track_files import TrackBox, TrackFile
from data_tools.video import FrameTable
from data_tools.video.frame_table import PICTURES

PlaceOf = Callable[[int], int | None]
"""Maps a track file's frame number to the video's, from 0; None if there is no such picture."""


def fit_boxes(
    file: TrackFile,
    table: FrameTable,
    place_of: PlaceOf,
    name: str,
    options: FootageOptions,
    log: ProblemLog,
) -> dict[int, Run]:
    """Number frames from 0 and clip the boxes to the picture; drop small boxes and, if asked, those outside.

    Errors, once per file with a count: frames that the video does not have, and boxes outside the picture. In a damaged
    video, tracks that continue past the damage are quarantined.
    """
    fitting: dict[int, Run] = {}
    beyond: list[TrackBox] = []
    outside: list[TrackBox] = []
    small = 0
    for number, run in file.tracks.items():
        lost = [box for box in run if not 0 <= _place(place_of, box) < table.count]
        if table.damage is not None and lost:
            reason = f"frame {lost[0].frame} cannot be read: the video is damaged after {table.count} frames"
            log.quarantine(file.path, lost[0].line, f"{reason}: {table.damage}", tracklet=f"{name}/{number}")
            continue
        beyond += lost
        kept: list[TrackBox] = []
        for box in run:
            place = _place(place_of, box)
            visible = clip_box(box.box, table.width, table.height)
            padded = clip_box(box.box, table.width, table.height, options.box_padding)
            if not 0 <= place < table.count:
                continue
            if visible is None or padded is None:
                outside.append(box)
            elif visible[2] < options.minimum_width or visible[3] < options.minimum_height:
                small += 1
            else:
                kept.append(TrackBox(place, padded, box.line))
        fitting[number] = kept
    _report(file, table, beyond, outside, small, options, log)
    return fitting


def _place(place_of: PlaceOf, box: TrackBox) -> int:
    place = place_of(box.frame)
    return -1 if place is None else place


def _report(
    file: TrackFile,
    table: FrameTable,
    beyond: Sequence[TrackBox],
    outside: Sequence[TrackBox],
    small: int,
    options: FootageOptions,
    log: ProblemLog,
) -> None:
    count = sum(map(len, file.tracks.values()))
    picture = f"the picture of {table.width}x{table.height} pixels"
    if beyond:
        what = f"frame {beyond[0].frame} is {_missing(beyond[0], table, file, options)}"
        frames = [box.frame for box in beyond]
        log.error(
            file.path, beyond[0].line, what + _further(len(beyond), count, f"frames {min(frames)} to {max(frames)}")
        )
    if outside and options.outside_boxes == "error":
        what = f"box x, y, w, h = {outside[0].box} lies outside {picture}"
        choice = "drop them with --data.footage.outside_boxes drop"
        log.error(file.path, outside[0].line, what + _further(len(outside), count, choice))
    elif outside:
        log.warn(file.path, None, f"{len(outside)} boxes outside {picture} were dropped")
    if small:
        limit = f"{options.minimum_width:g}x{options.minimum_height:g} pixels"
        log.warn(file.path, None, f"{small} boxes with less than {limit} inside the picture were dropped")


def _missing(box: TrackBox, table: FrameTable, file: TrackFile, options: FootageOptions) -> str:
    if table.container == PICTURES:
        return f"not among the sequence's {table.count} pictures"
    if file.numbered_from is None and options.first_frame == 1 and box.frame == 0:
        return f"before the first of the video's {table.count} frames, which is 1"
    return f"beyond the video's {table.count} frames"


def _further(found: int, count: int, more: str) -> str:
    return f"; the same holds for {found - 1} more of the file's {count} boxes ({more})" if found > 1 else ""
