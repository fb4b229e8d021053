"""LTCC as released: folders of PNG person crops whose names hold the labels."""

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
        One tracklet a picture ``PID_OUTFIT_cCAM_….png``: person, clothes (unique within the person) and camera as
        the name writes them, in the order train, query, gallery and of the names. Of the name's rest it is assumed
        only that an underscore begins it. A picture named otherwise is an error.

    Raises:
        InputError: ``root`` is no folder.
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
