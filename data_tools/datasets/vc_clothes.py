"""VC-Clothes as released: folders of JPEG person crops whose names contain the labels."""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.datasets.annotation_lines import require_folder
from data_tools.datasets.image_files import PictureFolder, read_pictures
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.tracklet import SPLITS

_NAME = re.compile(
    r"(?P<person>\d{1,9})-(?P<camera>\d{1,9})-(?P<outfit>\d{1,9})-\d{1,9}\.(?i:jpe?g)",
    re.ASCII,
)


def read_vc_clothes(root: Path) -> Dataset:
    """Read VC-Clothes.

    Args:
        root: the folder ``VC-Clothes`` with ``train``, ``query`` and ``gallery``.

    Returns:
        One tracklet per picture ``PID-CAM-OUTFIT-N.jpg``, in the order train, query, gallery, then by name; person and
        clothes (unique within the person) are as written in the name, the camera is without leading zeros, as in the
        protocols. A picture with another kind of name is an error.

    Raises:
        InputError: ``root`` is not a folder.
    """
    require_folder(root, "the folder of VC-Clothes")
    log = ProblemLog()
    tracklets = [
        folder.tracklet(name[0], person=name["person"], clothes=name["outfit"], camera=str(int(name["camera"])))
        for folder in (PictureFolder(root / split, split, split) for split in SPLITS)
        for name in read_pictures(folder, _NAME, "0001-01-01-01.jpg (PID-CAM-OUTFIT-N.jpg)", log)
    ]
    return Dataset("vc_clothes", tuple(tracklets), log.problems())
