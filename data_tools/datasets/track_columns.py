"""Identifying the columns of a table of boxes by the names that trackers and their libraries use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data_tools.datasets.annotation_lines import LARGEST_WHOLE_NUMBER, number, whole_number
from data_tools.errors import InputError
from data_tools.tracklet import Box
from data_tools.wording import shown

UNKNOWN_TRACKS = frozenset({"", "-1", "-1.0", "nan", "none", "null", "na", "n/a"})
"""Values by which trackers mark a box without a track."""


def _words(names: str) -> tuple[str, ...]:
    return tuple(names.split())


NAMES: Mapping[str, tuple[str, ...]] = {
    "frame": _words("frame framenumber framenum frameno framenr frameid frameindex frameidx"),
    "track": _words(
        "trackid trackerid trackingid objecttrackid tracknumber trackno trackidx trackindex track tracker tid "
        "instanceid objectid objid targetid identity id personid pid"
    ),
    "confidence": _words(
        "confidence conf score prob probability detectionconfidence detectionscore detconf detscore confidencescore "
        "trackconfidence trackconf trackscore scores"
    ),
    "class": _words(
        "classname clsname categoryname labelname objectclass objecttype class cls label category classid clsid "
        "categoryid labelid classidx clsidx"
    ),
    "flag": ("flag", "notignored", "considered"),
    "visibility": ("visibility", "vis"),
    "left": _words("x1 xmin left xtl tlx topleftx xleft leftx x"),
    "top": _words("y1 ymin top ytl tly toplefty ytop topy y"),
    "right": _words("x2 xmax right xbr brx bottomrightx xright rightx"),
    "bottom": _words("y2 ymax bottom ybr bry bottomrighty ybottom bottomy"),
    "width": ("w", "width"),
    "height": ("h", "height"),
    "centre x": _words("cx xc xcenter xcentre centerx centrex"),
    "centre y": _words("cy yc ycenter ycentre centery centrey"),
}
"""The names of each role, most specific first, as returned by ``_folded``."""

BOX_FORMS = (
    ("left", "top", "right", "bottom"),
    ("left", "top", "width", "height"),
    ("centre x", "centre y", "width", "height"),
)
_LOOKS = (
    ("track", re.compile(r"id$|track|identity")),
    ("confidence", re.compile(r"conf|score|prob|certain")),
    ("class", re.compile(r"class|cls|categ|label")),
    ("frame", re.compile(r"frame")),
)
_BOX_PREFIX = re.compile(r"^(?:bbox|bb|box)(?=.)")


class TrackRow(NamedTuple):
    """One box as in the file: ``frame`` in the file's numbering, ``track`` None for a box without a track."""

    line: int
    frame: int
    track: int | None
    box: Box
    confidence: float | None = None
    kind: str | None = None
    """Its class, a name or an integer; None if the file has no classes."""
    flag: float | None = None
    visibility: float | None = None


@dataclass(frozen=True, slots=True)
class TrackColumns:
    """The column of each role, and the four that form a box."""

    of: Mapping[str, str]
    form: tuple[str, ...]
    unused: tuple[str, ...] = ()
    """Unused columns that look useful, each with the role that it resembles."""

    def row(self, cells: Mapping[str, object], line: int) -> TrackRow:
        """Parse a row; raises ``InputError`` if it is not a valid box."""
        kind = self._class(cells)
        return TrackRow(
            line,
            whole_number(cells, self.of["frame"]),
            self._track(cells),
            self._box(cells),
            self._number(cells, "confidence"),
            kind,
            self._number(cells, "flag"),
            self._number(cells, "visibility"),
        )

    def _track(self, cells: Mapping[str, object]) -> int | None:
        value = cells.get(self.of["track"])
        text = "" if value is None else str(value).strip().lower()
        return None if text in UNKNOWN_TRACKS else whole_number(cells, self.of["track"])

    def _box(self, cells: Mapping[str, object]) -> Box:
        names = [self.of[role] for role in self.form]
        x, y, third, fourth = (number(cells, name) for name in names)
        if "right" in self.form:
            for low, high, first, last in ((names[0], names[2], x, third), (names[1], names[3], y, fourth)):
                if last <= first:
                    raise InputError(
                        f"{high} is {shown(cells[high])}, expected more than {low} = {shown(cells[low])}; "
                        "are these columns width and height?"
                    )
            return x, y, third - x, fourth - y
        for name, side in zip(names[2:], (third, fourth), strict=True):
            if side <= 0:
                raise InputError(f"{name} is {shown(cells[name])}, expected more than 0 pixels")
        if "left" in self.form:
            return x, y, third, fourth
        return x - third / 2, y - fourth / 2, third, fourth

    def _number(self, cells: Mapping[str, object], role: str) -> float | None:
        name = self.of.get(role)
        return None if name is None or cells.get(name) in (None, "") else number(cells, name)

    def _class(self, cells: Mapping[str, object]) -> str | None:
        name = self.of.get("class")
        if name is None or name not in cells:
            return None
        return class_text(cells[name])


def class_text(value: object) -> str:
    """A class as text: integers without a decimal point; None and NaN become empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip()
    try:
        found = float(text)
    except ValueError:
        return text[:100]
    return str(int(found)) if found.is_integer() and abs(found) <= LARGEST_WHOLE_NUMBER else text[:100]


def find_columns(header: Sequence[str]) -> TrackColumns:
    """The roles of the columns of a header, ignoring case, spaces, dots and underscores.

    Raises:
        InputError: a required column is missing, or two have the same name.
    """
    folded: dict[str, str] = {}
    for name in header:
        key = _folded(name)
        if key and folded.setdefault(key, name) != name:
            raise InputError(f"the header has both {shown(folded[key])} and {shown(name)}, expected one of them")
    if {"x0", "y0", "x1", "y1"} <= folded.keys() and not {"x2", "y2"} & folded.keys():
        corners = {"xmin": "x0", "ymin": "y0", "xmax": "x1", "ymax": "y1"}
        folded |= {new: folded.pop(old) for new, old in corners.items()}
    if "name" in folded and {"class", "cls", "classid"} & folded.keys():  # the class name, in Ultralytics' output
        folded["classname"] = folded.pop("name")
    of = {role: folded[name] for role, names in NAMES.items() if (name := next(filter(folded.__contains__, names), ""))}
    form = next((form for form in BOX_FORMS if all(role in of for role in form)), None)
    missing = [what for role, what in (("frame", "frame"), ("track", "id")) if role not in of]
    if form is None:
        missing.append("a box (x,y,w,h or x1,y1,x2,y2)")
    if missing or form is None:
        raise InputError(f"the header lacks {' and '.join(missing)}: {shown(','.join(header))}")
    return TrackColumns(of, form, tuple(_unused(folded, of, form)))


def _unused(folded: Mapping[str, str], of: Mapping[str, str], form: Sequence[str]) -> list[str]:
    used = {name for role, name in of.items() if role in ("frame", "track", "confidence", "class", *form)}
    used |= {of[role] for role in ("flag", "visibility") if role in of and "class" in of}
    box_names = {name for form_ in BOX_FORMS for role in form_ for name in NAMES[role]}
    found = []
    for key, name in folded.items():
        if name in used or (key in NAMES["class"] and "class" in of):
            continue
        if key in box_names:
            found.append(f"{name} (the box is read from {','.join(of[role] for role in form)})")
            continue
        role = "flag" if key in NAMES["flag"] else next((role for role, look in _LOOKS if look.search(key)), None)
        if role is not None and role != "flag":
            reason = f"the {role} is read from {of[role]}" if role in of else f"not a known {role} name"
            found.append(f"{name} ({reason})")
        elif role == "flag":
            found.append(f"{name} (a flag is only used together with class and visibility)")
    return found


def _folded(name: str) -> str:
    plain = re.sub(r"[^0-9a-z]", "", name.casefold())
    return _BOX_PREFIX.sub("", plain)
