"""PRCC as released: JPEG person crops in folders by person, and in the test set by camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_tools.datasets.annotation_lines import require_folder
from data_tools.datasets.image_files import PictureFolder, read_person_folders, read_pictures
from data_tools.datasets.problems import Dataset, ProblemLog
from data_tools.tracklet import Split, Tracklet

_TRAIN_NAME = re.compile(r"(?P<camera>[ABC])[ -~]*\.(?i:jpe?g)", re.ASCII)
_TEST_NAME = re.compile(r"[ -~]+\.(?i:jpe?g)", re.ASCII)
_TEST_SPLITS: dict[str, Split] = {"A": "gallery", "B": "query", "C": "query"}
_CLOTHES = {"A": "AB", "B": "AB", "C": "C"}
"""Nobody changes between the cameras A and B."""


def read_prcc(root: Path) -> Dataset:
    """Read PRCC's pictures (its sketches are left alone).

    Args:
        root: the folder ``prcc`` with ``rgb/train/PID`` and ``rgb/test/{A,B,C}/PID``.

    Returns:
        One tracklet a picture. The camera is the first letter of a training picture's name, and a test picture's
        folder; the clothes are ``AB`` before cameras A and B and ``C`` before camera C; the person is the folder's
        number. Gallery is ``test/A``, queries are ``test/B`` and ``test/C``: of the protocols, same_clothes scores
        those of B alone and clothes_changing those of C alone, and no gallery picture is junk, for queries and
        gallery share no camera. ``rgb/val`` is not read.

    Raises:
        InputError: ``root`` is no folder.
    """
    require_folder(root, "the folder of PRCC (prcc, which holds rgb)")
    log = ProblemLog()
    train = PictureFolder(root / "rgb/train", "rgb/train", "train")
    tracklets = [
        *_read_train(train, log),
        *(tracklet for camera in "BCA" for tracklet in _read_test(root, camera, log)),
    ]
    return Dataset("prcc", tuple(tracklets), log.problems())


def _read_train(folders: PictureFolder, log: ProblemLog) -> Iterator[Tracklet]:
    for person, folder in read_person_folders(folders, log):
        for name in read_pictures(folder, _TRAIN_NAME, "A_cropped_rgb001.jpg (camera A, B or C first)", log):
            yield _tracklet(folder, name[0], person, name["camera"])


def _read_test(root: Path, camera: str, log: ProblemLog) -> Iterator[Tracklet]:
    folders = PictureFolder(root / "rgb/test" / camera, f"rgb/test/{camera}", _TEST_SPLITS[camera])
    for person, folder in read_person_folders(folders, log):
        for name in read_pictures(folder, _TEST_NAME, "cropped_rgb001.jpg", log):
            yield _tracklet(folder, name[0], person, camera)


def _tracklet(folder: PictureFolder, picture: str, person: str, camera: str) -> Tracklet:
    return folder.tracklet(picture, person=person, clothes=_CLOTHES[camera], camera=camera)
