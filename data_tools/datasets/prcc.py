"""PRCC as released: JPEG person crops in a folder per person; in the test set, below a folder per camera."""

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
"""Clothes are the same under cameras A and B."""


def read_prcc(root: Path) -> Dataset:
    """Read PRCC's pictures (not its sketches).

    Args:
        root: the folder ``prcc`` with ``rgb/train/PID`` and ``rgb/test/{A,B,C}/PID``.

    Returns:
        One tracklet per picture. The camera is the first letter of a training picture's name, or a test picture's
        folder; the clothes are ``AB`` under cameras A and B and ``C`` under camera C; the person is the folder's
        number. ``test/A`` is the gallery, ``test/B`` and ``test/C`` are queries. So same_clothes scores only the
        queries of B, clothes_changing only those of C, and no gallery picture is junk, because queries and gallery
        share no camera. ``rgb/val`` is not read.

    Raises:
        InputError: ``root`` is not a folder.
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
