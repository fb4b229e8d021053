"""Sequences of pictures instead of a video, as in MOTChallenge: ``img1/000001.jpg`` and ``seqinfo.ini``."""

from __future__ import annotations

import configparser
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ImageOps

from data_tools.encoded_pictures import open_picture
from data_tools.errors import UnreadableSourceError
from data_tools.video.pictures import Pulse, RgbFrame, no_pulse
from data_tools.wording import first_line

INFO_FILE = "seqinfo.ini"
PICTURE_FOLDER = "img1"
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MOST_INFO_BYTES = 2**16
_LAST_NUMBER = re.compile(r"(\d{1,15})\D*$", re.ASCII)


@dataclass(frozen=True, slots=True)
class PictureSequence:
    """The pictures of a sequence, sorted by the numbers in their names."""

    numbers: tuple[int, ...]
    paths: tuple[Path, ...]
    frames_per_second: float
    """0 if unknown."""


def is_sequence(folder: str | Path) -> bool:
    """Whether a folder is a MOTChallenge sequence."""
    return os.path.isfile(os.path.join(folder, INFO_FILE)) or os.path.isdir(os.path.join(folder, PICTURE_FOLDER))


def list_pictures(folder: Path) -> PictureSequence:
    """The sequence's pictures.

    Raises:
        UnreadableSourceError: ``seqinfo.ini`` is not valid, there are no pictures, a name has no number, or two have
            the same.
    """
    name, rate = _read_info(folder / INFO_FILE)
    pictures = folder / name
    try:
        files = [entry.name for entry in os.scandir(pictures) if entry.is_file() and not entry.name.startswith(".")]
    except OSError as error:
        raise UnreadableSourceError(f"{pictures}: cannot be listed: {error.strerror}") from error
    found: dict[int, str] = {}
    for file in sorted(files):
        stem, suffix = os.path.splitext(file)
        if suffix.lower() not in PICTURE_SUFFIXES:
            continue
        number = _LAST_NUMBER.search(stem)
        if number is None:
            raise UnreadableSourceError(f"{pictures}: picture {file!r}, expected a name with a number: 000001.jpg")
        if found.setdefault(int(number[1]), file) != file:
            raise UnreadableSourceError(
                f"{pictures}: pictures {found[int(number[1])]!r} and {file!r} have the same number"
            )
    if not found:
        raise UnreadableSourceError(f"{pictures}: contains no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    numbers = tuple(sorted(found))
    return PictureSequence(numbers, tuple(pictures / found[number] for number in numbers), rate)


def _read_info(path: Path) -> tuple[PurePosixPath, float]:
    """The folder of pictures and the frames per second from ``seqinfo.ini``, or defaults."""
    if not path.is_file():
        return PurePosixPath(PICTURE_FOLDER), 0.0
    info = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        if path.stat().st_size > MOST_INFO_BYTES:
            raise UnreadableSourceError(f"{path}: has {path.stat().st_size} bytes, expected a few lines")
        info.read_string(path.read_text("utf-8-sig"))
        rate = float(info.get("Sequence", "frameRate", fallback="0"))
        name = info.get("Sequence", "imDir", fallback=PICTURE_FOLDER).replace("\\", "/") or PICTURE_FOLDER
    except (configparser.Error, OSError, ValueError) as error:
        if isinstance(error, UnreadableSourceError):
            raise
        raise UnreadableSourceError(f"{path}: cannot be read: {first_line(error)!r:.200}") from error
    if not math.isfinite(rate) or not 0 <= rate <= 1e6:
        raise UnreadableSourceError(f"{path}: frameRate is {rate}, expected frames per second")
    pictures = PurePosixPath(name)
    if pictures.is_absolute() or ".." in pictures.parts or "\0" in name:
        raise UnreadableSourceError(f"{path}: imDir is {name!r:.100}, expected a folder within the sequence's folder")
    return pictures, rate


def read_pictures(
    sequence: PictureSequence, frames: Sequence[int] | None = None, pulse: Pulse = no_pulse
) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(position, picture)`` for the wanted positions in the sequence, from 0; None: all.

    Pictures are upright as in OpenCV: rotated according to their EXIF tag.

    Raises:
        UnreadableSourceError: a picture cannot be read or has another size than the one before it; names the picture.
    """
    shape: tuple[int, ...] | None = None
    for place in range(len(sequence.paths)) if frames is None else frames:
        picture = read_picture(sequence.paths[place])
        if shape is not None and shape != picture.shape:
            found, expected = (f"{width}x{height}" for height, width, _ in (picture.shape, shape))
            raise UnreadableSourceError(
                f"{sequence.paths[place]}: {found} pixels, expected {expected} as the picture before it"
            )
        shape = picture.shape
        yield place, picture
        pulse()


def read_picture(path: Path) -> RgbFrame:
    """One picture, upright; raises ``UnreadableSourceError`` naming the file."""
    try:
        with open_picture(path, FORMATS) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError) as error:
        raise UnreadableSourceError(f"{path}: cannot be read: {first_line(error)}") from error
