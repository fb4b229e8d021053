"""Finding users' videos and naming them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from data_tools.datasets.annotation_lines import reason_of
from data_tools.datasets.problems import ProblemLog
from data_tools.errors import UnreadableSourceError
from data_tools.video.picture_folders import is_sequence, list_pictures

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("264", "265", "3gp", "asf", "avi", "flv", "h264", "h265", "hevc", "m2ts", "m4v", "mkv", "mov", "mp4"),
        *("mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
OTHER_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *(
            "bmp",
            "csv",
            "db",
            "gif",
            "ini",
            "jpeg",
            "jpg",
            "json",
            "jsonl",
            "log",
            "lrv",
            "md",
            "npy",
            "npz",
            "parquet",
        ),
        *("pdf", "png", "srt", "tar", "thm", "tif", "tiff", "toml", "tsv", "txt", "vtt", "webp", "xml", "yaml", "yml"),
        *("gz", "zip"),
    )
)
"""Suffixes of other files found beside videos: annotations, pictures, thumbnails, previews, texts."""
MOST_NAMED = 10


def find_videos(folder: Path, log: ProblemLog, *, sequences: bool = False) -> list[Path]:
    """Every video file below a folder, at any depth, except hidden ones, sorted by path; finding none is an error.

    With ``sequences``, MOTChallenge sequence folders are found as well; of one that also has a video, its pictures, or
    the video if they are missing. Links to folders are followed, but each folder is read once. Files with an unknown
    suffix are counted in a warning.
    """
    found: list[Path] = []
    strange: list[str] = []
    seen: dict[tuple[int, int], str] = {}
    for parent, folders, names in os.walk(folder, onerror=lambda error: _report(error, log), followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = os.stat(parent)
        first = seen.setdefault((place.st_dev, place.st_ino), parent)
        if first != parent:
            log.warn(parent, None, f"is the same folder as {first} and was skipped")
            folders.clear()
            continue
        videos: list[Path] = []
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in VIDEO_SUFFIXES:
                videos.append(Path(parent, name))
            elif not os.path.exists(os.path.join(parent, name)):
                log.warn(Path(parent, name), None, "is a broken link")
            elif suffix and suffix not in OTHER_SUFFIXES:
                strange.append(os.path.relpath(os.path.join(parent, name), folder))
        if sequences and is_sequence(parent):
            folders.clear()
            videos = _of_sequence(Path(parent), videos, log)
        found += videos
    if strange:
        names = sorted(strange)[:MOST_NAMED] + (["…"] if len(strange) > MOST_NAMED else [])
        log.warn(folder, None, f"ignored {len(strange)} files whose suffix is not that of a video: {', '.join(names)}")
    if not found:
        log.error(folder, None, "contains no video file")
    found.sort(key=lambda video: video.relative_to(folder).as_posix())
    return [video for video in found if _is_text(video, log)]


def name_videos(videos: list[Path], folder: Path, log: ProblemLog) -> dict[str, Path]:
    """Videos by name: the stem (``gate`` for ``north/gate.mp4``), or, if several share it, the path below ``folder``
    without suffix (``north/gate``). Two that differ only in the suffix are an error."""
    stems = Counter(stem_of(video) for video in videos)
    named: dict[str, Path] = {}
    for video in videos:
        stem = stem_of(video)
        path = video.relative_to(folder).with_name(stem).as_posix() if video != folder else stem
        name = stem if stems[stem] == 1 else path
        if named.setdefault(name, video) != video:
            log.error(video, None, f"has the same name ({name}) as {named[name]}; rename one of them")
    return named


def _of_sequence(folder: Path, videos: list[Path], log: ProblemLog) -> list[Path]:
    """What to read of a MOTChallenge sequence: each person once, also where the recording is there as a video, too."""
    if not videos:
        return [folder]
    try:
        list_pictures(folder)
    except UnreadableSourceError as error:
        log.warn(folder, None, f"{len(videos)} video(s) are read in place of the sequence's pictures: {error}")
        return videos
    log.warn(folder, None, f"the sequence's pictures are read, and not the {len(videos)} video(s) beside them")
    return [folder]


def stem_of(video: Path) -> str:
    """The file's name without suffix, or the name of a sequence folder."""
    return video.name if video.is_dir() else video.stem


def _report(error: OSError, log: ProblemLog) -> None:
    log.error(str(error.filename), None, f"cannot be listed: {reason_of(error)}")


def _is_text(path: Path, log: ProblemLog) -> bool:
    """Whether the file's name is valid UTF-8; otherwise it is reported."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        log.error(repr(str(path)), None, "the file's name is not UTF-8 text; rename it")
        return False
    return True
