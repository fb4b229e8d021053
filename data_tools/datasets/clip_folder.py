"""A folder of clips: each video file shows one person, and all its frames are used without cropping."""

from __future__ import annotations

from pathlib import Path

from data_tools.datasets.annotation_lines import path_inside, require_folder
from data_tools.datasets.label_table import UNLABELLED, Label, read_labels, warn_of_unusable
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.datasets.video_files import find_videos
from data_tools.options import AbsolutePath, Options
from data_tools.tracklet import Tracklet, VideoFrames


class ClipFolderOptions(Options):
    """Clips and, optionally, labels."""

    folder: AbsolutePath
    """Folder of video files at any depth, each one tracklet."""

    labels: AbsolutePath | None = None
    """CSV file of labels. Its header is `file,person,clothes,camera,split`; other columns become attributes. `file` is
    the path below the folder. A cell that is empty, -1, nan, none, null, N/A or unknown means unknown; an unknown
    camera is the file itself, and an empty split is gallery. Clips of the split train with an unknown person are left
    out. Clips without a row are unlabelled gallery. Default: all clips are unlabelled gallery."""


def read_clip_folder(options: ClipFolderOptions) -> Dataset:
    """Read a folder of clips.

    Returns:
        One tracklet per video file, sorted by its id, the path below the folder (``north/anna_1.mp4``). A labelled
        clip that does not exist is quarantined. Whether a file can be decoded only shows later.

    Raises:
        InputError: the folder does not exist.
    """
    require_folder(options.folder, "a folder of video files")
    log = ProblemLog()
    labels: dict[str, Label] = {}
    if options.labels is not None:
        labels = read_labels(options.labels, ("file",), lambda row: str(path_inside(row["file"])), log)
    clips = {video.relative_to(options.folder).as_posix(): video for video in find_videos(options.folder, log)}
    labelled = {name: labels.get(name, UNLABELLED) for name in clips}
    tracklets = [
        _tracklet(name, video, labelled[name], options)
        for name, video in clips.items()
        if not labelled[name].is_unusable
    ]
    if options.labels is not None:
        warn_of_unusable(len(clips) - len(tracklets), options.labels, "clip", log)
        for name, label in labels.items():
            if name not in clips:
                log.quarantine(options.labels, label.line, f"{options.folder / name}: no such clip", name)
    return Dataset("clips", tuple(tracklets), log.problems())


def _tracklet(name: str, video: Path, label: Label, options: ClipFolderOptions) -> Tracklet:
    return Tracklet(
        id=name,
        person=label.person,
        clothes=label.clothes,
        camera=label.camera or name,
        split=label.split,
        source=VideoFrames(video),
        attributes=label.attributes,
        origin=f"{options.labels}:{label.line}" if label.line else str(video),
    )
