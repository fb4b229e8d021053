"""Mapping the frame numbers of track files to those of the videos, which start at 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.track_files import TrackFile

FirstFrame = Literal[0, 1, "auto"]


def find_first_frames(
    files: Mapping[str, TrackFile], counts: Mapping[str, int], asked: FirstFrame, place: Path, log: ProblemLog
) -> dict[str, int]:
    """The number that each video's track file gives to its first frame.

    It is certain if the format defines it, if there is a frame 0, or if a frame equals the video's number of frames
    (then it is 1). Other files follow the certain ones of the same kind, if these agree. Otherwise frames are assumed
    to start at 1, as in MOTChallenge, with a warning if none is numbered 1; if the column is called an index, which
    mostly starts at 0, it is an error.

    Args:
        files: by the video's name.
        counts: the videos' numbers of frames.
        asked: 0 or 1 applies to all files whose format does not define it.
        place: name of the data set in messages.
        log: gets one line on how many files are numbered how, unless that is obvious.
    """
    certain = {
        name: first for name, file in files.items() if (first := _certain(file, counts[name], asked)) is not None
    }
    found = dict(certain)
    followed: list[str] = []
    assumed: list[str] = []
    for name, file in files.items():
        if name in certain:
            continue
        like = {certain[other] for other in certain if _kind(files[other]) == _kind(file)}
        if len(like) == 1:
            found[name] = like.pop()
            followed.append(name)
        elif file.frame_column is not None and file.frame_column.lower().rstrip("s").endswith(("index", "idx")):
            log.error(
                file.path,
                None,
                f"column {file.frame_column}, {file.lowest} to {file.highest} in a video of {counts[name]} frames, may "
                "start at 0 or 1; set --data.footage.first_frame",
            )
            found[name] = 0
        else:
            found[name] = 1
            if file.frame_column is not None or file.lowest != 1:
                assumed.append(name)
    inferred = {name: first for name, first in found.items() if files[name].numbered_from is None}
    _report(inferred, followed, assumed, asked, place, log)
    return found


def _certain(file: TrackFile, count: int, asked: FirstFrame) -> int | None:
    if file.numbered_from is not None:
        return file.numbered_from
    if asked != "auto":
        return asked
    if file.lowest == 0:
        return 0
    return 1 if file.highest == count else None


def _kind(file: TrackFile) -> tuple[str, str | None]:
    return file.path.suffix.lower(), file.frame_column


def _report(
    found: Mapping[str, int],
    followed: Sequence[str],
    assumed: Sequence[str],
    asked: FirstFrame,
    place: Path,
    log: ProblemLog,
) -> None:
    if asked != "auto" or (not assumed and set(found.values()) <= {1}):
        return
    counted = " and ".join(f"from {first} ({count})" for first, count in sorted(Counter(found.values()).items()))
    text = f"frames are numbered {counted} in {len(found)} track files"
    if followed:
        text += f"; {len(followed)} of them do not show it and follow the others of their kind"
    if assumed:
        names = ", ".join(assumed[:5]) + (", …" if len(assumed) > 5 else "")
        text += (
            f"; {len(assumed)} of them do not show it (no frame 0, none equal to the video's number of frames) and are "
            f"assumed to start at 1: {names}. If they start at 0, set --data.footage.first_frame 0"
        )
    log.warn(place, None, text)


def frame_places(file: TrackFile, numbers: Sequence[int], asked: FirstFrame) -> dict[int, int]:
    """The position of each frame number of a file in a sequence of numbered pictures.

    Args:
        file: the boxes of the sequence.
        numbers: the pictures' numbers, from their names, ascending.
        asked: ``auto``: frame numbers are the pictures' numbers; otherwise they count the pictures, from 0 or 1.
    """
    if asked == "auto" or file.numbered_from is not None:
        return {number: place for place, number in enumerate(numbers)}
    return {place + asked: place for place in range(len(numbers))}
