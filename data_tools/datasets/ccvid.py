"""CCVID as released: folders of JPEG person crops, listed in three text files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from data_tools.datasets.annotation_lines import natural_order, numbered, read_lines, reason_of, require_folder
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.errors import InputError
from data_tools.options import Options
from data_tools.tracklet import SPLITS, ImageFrames, Split, Tracklet
from data_tools.wording import shown

CameraRule = Literal["released", "walk", "session_and_walk"]

# A bounded number of digits: int() is slow for many, and Python refuses more than 4,300.
_FOLDER = re.compile(r"(?P<session>session\d{1,4})/(?P<subject>[^/\\]+)_(?P<walk>\d{1,4})", re.ASCII)
_FRAME_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_SESSION_3_OFFSET = 12


class CcvidOptions(Options):
    """How CCVID is read."""

    camera_rule: CameraRule = "released"
    """What counts as the camera of a walk such as session1/001_05. CCVID names no real cameras; entries of the same
    person and "camera" as the query are junk, so the rule changes the scores. released: the walk number after the
    underscore (5), plus 12 in session3, so that sessions 1 and 2 share their cameras and session 3 has its own, as in
    the released code and the published figures. walk: the walk number alone, the same in every session.
    session_and_walk: every session has its own (session1_5)."""


def read_ccvid(root: Path, options: CcvidOptions | None = None) -> Dataset:
    """Read CCVID.

    Args:
        root: the folder with ``train.txt``, ``query.txt``, ``gallery.txt`` and ``session1`` to ``session3``.
        options: the camera rule.

    Returns:
        The tracklets of the three lists in the order train, query, gallery, each in its list's order, with the
        attribute ``session``. Clothes labels stay as released and are unique only within their person. A line in
        another format is an error; a folder that cannot be listed quarantines its tracklet.

    Raises:
        InputError: ``root`` is not a folder.
    """
    require_folder(root, "the folder of CCVID")
    options = options or CcvidOptions()
    log = ProblemLog()
    tracklets: list[Tracklet] = []
    for split in SPLITS:
        path = root / f"{split}.txt"
        for line, text in numbered(read_lines(path, log)):
            try:
                tracklet = _tracklet(text, root, split, options.camera_rule, origin=f"{path}:{line}")
            except InputError as error:
                log.error(path, line, str(error))
            except OSError as error:
                folder = text.split()[0]
                log.quarantine(path, line, f"{root / folder}: {reason_of(error)}", tracklet=folder)
            else:
                tracklets.append(tracklet)
    return Dataset("ccvid", tuple(tracklets), log.problems())


def _tracklet(text: str, root: Path, split: Split, rule: CameraRule, origin: str) -> Tracklet:
    fields = text.split()
    if len(fields) != 3:
        raise InputError(f"has {len(fields)} columns, expected folder, person and clothes: {shown(text)}")
    folder, person, clothes = fields
    parts = _FOLDER.fullmatch(folder)
    if parts is None:
        raise InputError(f"folder {shown(folder)}, expected one like session1/001_01")
    names = _frame_names(root / folder)
    return Tracklet(
        id=folder,
        person=person,
        clothes=clothes,
        camera=camera_of(parts["session"], int(parts["walk"]), rule),
        split=split,
        source=ImageFrames(root / folder, names),
        frame_index=_frame_numbers(names),
        attributes={"session": parts["session"]},
        origin=origin,
    )


def camera_of(session: str, walk: int, rule: CameraRule) -> str:
    """The protocol's camera of a walk; see ``CcvidOptions.camera_rule``."""
    cameras: dict[CameraRule, str] = {
        "released": str(walk + _SESSION_3_OFFSET if session == "session3" else walk),
        "walk": str(walk),
        "session_and_walk": f"{session}_{walk}",
    }
    return cameras[rule]


def _frame_names(folder: Path) -> tuple[str, ...]:
    names = [name for name in os.listdir(folder) if name.lower().endswith(".jpg") and not name.startswith(".")]
    return tuple(sorted(names, key=natural_order))


def _frame_numbers(names: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers in the file names; positions from 0 if not all names are numbers."""
    stems = [os.path.splitext(name)[0] for name in names]
    if all(_FRAME_NUMBER.fullmatch(stem) for stem in stems):
        return tuple(int(stem) for stem in stems)
    return tuple(range(len(names)))
