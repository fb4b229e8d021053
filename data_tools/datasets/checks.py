"""Checks that apply to any data set, whatever its format."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

from data_tools.datasets.problems import Dataset, ProblemLog, split_origin
from data_tools.tracklet import FrameSource, ImageFrames, Split, Tracklet
from data_tools.video.picture_folders import is_sequence


def check_dataset(dataset: Dataset, needs: Collection[Split] = ()) -> Dataset:
    """Add the problems that only show in the whole data set to those of the reader, each with file and line.

    Errors: two tracklets with the same id; a training tracklet without a person label; an identity in both train and
    test (query or gallery). Quarantined, and so removed from the tracklets: a tracklet without frames, or whose image
    folder or video file is missing. Warnings: a labelled query without a gallery tracklet of its person under another
    camera (the protocols leave it out of the mean); no tracklet in a split of ``needs``.
    """
    log = ProblemLog()
    usable = _without_missing_frames(dataset.tracklets, log)
    _check_ids(dataset.tracklets, log)
    _check_identities(usable, log)
    _check_queries(usable, log)
    for split in needs:
        if not any(tracklet.split == split for tracklet in usable):
            log.warn(dataset.name, None, f"the data set has no usable {split} tracklet")
    return Dataset(dataset.name, tuple(usable), (*dataset.problems, *log.problems()))


def _without_missing_frames(tracklets: Iterable[Tracklet], log: ProblemLog) -> list[Tracklet]:
    is_folder, is_there = cache(os.path.isdir), cache(_is_video)
    usable: list[Tracklet] = []
    for tracklet in tracklets:
        source = tracklet.source
        reason: str | None = None
        if isinstance(source, ImageFrames):
            if not is_folder(source.folder):
                reason = f"the image folder {source.folder} is missing"
        elif not is_there(source.video):
            reason = f"the video {source.video} is missing"
        if reason is None and _is_empty(source):
            reason = "the tracklet has no frames"
        if reason is None:
            usable.append(tracklet)
        else:
            log.quarantine(*split_origin(tracklet.origin), reason, tracklet.id)
    return usable


def _is_video(path: Path) -> bool:
    return os.path.isfile(path) or is_sequence(path)


def _is_empty(source: FrameSource) -> bool:
    return not source.names if isinstance(source, ImageFrames) else source.frames == ()


def _check_ids(tracklets: Iterable[Tracklet], log: ProblemLog) -> None:
    first: dict[str, Tracklet] = {}
    for tracklet in tracklets:
        earlier = first.setdefault(tracklet.id, tracklet)
        if earlier is not tracklet:
            message = f"duplicate tracklet id {tracklet.id}, first seen in {earlier.origin}"
            log.error(*split_origin(tracklet.origin), message)


def _check_identities(tracklets: Iterable[Tracklet], log: ProblemLog) -> None:
    trained: dict[str, Tracklet] = {}
    tested: dict[str, Tracklet] = {}
    for tracklet in tracklets:
        if tracklet.person is not None:
            (trained if tracklet.split == "train" else tested).setdefault(tracklet.person, tracklet)
        elif tracklet.split == "train":
            log.error(*split_origin(tracklet.origin), f"training tracklet {tracklet.id} has no person label")
    for person, tracklet in tested.items():
        if person in trained:
            where = trained[person].origin
            log.error(
                *split_origin(tracklet.origin),
                f"person {person} is in both {tracklet.split} and train ({where})",
            )


def _check_queries(tracklets: Collection[Tracklet], log: ProblemLog) -> None:
    gallery_cameras: defaultdict[str | None, set[str]] = defaultdict(set)
    for tracklet in tracklets:
        if tracklet.split == "gallery":
            gallery_cameras[tracklet.person].add(tracklet.camera)
    for tracklet in tracklets:
        is_query = tracklet.split == "query" and tracklet.person is not None
        if is_query and not gallery_cameras[tracklet.person] - {tracklet.camera}:
            log.warn(
                *split_origin(tracklet.origin),
                f"query {tracklet.id}: the gallery has person {tracklet.person} under no camera other than "
                f"{tracklet.camera}, so the protocols leave the query out",
            )
