"""Boxes from CVAT: "CVAT for video 1.1", and "CVAT for images 1.1" if its boxes have a track attribute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.parsers import expat

from data_tools.datasets.annotation_lines import number, reason_of, whole_number
from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.track_columns import NAMES, TrackRow
from data_tools.datasets.track_rows import FileRows
from data_tools.errors import InputError
from data_tools.wording import shown

DEEPEST = 100
LONGEST_TEXT = 1000


def read_cvat(path: Path, video: str, log: ProblemLog) -> FileRows:  # noqa: ARG001
    """The boxes of all tracks except those marked as outside, each with its track's label as class.

    CVAT numbers frames from 0, as OpenCV does. The file is parsed as a stream; a document type, which could expand
    text without bound, is refused.
    """
    reader = _CvatReader(path, log)
    try:
        with path.open("rb") as file:
            reader.parser.ParseFile(file)
    except expat.ExpatError as error:
        log.error(path, error.lineno, f"is not XML: {expat.ErrorString(error.code)}")
    except InputError as error:
        log.error(path, reader.parser.CurrentLineNumber, str(error))
    except (OSError, ValueError, LookupError) as error:  # an unknown text encoding raises LookupError
        reason = reason_of(error) if isinstance(error, OSError | ValueError) else str(error)
        log.error(path, None, f"cannot be read: {reason}")
    return reader.found()


class _CvatReader:
    """Collects boxes from the parser's events."""

    def __init__(self, path: Path, log: ProblemLog) -> None:
        self._path, self._log = path, log
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._refuse
        self._open: list[str] = []
        self._track: Mapping[str, str] | None = None
        self._image: Mapping[str, str] | None = None
        self._box: tuple[int, Mapping[str, str]] | None = None
        self._box_track: str | None = None
        self._attribute: str | None = None
        self._text = ""
        self._rows: list[TrackRow] = []
        self._numbered: list[int] = []
        self._size: dict[str, str] = {}

    def found(self) -> FileRows:
        try:
            size = whole_number(self._size, "width", 1), whole_number(self._size, "height", 1)
        except InputError:
            size = None
        return FileRows(self._rows, self._numbered, numbered_from=0, picture_size=size)

    def _refuse(self, *_: object) -> None:
        raise InputError("has a document type (<!DOCTYPE), expected CVAT's XML, which has none")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != "annotations":
            raise InputError(f"begins with <{shown(tag)[1:-1]}>, expected <annotations> of CVAT for video 1.1")
        self._open.append(tag)
        if len(self._open) > DEEPEST:
            raise InputError(f"has more than {DEEPEST} nested elements, expected CVAT's XML")
        self._text = ""
        if tag == "track":
            self._track = attributes
        elif tag == "image":
            self._image = attributes
            self._number_image(attributes)
        elif tag == "box":
            self._box, self._box_track = (self.parser.CurrentLineNumber, attributes), None
        elif tag == "attribute":
            self._attribute = attributes.get("name")

    def _end(self, tag: str) -> None:
        self._open.pop()
        if tag == "track":
            self._track = None
        elif tag == "image":
            self._image = None
        elif tag == "attribute" and self._box is not None and self._folded(self._attribute) in NAMES["track"]:
            self._box_track = self._text.strip()
        elif tag in ("width", "height") and self._open[-1:] == ["original_size"]:
            self._size[tag] = self._text.strip()
        elif tag == "box" and self._box is not None:
            line, box = self._box
            self._box = None
            try:
                self._add(line, box)
            except InputError as error:
                self._log.error(self._path, line, str(error))
        self._text = ""

    def _characters(self, text: str) -> None:
        self._text = (self._text + text)[:LONGEST_TEXT]

    def _number_image(self, image: Mapping[str, str]) -> None:
        try:
            self._numbered.append(whole_number(image, "id"))
        except InputError as error:
            self._log.error(self._path, self.parser.CurrentLineNumber, f"image: {error}")

    def _add(self, line: int, box: Mapping[str, str]) -> None:
        if self._track is not None:
            if box.get("outside") == "1":
                return
            track: int | None = whole_number(self._track, "id")
            frame, kind = whole_number(box, "frame"), self._track.get("label")
        elif self._image is not None:
            known = {"track_id": self._box_track}
            track = None if not self._box_track else whole_number(known, "track_id")
            frame, kind = whole_number(self._image, "id"), box.get("label")
        else:
            raise InputError("a box outside <track> and <image>, expected CVAT's XML")
        left, top, right, bottom = (number(box, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        if right <= left or bottom <= top:
            raise InputError(f"xbr, ybr is {right:g}, {bottom:g}, expected more than xtl, ytl = {left:g}, {top:g}")
        self._rows.append(
            TrackRow(line, frame, track, (left, top, right - left, bottom - top), kind=(kind or "")[:100])
        )

    @staticmethod
    def _folded(name: str | None) -> str:
        return (name or "").casefold().replace("_", "").replace(" ", "")
