"""Users' own footage: videos and the boxes of a tracker."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.datasets.annotation_lines import require_folder, whole_number
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.label_table import UNLABELLED, Label, read_labels, warn_of_unused
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.datasets.track_cutting import Run, clip_box, cut_apart, cut_evenly, split_at_gaps, take_stride
from data_tools.datasets.track_files import TrackBox, find_track_file, read_track_file
from data_tools.datasets.video_files import find_videos, name_videos
from data_tools.errors import UnreadableSourceError
from data_tools.tracklet import Split, Tracklet, VideoFrames
from data_tools.video import VideoFacts, probe_video

READER_ATTRIBUTES = ("video", "track", "start_seconds", "end_seconds")


@dataclass(frozen=True, slots=True)
class _Track:
    """One track of one video, its boxes inside the picture."""

    video: Path
    video_name: str
    file: Path
    number: int
    boxes: Run
    frames_per_second: float

    @property
    def name(self) -> str:
        return f"{self.video_name}/{self.number}"


LabelledTrack = tuple[_Track, list[tuple[Run, Label]]]
"""A track and the runs of frames that become its tracklets, each with its label."""


def read_footage(options: FootageOptions) -> Dataset:
    """Read videos and tracks.

    Returns:
        Tracklets named ``VIDEO/TRACK``, with ``/PART`` from 1 where a track gives several, ordered by video,
        track number and time, with the attributes ``video``, ``track`` and, where the video says its frame
        rate, ``start_seconds`` and ``end_seconds`` of its first and last frame in the video. Frame numbers are
        stored from 0. A row that is not a box, a box outside the picture and a frame beyond the video's end are
        errors; tracks of a video that cannot be read are quarantined; what the limits of ``options`` leave out is
        counted in one warning a file.

    Raises:
        InputError: ``videos`` is neither file nor folder, or ``tracks`` no folder where ``videos`` is one.
    """
    log = ProblemLog()
    tracks: list[_Track] = []
    for name, video in name_videos(_find_videos(options, log), options.videos, log).items():
        tracks += _read_tracks(name, video, options, log)
    labelled = _people_from_tracks(tracks, options) if options.people_from_tracks else _labelled(tracks, options, log)
    _warn_of_short(labelled, options, log)
    tracklets = [tracklet for track, labelled_runs in labelled for tracklet in _tracklets(track, labelled_runs)]
    return Dataset("footage", tuple(tracklets), log.problems())


def _find_videos(options: FootageOptions, log: ProblemLog) -> list[Path]:
    if os.path.isfile(options.videos):
        return [options.videos]
    require_folder(options.videos, "a video file or a folder of them")
    if options.tracks is not None:
        require_folder(options.tracks, f"one with a track file for each video in {options.videos}")
    return find_videos(options.videos, log)


def _read_tracks(name: str, video: Path, options: FootageOptions, log: ProblemLog) -> list[_Track]:
    file = _track_file(name, video, options, log)
    if file is None:
        return []
    boxes = read_track_file(file, log, first_frame=options.first_frame, minimum_confidence=options.minimum_confidence)
    if not boxes:
        log.warn(file, None, f"holds no box for {video}")
        return []
    try:
        facts = probe_video(video)
    except UnreadableSourceError as error:
        for number, run in boxes.items():
            log.quarantine(file, run[0].line, str(error), tracklet=f"{name}/{number}")
        return []
    fitting = _fit_boxes(boxes, facts, file, options, log)
    return [_Track(video, name, file, number, run, facts.frames_per_second) for number, run in fitting.items()]


def _track_file(name: str, video: Path, options: FootageOptions, log: ProblemLog) -> Path | None:
    if options.tracks is None:
        return find_track_file(video, [video.parent], log)
    if os.path.isfile(options.videos) and not os.path.isdir(options.tracks):
        return options.tracks
    below = video.parent.relative_to(options.videos) if video != options.videos else Path()
    return find_track_file(video, [options.tracks / below, (options.tracks / name).parent], log)


def _fit_boxes(
    boxes: dict[int, list[TrackBox]], facts: VideoFacts, file: Path, options: FootageOptions, log: ProblemLog
) -> dict[int, Run]:
    """Clip the boxes to the picture; leave out small ones and, as ``outside_boxes`` says, those outside."""
    fitting: dict[int, Run] = {}
    outside = small = 0
    picture = f"the picture of {facts.width}x{facts.height} pixels"
    for number, run in boxes.items():
        kept: list[TrackBox] = []
        for box in run:
            visible = clip_box(box.box, facts.width, facts.height)
            padded = clip_box(box.box, facts.width, facts.height, options.box_padding)
            if facts.frame_count is not None and box.frame >= facts.frame_count:
                frame = box.frame + options.first_frame
                log.error(file, box.line, f"frame {frame} is beyond the video's {facts.frame_count} frames")
            elif visible is None or padded is None:
                outside += 1
                if options.outside_boxes == "error":
                    log.error(file, box.line, f"box x, y, w, h = {box.box} lies outside {picture}")
            elif visible[2] < options.minimum_width or visible[3] < options.minimum_height:
                small += 1
            else:
                kept.append(box._replace(box=padded))
        fitting[number] = kept
    if outside and options.outside_boxes == "drop":
        log.warn(file, None, f"{outside} boxes outside {picture} were left out")
    if small:
        limit = f"{options.minimum_width:g}x{options.minimum_height:g} pixels"
        log.warn(file, None, f"{small} boxes with less than {limit} inside the picture were left out")
    return fitting


def _runs(boxes: Run, options: FootageOptions) -> list[Run]:
    """Cut at gaps, thin by the stride, cut what is too long, leave out what is too short."""
    runs = [take_stride(run, options.frame_stride) for run in split_at_gaps(boxes, options.max_gap)]
    parts = [part for run in runs for part in cut_evenly(run, options.maximum_length)]
    return [part for part in parts if len(part) >= options.minimum_length]


def _labelled(tracks: list[_Track], options: FootageOptions, log: ProblemLog) -> list[LabelledTrack]:
    labels: dict[str, Label] = {}
    if options.labels is not None:
        labels = read_labels(
            options.labels,
            ("video", "track"),
            lambda row: f"{row['video']}/{whole_number(row, 'track')}",
            log,
            READER_ATTRIBUTES,
        )
        warn_of_unused(labels, {track.name for track in tracks}, options.labels, "track", log)
    return [
        (track, [(run, labels.get(track.name, UNLABELLED)) for run in _runs(track.boxes, options)]) for track in tracks
    ]


def _people_from_tracks(tracks: list[_Track], options: FootageOptions) -> list[LabelledTrack]:
    """Every track a person, its pieces under cameras of their own; see ``FootageOptions.people_from_tracks``.

    A track too short to be cut trains whole.
    """
    cut: dict[str, list[list[Run]]] = {}
    for track in tracks:
        pieces = cut_apart(track.boxes, options.pieces, options.piece_gap)
        runs_of_pieces = [_runs(piece, options) for piece in pieces]
        if runs_of_pieces and all(runs_of_pieces):
            cut[track.name] = runs_of_pieces
    tested = _drawn(list(cut), options.test_share, options.seed)
    labelled: list[LabelledTrack] = []
    for track in tracks:
        labelled_runs: list[tuple[Run, Label]] = []
        for piece, runs in enumerate(cut.get(track.name) or [_runs(track.boxes, options)]):
            split: Split = "train"
            if track.name in tested:
                split = "query" if piece < options.query_pieces else "gallery"
            label = Label(track.name, "0", f"{track.video_name}#{piece + 1}", split)
            labelled_runs += [(run, label) for run in runs]
        labelled.append((track, labelled_runs))
    return labelled


def _drawn(names: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """A share of the names, at least one and not all; the same on every machine and Python."""
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    shuffled = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return frozenset(shuffled[: max(count, 0)])


def _tracklets(track: _Track, labelled_runs: list[tuple[Run, Label]]) -> list[Tracklet]:
    tracklets: list[Tracklet] = []
    for part, (run, label) in enumerate(labelled_runs, start=1):
        frames = tuple(box.frame for box in run)
        attributes = {"video": track.video_name, "track": str(track.number)}
        if track.frames_per_second > 0:
            attributes["start_seconds"] = f"{frames[0] / track.frames_per_second:.3f}"
            attributes["end_seconds"] = f"{frames[-1] / track.frames_per_second:.3f}"
        tracklets.append(
            Tracklet(
                id=f"{track.name}/{part}" if len(labelled_runs) > 1 else track.name,
                person=label.person,
                clothes=label.clothes,
                camera=label.camera or track.video_name,
                split=label.split,
                source=VideoFrames(track.video, frames, tuple(box.box for box in run)),
                frame_index=frames,
                attributes={**label.attributes, **attributes},
                origin=f"{track.file}:{run[0].line}",
            )
        )
    return tracklets


def _warn_of_short(labelled: list[LabelledTrack], options: FootageOptions, log: ProblemLog) -> None:
    short = Counter(track.file for track, labelled_runs in labelled if not labelled_runs)
    for file, count in short.items():
        log.warn(file, None, f"{count} tracks without {options.minimum_length} boxes in a row were left out")
