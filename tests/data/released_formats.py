"""CCVID and MEVID in small: the folders and text files as released, with real JPEG files."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CROP_SIZE = (24, 48)
"""Width and height of the crops."""

# folder, person, clothes. Person 003's second outfit is in session 3, as in the released set.
CCVID_LISTS = {
    "train": [
        ("session1/001_01", "001", "u0_l0_s0_c0_a0"),
        ("session1/001_02", "001", "u1_l1_s0_c0_a0"),
        ("session2/002_01", "002", "u0_l0_s0_c0_a0"),
        ("session2/002_02", "002", "u0_l0_s0_c0_a0"),
    ],
    "query": [("session1/003_01", "003", "u0_l0_s0_c0_a0"), ("session1/004_01", "004", "u2_l2_s0_c0_a0")],
    "gallery": [
        ("session1/003_02", "003", "u0_l0_s0_c0_a0"),
        ("session3/003_01", "003", "u1_l0_s1_c0_a0"),
        ("session2/004_12", "004", "u2_l2_s0_c0_a0"),
    ],
}

# person, outfit, camera, track, frame numbers.
MEVID_TRAIN = [(201, 1, 330, 0, range(4)), (201, 2, 505, 0, range(10, 13)), (202, 1, 299, 7, range(5, 6))]
MEVID_TEST = [
    (301, 1, 508, 0, range(3)),
    (301, 1, 436, 1, range(20, 24)),
    (302, 3, 330, 0, range(2)),
    (301, 2, 436, 0, range(100, 103)),
    (302, 3, 301, 4, range(7, 12)),
]
MEVID_QUERY_ROWS = [2, 0]


def make_ccvid(root: Path, frame_count: int = 3) -> Path:
    """Write ``CCVID_LISTS`` with crops ``00001.jpg`` to ``frame_count`` for each tracklet; returns ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    for split, entries in CCVID_LISTS.items():
        write_lines(root / f"{split}.txt", ["\t".join(entry) for entry in entries])
        for folder, _, _ in entries:
            for number in range(1, frame_count + 1):
                write_crop(root / folder / f"{number:05d}.jpg")
    return root


def make_mevid(root: Path) -> Path:
    """Write ``MEVID_TRAIN`` and ``MEVID_TEST``; returns ``root``.

    As in the release, numbers are written as floats, and ``test_track_scale.txt`` has another order than the
    info file and lacks one track (here row 3).
    """
    root.mkdir(parents=True, exist_ok=True)
    for part, tracks in (("train", MEVID_TRAIN), ("test", MEVID_TEST)):
        chips: list[str] = []
        info: list[str] = []
        for person, outfit, camera, track, frames in tracks:
            names = [chip_name(person, outfit, camera, track, frame) for frame in frames]
            row = (len(chips), len(chips) + len(names) - 1, person, outfit, camera)
            info.append(" ".join(f"{value:.18e}" for value in row))
            chips += names
            for name in names:
                write_crop(root / f"bbox_{part}" / f"{person:04d}" / name)
        write_lines(root / f"{part}_name.txt", chips)
        write_lines(root / f"track_{part}_info.txt", info)
    write_lines(root / "query_IDX.txt", [f"{row:.18e}" for row in MEVID_QUERY_ROWS])
    scales = [
        f"{chip_name(*track[:4], track[4][-1])} {'lm'[row % 2]}" for row, track in enumerate(MEVID_TEST) if row != 3
    ]
    write_lines(root / "test_track_scale.txt", scales[::-1])
    return root


def chip_name(person: int, outfit: int, camera: int, track: int, frame: int) -> str:
    return f"{person:04d}O{outfit:03d}C{camera:03d}T{track:03d}F{frame:05d}.jpg"


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def write_crop(path: Path) -> None:
    """A JPEG of noise that depends on the path's last two parts, so that no two crops of a set are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32("/".join(path.parts[-2:]).encode()))
    width, height = CROP_SIZE
    Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, quality=90)
