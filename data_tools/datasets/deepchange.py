"""DeepChange as released: folders of JPEG person crops, each listed in a text file beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_tools.datasets.annotation_lines import numbered, read_lines, require_folder
from data_tools.datasets.image_files import PictureFolder, TestPart, list_names
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.errors import InputError
from data_tools.options import Options
from data_tools.tracklet import Tracklet
from data_tools.wording import shown

_NAME = re.compile(
    r"P(?P<person>[A-Za-z0-9]{1,20})_C(?P<camera>[A-Za-z0-9]{1,20})_(?P<outfit>[A-Za-z0-9.-]{1,60})(_[^/\\]*)?\.(?i:jpe?g)",
    re.ASCII,
)
_TRACKLET = re.compile(r"[A-Za-z0-9]{1,20}", re.ASCII)


class DeepChangeOptions(Options):
    """How DeepChange is read."""

    part: TestPart = "test"
    """Set of queries and gallery: test or validation."""


def read_deepchange(root: Path, options: DeepChangeOptions | None = None) -> Dataset:
    """Read DeepChange.

    Args:
        root: the folder ``DeepChangeDataset`` with ``train-set`` and ``{test,val}-set-{query,gallery}``, and beside
            each its list, assumed to be named ``train-set-bbox.txt`` and so on.
        options: the part to score.

    Returns:
        One tracklet per line ``P…_C…_OUTFIT….jpg,TRACKLET,…``, in the order train, query, gallery, then line by line.
        Underscores separate the fields of a file name: person is field 0 without its P, clothes (unique within the
        person) field 2. The junk rule uses the tracklet number as the camera; the recorded camera (field 1 without its
        C) is the attribute ``recorded_camera``. Pictures are expected directly in the folder; unlisted ones are
        ignored. A line in another format is an error; a listed picture that is missing is quarantined.

    Raises:
        InputError: ``root`` is not a folder.
    """
    require_folder(root, "the folder of DeepChange (DeepChangeDataset)")
    part = (options or DeepChangeOptions()).part
    log = ProblemLog()
    query, gallery = f"{part}-set-query", f"{part}-set-gallery"
    tracklets = [
        *_read_list(PictureFolder(root / "train-set", "train-set", "train"), log),
        *_read_list(PictureFolder(root / query, query, "query"), log),
        *_read_list(PictureFolder(root / gallery, gallery, "gallery"), log),
    ]
    return Dataset("deepchange", tuple(tracklets), log.problems())


def _read_list(folder: PictureFolder, log: ProblemLog) -> Iterator[Tracklet]:
    path = folder.path.with_name(f"{folder.path.name}-bbox.txt")
    present = list_names(folder.path, log)
    if present is None:
        return
    names = frozenset(present)
    for line, text in numbered(read_lines(path, log)):
        try:
            tracklet = _tracklet(text, folder, origin=f"{path}:{line}")
        except InputError as error:
            log.error(path, line, str(error))
            continue
        name = tracklet.id.rpartition("/")[2]
        if name in names:
            yield tracklet
        else:
            log.quarantine(path, line, f"the picture {folder.path / name} is missing", tracklet.id)


def _tracklet(text: str, folder: PictureFolder, origin: str) -> Tracklet:
    fields = [field.strip() for field in text.split(",")]
    name = _NAME.fullmatch(fields[0])
    if name is None:
        raise InputError(f"picture {shown(fields[0])}, expected a name like P…_C…_OUTFIT….jpg")
    if len(fields) < 2 or not _TRACKLET.fullmatch(fields[1]):
        raise InputError(f"{shown(text)}, expected the picture's name, the tracklet's number, …")
    return folder.tracklet(
        fields[0],
        person=name["person"],
        clothes=name["outfit"],
        camera=fields[1],
        attributes={"recorded_camera": name["camera"]},
        origin=origin,
    )
