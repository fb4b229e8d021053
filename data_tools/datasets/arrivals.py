"""Footage that arrives in a folder: which videos are there with their tracks, and no longer being written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.datasets.annotation_lines import require_folder
from data_tools.datasets.footage import track_folders
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.track_files import list_track_files
from data_tools.datasets.video_files import find_videos, stem_of
from data_tools.options import Options


class Arrival(Options):
    """A video with its track file, as they were found."""

    name: str
    """The video's path below the folder, without suffix: it stays the same whatever else arrives."""
    video: Path
    tracks: Path
    state: str
    """Sizes and times of both; another state means other content."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """What a folder holds at one moment."""

    complete: list[Arrival]
    """Both files are there and have not changed for the time to settle, the oldest first."""
    waiting: int
    """Videos whose track file is missing, or that may still be being written."""
    problems: list[str]
    """What cannot be a video with its tracks, each in one line."""


def require_arrivals_folder(options: FootageOptions) -> None:
    """Raise ``InputError`` unless the options name folders, into which videos and their track files can arrive."""
    require_folder(options.videos, "the one in which footage arrives")
    if options.tracks is not None:
        require_folder(options.tracks, "one in which the track file of each video arrives")


def look_at(
    options: FootageOptions,
    settle_seconds: float,
    now: float | None = None,
    tracks_of: dict[Path, Path] | None = None,
) -> FolderState:
    """Look through the folder ``options.videos``.

    A video is complete once its track file is there, neither is empty, and neither has changed for ``settle_seconds``,
    by the times of last change of content and name that the file system gives. What may pause for longer while it is
    written must be written under a hidden name (``.gate.mp4``) or elsewhere, and then renamed.

    Args:
        now: seconds since the epoch. Default: the clock's.
        tracks_of: the track files that earlier looks have found, by video; extended. Looking for them takes longest.
    """
    now = time.time() if now is None else now
    tracks_of = {} if tracks_of is None else tracks_of
    log = ProblemLog()
    found: list[tuple[float, Arrival]] = []
    named: dict[str, Path] = {}
    waiting = 0
    videos = find_videos(options.videos, log, sequences=True)
    for video in videos:
        name = video.relative_to(options.videos).with_name(stem_of(video)).as_posix()
        files = [tracks_of[video]] if video in tracks_of else []
        if not files or not os.path.isfile(files[0]):
            files, _ = list_track_files(video, track_folders(name, video, options))
        if named.setdefault(name, video) != video:
            log.error(video, None, f"has the same name ({name}) as {named[name]}; rename one of them")
        elif len(files) > 1:
            log.error(video, None, f"has several track files: {', '.join(map(str, files))}")
        elif files and (facts := _facts(video, files[0])) and facts[0] <= now - settle_seconds:
            tracks_of[video] = files[0]
            found.append((facts[0], Arrival(name=name, video=video, tracks=files[0], state=facts[1])))
        else:
            waiting += 1
    found.sort(key=lambda each: (each[0], each[1].name))
    problems = [str(problem) for problem in log.problems()] if videos else []  # an empty folder is none
    return FolderState([arrival for _, arrival in found], waiting, problems)


def _facts(video: Path, tracks: Path) -> tuple[float, str] | None:
    """The time of the last change, and the state; None if a file is empty, or has just gone."""
    try:
        sizes_and_times = [(file.st_size, file.st_mtime_ns, file.st_ctime) for file in _files(video, tracks)]
    except OSError:
        return None
    if not all(size for size, _, _ in sizes_and_times):
        return None
    size, pictures = sum(size for size, _, _ in sizes_and_times[1:]), len(sizes_and_times) - 2
    newest = max(time_ns for _, time_ns, _ in sizes_and_times[1:])
    own_size, own_time, _ = sizes_and_times[0]
    state = f"tracks {own_size} {own_time}, video {size} {newest}" + (f" {pictures}" if pictures else "")
    return max(max(time_ns / 1e9, changed) for _, time_ns, changed in sizes_and_times), state


def _files(video: Path, tracks: Path) -> Iterator[os.stat_result]:
    """The track file, the video, and the files below it where it is a sequence of pictures."""
    yield os.stat(tracks)
    yield os.stat(video)
    for parent, _, names in os.walk(video):
        yield from (os.stat(os.path.join(parent, name)) for name in names if Path(parent, name) != tracks)
