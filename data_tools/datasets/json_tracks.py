"""Boxes as JSON: COCO's video formats (CocoVID, TAO, YouTube-VIS), or a plain list of boxes as in supervision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.datasets.annotation_lines import number, reason_of, whole_number
from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.table_tracks import read_records
from data_tools.datasets.track_columns import NAMES, TrackRow, class_text
from data_tools.datasets.track_rows import FileRows
from data_tools.errors import InputError
from data_tools.wording import shown

MOST_BYTES = 2**29
"""Limit for a file: parsed JSON takes several times as much memory."""
FRAME_KEYS = ("frame_id", "frame_index", "frame_number", "frame_idx", "frame")
TRACK_KEYS = ("instance_id", "track_id", "tracking_id", "object_id")
_LAST_NUMBER = re.compile(r"(\d{1,15})\D*$", re.ASCII)
Object = Mapping[str, Any]


def read_json(path: Path, video: str, log: ProblemLog) -> FileRows:
    """The boxes of one video; a "line" is an entry of the file's list, from 1.

    In a file with several videos, it is the one whose name, path or stem is ``video``; otherwise the only one.
    """
    try:
        facts = path.stat()
        if facts.st_size > MOST_BYTES:
            raise InputError(f"has {facts.st_size / 2**20:.0f} MiB, expected at most {MOST_BYTES // 2**20} MiB")
        document = _parsed(path, facts.st_mtime_ns, facts.st_size)
        if isinstance(document, list):
            return read_records(((place, _object(entry)) for place, entry in enumerate(document, 1)), path, log)
        return _Coco(_object(document), video, path, log).read()
    except RecursionError:
        log.error(path, None, "is nested too deeply")
    except InputError as error:
        log.error(path, None, str(error))
    except json.JSONDecodeError as error:
        log.error(path, error.lineno, f"is not JSON: {error.msg}")
    except (OSError, ValueError) as error:
        log.error(path, None, f"cannot be read: {shown(reason_of(error))}")
    return FileRows()


@lru_cache(maxsize=1)
def _parsed(path: Path, _changed: int, _size: int) -> object:
    """Cached, because one file may describe all videos of a folder."""
    return json.loads(path.read_bytes())


class _Coco:
    """``images`` or ``videos``, ``annotations`` and ``categories``, joined by their ids."""

    def __init__(self, document: Object, video: str, path: Path, log: ProblemLog) -> None:
        self._path, self._log = path, log
        if "annotations" not in document or not ({"images", "videos"} & document.keys()):
            keys = shown(", ".join(map(str, document)))
            raise InputError(f"has the keys {keys}, expected annotations with images or videos, or a list of boxes")
        self._annotations = _list(document, "annotations")
        self._images = _list(document, "images")
        categories = _list(document, "categories")
        self._classes = {_key(entry.get("id")): class_text(entry.get("name")) for entry in categories}
        self._tracks = {_key(entry.get("id")): entry for entry in _list(document, "tracks")}
        videos = _list(document, "videos")
        self._video = _find_video(videos, video) if videos else None

    def read(self) -> FileRows:
        sizes = [self._video] if self._video is not None else []
        if not self._images:
            rows = [row for place, entry in enumerate(self._annotations, 1) for row in self._tubes(entry, place)]
            numbered = range(_length(self._video))
            return FileRows(rows, numbered, numbered_from=0, picture_size=_size(sizes))
        video = None if self._video is None else _key(self._video.get("id"))
        frames: dict[object, int] = {}
        for place, image in enumerate(self._images, 1):
            if video is None or _key(image.get("video_id")) == video:
                try:
                    frames[_key(image.get("id"))] = _frame_of(image)
                except InputError as error:
                    self._log.error(self._path, None, f"images, entry {place}: {error}")
                sizes.append(image)
        rows = []
        for place, entry in enumerate(self._annotations, 1):
            try:
                shown_in = _key(entry.get("image_id"))
                if shown_in in frames:
                    rows.append(self._row(entry, frames[shown_in], entry.get("bbox"), place))
            except InputError as error:
                self._report(place, error)
        return FileRows(rows, list(frames.values()), picture_size=_size(sizes))

    def _tubes(self, entry: Object, place: int) -> list[TrackRow]:
        """YouTube-VIS: an annotation is a track, with a box or null for every frame."""
        rows: list[TrackRow] = []
        try:
            if self._video is None or _key(entry.get("video_id")) != _key(self._video.get("id")):
                return []
            boxes = entry.get("bboxes")
            if not isinstance(boxes, list):
                raise InputError(f"bboxes is {shown(boxes)}, expected a list of boxes, because the file has no images")
            rows = [self._row(entry, frame, box, place, entry.get("id")) for frame, box in enumerate(boxes) if box]
        except InputError as error:
            self._report(place, error)
        return rows

    def _row(self, entry: Object, frame: int, bbox: object, place: int, own: object = None) -> TrackRow:
        if not isinstance(bbox, list) or len(bbox) != 4:
            raise InputError(f"bbox is {shown(bbox)}, expected [x, y, width, height]")
        x, y, w, h = (number({"bbox": side}, "bbox") for side in bbox)
        if w <= 0 or h <= 0:
            raise InputError(f"bbox is {shown(bbox)}, expected a width and height of more than 0 pixels")
        score = entry.get("score")
        confidence = None if score is None else number({"score": score}, "score")
        kind = self._classes.get(_key(self._category(entry)), class_text(self._category(entry)))
        return TrackRow(place, frame, _track_of(entry, own), (x, y, w, h), confidence, kind)

    def _category(self, entry: Object) -> object:
        if "category_id" in entry:
            return entry["category_id"]
        return self._tracks.get(_key(entry.get("track_id")), {}).get("category_id")

    def _report(self, place: int, error: InputError) -> None:
        self._log.error(self._path, None, f"annotations, entry {place}: {error}")


def _object(value: object) -> Object:
    if not isinstance(value, dict):
        raise InputError(f"contains {shown(value)}, expected an object")
    return value


def _list(document: Object, key: str) -> list[Object]:
    values = document.get(key) or []
    if not isinstance(values, list):
        raise InputError(f"{key} is {shown(values)}, expected a list")
    return [_object(value) for value in values]


def _key(value: object) -> object:
    """An id as a hashable key."""
    return value if isinstance(value, str | int | float) else shown(value)


def _find_video(videos: list[Object], name: str) -> Object:
    if len(videos) == 1:
        return videos[0]
    wanted = PurePosixPath(name)
    for full in (True, False):
        for video in videos:
            for path in map(PurePosixPath, _names_of(video)):
                ends = {path, path.with_suffix("")} if path.name else {path}
                if wanted in ends if full else wanted.name in {end.name for end in ends}:
                    return video
    known = ", ".join(str(next(iter(_names_of(video)), "?")) for video in videos[:8])
    raise InputError(f"describes {len(videos)} videos, none of which is called {shown(name)}: {shown(known)}")


def _names_of(video: Object) -> list[str]:
    """Possible names of a video: its name, its file, or the folder of its pictures."""
    names = [video[key] for key in ("name", "file_name", "video_name") if isinstance(video.get(key), str)]
    files = video.get("file_names")
    if isinstance(files, list) and files and isinstance(files[0], str):
        names.append(str(PurePosixPath(files[0]).parent))
    return names


def _length(video: Object | None) -> int:
    files = (video or {}).get("file_names")
    return len(files) if isinstance(files, list) else 0


def _frame_of(image: Object) -> int:
    for key in FRAME_KEYS:
        if image.get(key) is not None:
            return whole_number(image, key)
    file = image.get("file_name")
    found = _LAST_NUMBER.search(PurePosixPath(file).stem) if isinstance(file, str) else None
    if found is None:
        raise InputError(f"has no frame_id, and file_name {shown(file)} contains no number")
    return int(found[1])


def _track_of(entry: Object, own: object) -> int | None:
    attributes = entry.get("attributes")
    named = {key: entry[key] for key in TRACK_KEYS if entry.get(key) is not None}
    if not named and isinstance(attributes, dict):
        folded = {str(key).casefold().replace("_", ""): value for key, value in attributes.items()}
        named = {key: folded[key] for key in NAMES["track"] if folded.get(key) not in (None, "")}
    if not named and own is not None:
        named = {"id": own}
    if not named or next(iter(named.values())) in (-1, "-1"):
        return None
    return whole_number(named, next(iter(named)))


def _size(entries: list[Object]) -> tuple[int, int] | None:
    for entry in entries:
        try:
            return whole_number(entry, "width", 1), whole_number(entry, "height", 1)
        except InputError:
            continue
    return None
