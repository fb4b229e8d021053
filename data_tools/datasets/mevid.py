"""MEVID as released: JPEG person chips, and text files that divide the list of their names into tracks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from data_tools.datasets.annotation_lines import numbered, read_lines, require_folder, whole_number
from data_tools.datasets.problems import Dataset, ProblemLog, split_origin
from data_tools.errors import InputError
from data_tools.options import MayChange, Options
from data_tools.tracklet import ImageFrames, Split, Tracklet
from data_tools.wording import shown

LOCATION_OF_CAMERA: Mapping[str, str] = {
    **dict.fromkeys(("329", "330", "507", "508", "509"), "indoor"),
    **dict.fromkeys(("301", "336", "340", "436", "505", "639"), "outdoor"),
}
"""Location of the test set's cameras; the release does not give it for any other camera."""

_COLUMNS = ("start", "end", "person", "outfit", "camera")
_CHIP = re.compile(r"((?P<person>\d{4})O(?P<outfit>\d{3})C(?P<camera>\d{3})T\d{3})F(?P<frame>\d{1,9})\.jpg", re.ASCII)

Part = Literal["train", "test"]


class MevidOptions(Options):
    """How MEVID is read."""

    check_files: Annotated[bool, MayChange()] = False
    """Look for every chip file before any work starts. There are some ten million names in all; otherwise a missing
    chip is found while sharding."""


@dataclass(frozen=True, slots=True)
class _Track:
    """One row of a track info file. ``name`` is the common prefix of the chips, from person to track number."""

    line: int
    name: str
    person: str
    outfit: str
    camera: str
    chips: tuple[str, ...]
    frames: tuple[int, ...]


def read_mevid(root: Path, options: MevidOptions | None = None) -> Dataset:
    """Read MEVID.

    Args:
        root: the folder with ``bbox_train``, ``bbox_test`` and beside them ``train_name.txt``,
            ``test_name.txt``, ``track_train_info.txt``, ``track_test_info.txt``, ``query_IDX.txt`` and,
            optionally, ``test_track_scale.txt``.
        options: whether to check that chip files exist.

    Returns:
        The training tracks, then the test tracks, in the order of their info files. A test row listed in
        ``query_IDX.txt`` is a query, every other one is gallery. Labels are as in the chips' names (person ``0201``,
        clothes ``003``, camera ``330``); the id is the track's name (``0201O003C330T004``). Test tracks have the
        attributes ``location`` (indoor, outdoor; by camera) and ``scale`` (``l``, ``m``), if known. Scales are looked
        up by track name, not by row, because the released file lacks a track and has another order.

    Raises:
        InputError: ``root`` is not a folder.
    """
    require_folder(root, "the folder of MEVID")
    options = options or MevidOptions()
    log = ProblemLog()
    train = _read_tracks(root, "train", log)
    test = _read_tracks(root, "test", log)
    queries = _read_query_rows(root / "query_IDX.txt", len(test), log)
    scales = _read_scales(root / "test_track_scale.txt", log)
    tracklets = [_tracklet(root, "train", track, "train", {}) for track in train if track]
    for row, track in enumerate(test):
        if track:
            attributes = _test_attributes(root, track, scales, log)
            tracklets.append(_tracklet(root, "test", track, "query" if row in queries else "gallery", attributes))
    if options.check_files:
        tracklets = _with_all_chips(tracklets, log)
    return Dataset("mevid", tuple(tracklets), log.problems())


def _read_tracks(root: Path, part: Part, log: ProblemLog) -> list[_Track | None]:
    """One entry per row of the info file; None for a row that is not valid (and is reported)."""
    names = list(read_lines(root / f"{part}_name.txt", log))
    info = root / f"track_{part}_info.txt"
    tracks: list[_Track | None] = []
    frame_numbers: dict[int, int] = {}
    for line, text in numbered(read_lines(info, log)):
        try:
            track = _track(text, line, names, root / f"{part}_name.txt", frame_numbers)
        except InputError as error:
            log.error(info, line, str(error))
            tracks.append(None)
        else:
            tracks.append(track)
    return tracks


def _track(text: str, line: int, names: list[str], names_file: Path, frame_numbers: dict[int, int]) -> _Track:
    """Cut one row's chips out of ``names`` and check them.

    ``frame_numbers`` shares one int object per frame number, because ten million objects would take 300 MB.
    """
    fields = text.split()
    if len(fields) != len(_COLUMNS):
        raise InputError(f"has {len(fields)} columns, expected {', '.join(_COLUMNS)}: {shown(text)}")
    row = dict(zip(_COLUMNS, fields, strict=True))
    start, end, person, outfit, camera = (whole_number(row, name) for name in _COLUMNS)
    if not start <= end < len(names):
        valid = f"0 to {len(names) - 1}, the lines of {names_file}"
        raise InputError(f"chips {start} to {end}, expected a range from {valid}")
    chips = tuple(names[start : end + 1])
    expected = f"{person:04d}O{outfit:03d}C{camera:03d}T"
    frames: list[int] = []
    for offset, chip in enumerate(chips):
        parts = _CHIP.fullmatch(chip)
        if parts is None or not chip.startswith(expected):
            raise InputError(
                f"{names_file}:{start + offset + 1}: chip {shown(chip)}, expected one of person {person}, "
                f"outfit {outfit} and camera {camera}, named {expected}…F….jpg"
            )
        frame = int(parts["frame"])
        frames.append(frame_numbers.setdefault(frame, frame))
    assert parts is not None
    return _Track(line, parts[1], parts["person"], parts["outfit"], parts["camera"], chips, tuple(frames))


def _read_query_rows(path: Path, test_rows: int, log: ProblemLog) -> set[int]:
    rows: set[int] = set()
    for line, text in numbered(read_lines(path, log)):
        try:
            row = whole_number({"row": text.strip()}, "row")
            if row >= test_rows or row in rows:
                raise InputError(f"row {row}, expected each test row (0 to {test_rows - 1}) at most once")
            rows.add(row)
        except InputError as error:
            log.error(path, line, str(error))
    return rows


def _read_scales(path: Path, log: ProblemLog) -> dict[str, str] | None:
    """The scales by track name; None if the (optional) file is missing."""
    if not os.path.lexists(path):
        log.warn(
            path,
            None,
            "no such file, so tracks have no scale and the scale protocols cannot be scored",
        )
        return None
    scales: dict[str, str] = {}
    for line, text in numbered(read_lines(path, log)):
        fields = text.split()
        chip = _CHIP.fullmatch(fields[0])
        if len(fields) != 2 or chip is None or fields[1] not in ("l", "m"):
            log.error(path, line, f"{shown(text)}, expected the name of a track's last chip, then l or m")
        elif scales.setdefault(chip[1], fields[1]) != fields[1]:
            log.error(path, line, f"track {chip[1]} has scale {fields[1]}, but {scales[chip[1]]} in an earlier line")
    return scales


def _test_attributes(root: Path, track: _Track, scales: dict[str, str] | None, log: ProblemLog) -> dict[str, str]:
    attributes: dict[str, str] = {}
    info = root / "track_test_info.txt"
    if track.camera in LOCATION_OF_CAMERA:
        attributes["location"] = LOCATION_OF_CAMERA[track.camera]
    else:
        log.warn(info, track.line, f"camera {track.camera} has no known location (indoor, outdoor)")
    if scales is not None and track.name in scales:
        attributes["scale"] = scales[track.name]
    elif scales is not None:
        log.warn(info, track.line, f"track {track.name} has no scale in {root / 'test_track_scale.txt'}")
    return attributes


def _tracklet(root: Path, part: Part, track: _Track, split: Split, attributes: dict[str, str]) -> Tracklet:
    return Tracklet(
        id=track.name,
        person=track.person,
        clothes=track.outfit,
        camera=track.camera,
        split=split,
        source=ImageFrames(root / f"bbox_{part}" / track.person, track.chips),
        frame_index=track.frames,
        attributes=attributes,
        origin=f"{root / f'track_{part}_info.txt'}:{track.line}",
    )


def _with_all_chips(tracklets: list[Tracklet], log: ProblemLog) -> list[Tracklet]:
    """Quarantine every tracklet that lacks a chip file. Each folder is listed once, one at a time."""
    by_folder: dict[Path, list[Tracklet]] = {}
    for tracklet in tracklets:
        by_folder.setdefault(_chips(tracklet).folder, []).append(tracklet)
    incomplete: set[str] = set()
    for folder, group in by_folder.items():
        try:
            present = frozenset(os.listdir(folder))
        except OSError:
            present = frozenset()
        for tracklet in group:
            missing = [name for name in _chips(tracklet).names if name not in present]
            if missing:
                incomplete.add(tracklet.id)
                share = f"{len(missing)} of the track's {len(tracklet.frame_index)} chips are missing"
                log.quarantine(*split_origin(tracklet.origin), f"{share}: {folder / missing[0]} …", tracklet.id)
    return [tracklet for tracklet in tracklets if tracklet.id not in incomplete]


def _chips(tracklet: Tracklet) -> ImageFrames:
    assert isinstance(tracklet.source, ImageFrames)
    return tracklet.source
