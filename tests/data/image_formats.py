"""LTCC, PRCC, VC-Clothes, DeepChange and LaST in small: folders, lists and file names as released, real pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

from tests.data.released_formats import write_crop, write_lines

PERSONS = {"train": (1, 2, 3), "query": (7, 8), "gallery": (7, 8), "val": (5,)}


def make_ltcc(root: Path) -> Path:
    """``PID_OUTFIT_cCAM_N.png``: persons in two outfits, seen by two cameras; the gallery folder is ``test``."""
    for folder, persons in (("train", PERSONS["train"]), ("query", PERSONS["query"]), ("test", PERSONS["gallery"])):
        for person, outfit, camera in product(persons, (1, 2), (4, 11)):
            number = 100 * outfit + (0 if folder == "query" else 50)
            write_crop(root / folder / f"{person:03d}_{outfit}_c{camera}_{number:06d}.png")
    return root


def make_prcc(root: Path) -> Path:
    """``rgb/train/PID/A_….jpg`` and ``rgb/test/A/PID/….jpg``; ``rgb/val`` and ``sketch`` are there too."""
    for person, camera, number in product(PERSONS["train"], "ABC", (1, 2)):
        write_crop(root / "rgb/train" / f"{person:03d}" / f"{camera}_cropped_rgb{number:03d}.jpg")
        write_crop(root / "rgb/val" / f"{person:03d}" / f"{camera}_cropped_rgb{number + 2:03d}.jpg")
        write_crop(root / "sketch/train" / f"{person:03d}" / f"{camera}{number}.jpg")
    for camera, person, number in product("ABC", PERSONS["query"], (1, 2)):
        write_crop(root / "rgb/test" / camera / f"{person:03d}" / f"cropped_rgb{number:03d}.jpg")
    return root


def make_vc_clothes(root: Path) -> Path:
    """``PID-CAM-OUTFIT-N.jpg``: outfit 1 in cameras 1 to 3, outfit 2 in camera 4."""
    for split, number in (("train", 1), ("query", 1), ("gallery", 2)):
        for person, camera in product(PERSONS[split], (1, 2, 3, 4)):
            outfit = 2 if camera == 4 else 1
            write_crop(root / split / f"{person:04d}-{camera:02d}-{outfit:02d}-{number:02d}.jpg")
    return root


def make_deepchange(root: Path) -> Path:
    """Folders and lists of train, validation and test; a list's line has a name, a tracklet and the picture's box."""
    for part, split in (
        ("train-set", "train"),
        *((f"{part}-set-{split}", split) for part in ("val", "test") for split in ("query", "gallery")),
    ):
        lines = []
        persons = PERSONS["val"] if part.startswith("val") else PERSONS[split]
        for number, (person, camera, outfit) in enumerate(product(persons, (2, 9), (0, 1))):
            name = f"P{person}_C{camera}_{outfit}_T{number}_{split}.jpg"
            write_crop(root / part / name)
            lines.append(f"{name},{1000 + number + (50 if split == 'gallery' else 0)},10,20,30,60")
        write_lines(root / f"{part}-bbox.txt", lines)
    return root


def make_last(root: Path) -> Path:
    """``train/PID/PID_…_OUTFIT.jpg``, ``{val,test}/query/*.jpg`` and ``{val,test}/gallery/PID/*.jpg``."""
    for person, outfit, number in product(PERSONS["train"], (1, 2), (1, 2)):
        write_crop(root / "train" / f"{person:06d}" / f"{person:06d}_film_{number}_{outfit:02d}.jpg")
    for part, persons in (("val", PERSONS["val"]), ("test", PERSONS["query"])):
        for person, outfit in product(persons, (1, 2)):
            write_crop(root / part / "query" / f"{person:06d}_film_1_{outfit:02d}.jpg")
            write_crop(root / part / "gallery" / f"{person:06d}" / f"{person:06d}_film_2_{outfit:02d}.jpg")
    return root


MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "ltcc": make_ltcc,
    "prcc": make_prcc,
    "vc_clothes": make_vc_clothes,
    "deepchange": make_deepchange,
    "last": make_last,
}
