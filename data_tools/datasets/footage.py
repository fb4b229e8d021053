"""Users' own footage: videos and a tracker's boxes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from data_tools.datasets.annotation_lines import require_folder, whole_number
from data_tools.datasets.box_fitting import PlaceOf, fit_boxes
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.frame_numbering import find_first_frames, frame_places
from data_tools.datasets.frame_tables import TableMaker, make_tables
from data_tools.datasets.label_table import UNLABELLED, Label, read_labels, warn_of_unusable, warn_of_unused
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.datasets.start_times import StartTimes, parse_time, time_attribute
from data_tools.datasets.track_cutting import Run, cut_apart, cut_evenly, split_at_gaps, take_stride
from data_tools.datasets.track_doubts import warn_of_doubts
from data_tools.datasets.track_files import TrackFile, find_track_file, read_track_file
from data_tools.datasets.video_files import find_videos, name_videos
from data_tools.errors import UnreadableSourceError
from data_tools.tracklet import Box, Split, Tracklet, VideoFrames
from data_tools.video import FrameTable
from data_tools.video.frame_table import PICTURES
from data_tools.video.picture_folders import list_pictures

FIRST_BOX, LAST_BOX = "first_box", "last_box"
READER_ATTRIBUTES = ("video", "track", "start_seconds", "end_seconds", "end_time", FIRST_BOX, LAST_BOX)
START_TIME = "start_time"
"""As a column of the labels: when the track's video began, overriding ``start_times``. As an attribute of a tracklet:
when its first frame was recorded."""


@dataclass(frozen=True, slots=True)
class _Track:
    """One track of one video, with its boxes clipped to the picture."""

    video: Path
    video_name: str
    file: Path
    number: int
    boxes: Run
    table: FrameTable
    start: datetime | None
    """When the video's first frame was recorded."""

    @property
    def name(self) -> str:
        return f"{self.video_name}/{self.number}"


LabelledTrack = tuple[_Track, list[tuple[Run, Label]]]
"""A track and the runs of frames that become its tracklets, each with its label."""


def read_footage(
    options: FootageOptions, make_tables: TableMaker = make_tables, *, videos: Mapping[str, Path] | None = None
) -> Dataset:
    """Read videos and tracks.

    Args:
        options: which videos and tracks, and how they are read.
        make_tables: counts the videos' frames.
        videos: only these of the folder, by the names that they are to have.

    Returns:
        Tracklets named ``VIDEO/TRACK``, plus ``/PART`` from 1 if a track yields several, sorted by video, track number
        and time. Attributes: ``video``, ``track``, ``start_seconds`` and ``end_seconds`` (times of the first and last
        frame, relative to the video's first frame), ``first_box`` and ``last_box`` (``x,y,w,h`` in pixels) and, if the
        recording time is known, ``start_time`` and ``end_time`` (ISO 8601, UTC). Frame numbers are stored from 0. A row
        that is not a box, a box outside the
        picture and a frame beyond the video's end are errors; tracks of an unreadable video are quarantined; what the
        limits in ``options`` exclude is counted in one warning per file.

    Raises:
        InputError: ``videos`` is neither a file nor a folder, or it is a folder and ``tracks`` is not.
    """
    log = ProblemLog()
    if videos is None:
        videos = name_videos(_find_videos(options, log), options.videos, log)
    tracks = _read_tracks(videos, options, make_tables, log)
    labelled = _people_from_tracks(tracks, options) if options.people_from_tracks else _labelled(tracks, options, log)
    _warn_of_short(labelled, options, log)
    tracklets = [
        tracklet for track, labelled_runs in labelled for tracklet in _tracklets(track, labelled_runs, options)
    ]
    return Dataset("footage", tuple(tracklets), log.problems())


def _find_videos(options: FootageOptions, log: ProblemLog) -> list[Path]:
    if os.path.isfile(options.videos):
        return [options.videos]
    require_folder(options.videos, "a video file or a folder of them")
    if options.tracks is not None and not _serves_all(options.tracks):
        require_folder(options.tracks, f"one with a track file for each video in {options.videos}")
    return find_videos(options.videos, log, sequences=True)


def _serves_all(tracks: Path) -> bool:
    """Whether one file may contain the tracks of every video."""
    return tracks.suffix.lower() == ".json" and os.path.isfile(tracks)


def _read_tracks(
    videos: Mapping[str, Path], options: FootageOptions, make_tables: TableMaker, log: ProblemLog
) -> list[_Track]:
    found: dict[str, TrackFile] = {}
    for name, video in videos.items():
        path = _track_file(name, video, options, log)
        if path is not None:
            file = _read_boxes(path, name, options, log)
            if file is not None:
                found[name] = file
            else:
                log.warn(path, None, f"contains no box for {video}")
    tables: dict[str, FrameTable] = {}
    for (name, file), table in zip(found.items(), make_tables([videos[name] for name in found]), strict=True):
        if not isinstance(table, UnreadableSourceError):
            tables[name] = table
            continue
        for number, run in file.tracks.items():
            log.quarantine(file.path, run[0].line, str(table), tracklet=f"{name}/{number}")
    places = _frame_places({name: found[name] for name in tables}, tables, videos, options, log)
    starts = StartTimes(options.start_times, options.time_zone, log)
    tracks: list[_Track] = []
    for name, table in tables.items():
        file, video, start = found[name], videos[name], starts.of(name, videos[name], table)
        warn_of_doubts(file, table.width, table.height, log)
        fitting = fit_boxes(file, table, places[name], name, options, log)
        tracks += [_Track(video, name, file.path, number, run, table, start) for number, run in fitting.items()]
    return tracks


def _read_boxes(path: Path, name: str, options: FootageOptions, log: ProblemLog) -> TrackFile | None:
    return read_track_file(
        path, log, video=name, classes=options.classes, minimum_confidence=options.minimum_confidence
    )


def _frame_places(
    files: Mapping[str, TrackFile],
    tables: Mapping[str, FrameTable],
    videos: Mapping[str, Path],
    options: FootageOptions,
    log: ProblemLog,
) -> dict[str, PlaceOf]:
    """The map from each file's frame numbers to those of its video."""
    pictured = {name for name, table in tables.items() if table.container == PICTURES}
    counts = {name: -1 if table.damage else table.count for name, table in tables.items()}
    filmed = {name: file for name, file in files.items() if name not in pictured}
    firsts = find_first_frames(filmed, counts, options.first_frame, options.tracks or options.videos, log)
    places: dict[str, PlaceOf] = {name: (-first).__add__ for name, first in firsts.items()}
    for name in pictured:
        places[name] = frame_places(files[name], list_pictures(videos[name]).numbers, options.first_frame).get
    return places


def _track_file(name: str, video: Path, options: FootageOptions, log: ProblemLog) -> Path | None:
    is_file = options.tracks is not None and (
        _serves_all(options.tracks) or (os.path.isfile(options.videos) and not os.path.isdir(options.tracks))
    )
    return options.tracks if is_file else find_track_file(video, track_folders(name, video, options), log)


def track_folders(name: str, video: Path, options: FootageOptions) -> list[Path]:
    """Where the track file of a video may lie."""
    if options.tracks is None:
        return [video.parent]
    below = video.parent.relative_to(options.videos) if video != options.videos else Path()
    return [options.tracks / below, (options.tracks / name).parent]


def _runs(boxes: Run, options: FootageOptions) -> list[Run]:
    """Split at gaps, apply the stride, cut what is too long, drop what is too short."""
    runs = [take_stride(run, options.frame_stride) for run in split_at_gaps(boxes, options.max_gap)]
    parts = [part for run in runs for part in cut_evenly(run, options.maximum_length)]
    return [part for part in parts if len(part) >= options.minimum_length]


def _labelled(tracks: list[_Track], options: FootageOptions, log: ProblemLog) -> list[LabelledTrack]:
    labels: dict[str, Label] = {}
    if options.labels is not None:
        labels = read_labels(
            options.labels,
            ("video", "track"),
            _labelled_track,
            log,
            READER_ATTRIBUTES,
        )
        warn_of_unused(labels, {track.name for track in tracks}, options.labels, "track", log)
        known = [track for track in tracks if not labels.get(track.name, UNLABELLED).is_unusable]
        warn_of_unusable(len(tracks) - len(known), options.labels, "track", log)
        tracks = known
    return [
        (track, [(run, labels.get(track.name, UNLABELLED)) for run in _runs(track.boxes, options)]) for track in tracks
    ]


def _labelled_track(row: Mapping[str, str]) -> str:
    """The track's name; raises InputError if the row is not valid."""
    if row.get(START_TIME):
        parse_time(row[START_TIME])
    return f"{row['video']}/{whole_number(row, 'track')}"


def _people_from_tracks(tracks: list[_Track], options: FootageOptions) -> list[LabelledTrack]:
    """Each track as a person, each piece with its own camera; see ``FootageOptions.people_from_tracks``.

    A track too short to be cut is used for training as a whole.
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
    """A random share of the names, at least one but not all; the same on every machine and Python version."""
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    shuffled = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return frozenset(shuffled[: max(count, 0)])


def _tracklets(track: _Track, labelled_runs: list[tuple[Run, Label]], options: FootageOptions) -> list[Tracklet]:
    tracklets: list[Tracklet] = []
    shown = track.table.seconds()
    for part, (run, label) in enumerate(labelled_runs, start=1):
        frames = tuple(box.frame for box in run)
        start, end = float(shown[frames[0]]), float(shown[frames[-1]])
        attributes = {
            "video": track.video_name,
            "track": str(track.number),
            "start_seconds": f"{start:.3f}",
            "end_seconds": f"{end:.3f}",
            FIRST_BOX: _box_attribute(run[0].box),
            LAST_BOX: _box_attribute(run[-1].box),
        }
        given = label.attributes.get(START_TIME)
        recorded = track.start if given is None else parse_time(given, ZoneInfo(options.time_zone))
        if recorded is not None:
            attributes["start_time"] = time_attribute(recorded, start)
            attributes["end_time"] = time_attribute(recorded, end)
        tracklets.append(
            Tracklet(
                id=f"{track.name}/{part}" if len(labelled_runs) > 1 else track.name,
                person=label.person,
                clothes=label.clothes,
                camera=label.camera or track.video_name,
                split=label.split,
                source=VideoFrames(track.video, frames, tuple(box.box for box in run), track.table),
                frame_index=frames,
                attributes={**label.attributes, **attributes},
                origin=f"{track.file}:{run[0].line}",
            )
        )
    return tracklets


def _box_attribute(box: Box) -> str:
    """x, y, width and height in pixels."""
    return ",".join(f"{value:.1f}" for value in box)


def _warn_of_short(labelled: list[LabelledTrack], options: FootageOptions, log: ProblemLog) -> None:
    short = Counter(track.file for track, labelled_runs in labelled if not labelled_runs)
    for file, count in short.items():
        log.warn(file, None, f"{count} tracks without {options.minimum_length} consecutive boxes were dropped")
