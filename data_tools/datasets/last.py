"""LaST as released: JPEG person crops; training and gallery have a folder per person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_tools.datasets.annotation_lines import require_folder
from data_tools.datasets.image_files import PictureFolder, TestPart, read_person_folders, read_pictures
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.options import Options
from data_tools.tracklet import Tracklet
from data_tools.wording import shown

_NAME = re.compile(r"(?P<person>\d{1,9})_([ -~]*_)?(?P<outfit>[A-Za-z0-9.-]{1,60})\.(?i:jpe?g)", re.ASCII)
_EXPECTED = "PID_…_OUTFIT.jpg"


class LastOptions(Options):
    """How LaST is read."""

    part: TestPart = "test"
    """Set of queries and gallery: test or validation."""


def read_last(root: Path, options: LastOptions | None = None) -> Dataset:
    """Read LaST.

    Args:
        root: the folder ``last`` with ``train/PID``, ``{test,val}/query`` and ``{test,val}/gallery/PID``.
        options: the part to score.

    Returns:
        One tracklet per picture ``PID_…_OUTFIT.jpg``, in the order train, query, gallery, then by name. Underscores
        separate the fields of a name: the first is the person, the last of a training picture the clothes (unique
        within the person); test pictures have no clothes labels. Each picture is its own camera, so that none is junk
        for another. A picture with another kind of name, or with another person than its folder, is an error.

    Raises:
        InputError: ``root`` is not a folder.
    """
    require_folder(root, "the folder of LaST (last)")
    part = (options or LastOptions()).part
    log = ProblemLog()
    query = PictureFolder(root / part / "query", f"{part}/query", "query")
    tracklets = [
        *_read_by_person(PictureFolder(root / "train", "train", "train"), log),
        *(_tracklet(query, name) for name in read_pictures(query, _NAME, _EXPECTED, log)),
        *_read_by_person(PictureFolder(root / part / "gallery", f"{part}/gallery", "gallery"), log),
    ]
    return Dataset("last", tuple(tracklets), log.problems())


def _read_by_person(folders: PictureFolder, log: ProblemLog) -> Iterator[Tracklet]:
    for person, folder in read_person_folders(folders, log):
        for name in read_pictures(folder, _NAME, _EXPECTED, log):
            if int(name["person"]) == int(person):
                yield _tracklet(folder, name)
            else:
                log.error(folder.path, None, f"picture {shown(name[0])}, expected one of person {person}")


def _tracklet(folder: PictureFolder, name: re.Match[str]) -> Tracklet:
    clothes = name["outfit"] if folder.split == "train" else None
    return folder.tracklet(name[0], person=name["person"], clothes=clothes, camera=None)
