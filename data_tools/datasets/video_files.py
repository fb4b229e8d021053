"""Finding users' videos and naming them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from data_tools.datasets.annotation_lines import reason_of
from data_tools.datasets.problems import ProblemLog

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4"),
        *("mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv"),
    )
)


def find_videos(folder: Path, log: ProblemLog) -> list[Path]:
    """Every video file below a folder, at any depth, but hidden ones, sorted by path; none is an error."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: _report(error, log)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if _is_video(name)]
    if not found:
        log.error(folder, None, "holds no video file")
    found.sort(key=lambda video: video.relative_to(folder).as_posix())
    return [video for video in found if _is_text(video, log)]


def name_videos(videos: list[Path], folder: Path, log: ProblemLog) -> dict[str, Path]:
    """Videos by name: the stem (``gate`` for ``north/gate.mp4``), or where several share it, the path below
    ``folder`` without suffix (``north/gate``). Two that differ in the suffix alone are an error."""
    stems = Counter(video.stem for video in videos)
    named: dict[str, Path] = {}
    for video in videos:
        path = video.relative_to(folder).with_suffix("").as_posix() if video != folder else video.stem
        name = video.stem if stems[video.stem] == 1 else path
        if named.setdefault(name, video) != video:
            log.error(video, None, f"has the same name ({name}) as {named[name]}; rename one of them")
    return named


def _is_video(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _report(error: OSError, log: ProblemLog) -> None:
    log.error(str(error.filename), None, f"cannot be listed: {reason_of(error)}")


def _is_text(path: Path, log: ProblemLog) -> bool:
    """Whether the file's name can be written to a table."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        log.error(repr(str(path)), None, "the file's name is not UTF-8 text; rename it")
        return False
    return True
