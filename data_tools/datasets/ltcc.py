"""LTCC as released: folders of PNG person crops whose names contain the labels."""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.datasets.annotation_lines import require_folder
from data_tools.datasets.image_files import PictureFolder, read_pictures
from data_tools.datasets.problems import Dataset, ProblemLog

_NAME = re.compile(r"(?P<person>\d{1,9})_(?P<outfit>\d{1,9})_c(?P<camera>\d{1,9})(_[ -~]*)?\.(?i:png)", re.ASCII)


def read_ltcc(root: Path) -> Dataset:
    """Read LTCC.

    Args:
        root: the folder ``LTCC_ReID`` with ``train``, ``query`` and ``test`` (the gallery).

    Returns:
        One tracklet per picture ``PID_OUTFIT_cCAM_….png``, in the order train, query, gallery, then by name; person,
        clothes (unique within the person) and camera are as written in the name. The rest of a name must begin with an
        underscore. A picture with another kind of name is an error.

    Raises:
        InputError: ``root`` is not a folder.
    """
    require_folder(root, "the folder of LTCC (LTCC_ReID)")
    log = ProblemLog()
    folders = (
        PictureFolder(root / "train", "train", "train"),
        PictureFolder(root / "query", "query", "query"),
        PictureFolder(root / "test", "test", "gallery"),
    )
    tracklets = [
        folder.tracklet(name[0], person=name["person"], clothes=name["outfit"], camera=name["camera"])
        for folder in folders
        for name in read_pictures(folder, _NAME, "094_1_c9_015833.png", log)
    ]
    return Dataset("ltcc", tuple(tracklets), log.problems())
