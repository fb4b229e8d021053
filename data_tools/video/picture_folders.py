"""Sequences of pictures in place of a video, as MOTChallenge has them: ``img1/000001.jpg`` and ``seqinfo.ini``."""

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

from data_tools.encoded_pictures import opened
from data_tools.errors import UnreadableSourceError
from data_tools.video.pictures import Pulse, RgbFrame, first_line, no_pulse

INFO_FILE = "seqinfo.ini"
PICTURE_FOLDER = "img1"
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MOST_INFO_BYTES = 2**16
_LAST_NUMBER = re.compile(r"(\d{1,15})\D*$", re.ASCII)


@dataclass(frozen=True, slots=True)
class PictureSequence:
    """The pictures of a sequence, by the numbers in their names, ascending."""

    numbers: tuple[int, ...]
    paths: tuple[Path, ...]
    frames_per_second: float
    """0 where nothing tells."""


def is_sequence(folder: str | Path) -> bool:
    """Whether a folder is one of MOTChallenge's sequences."""
    return os.path.isfile(os.path.join(folder, INFO_FILE)) or os.path.isdir(os.path.join(folder, PICTURE_FOLDER))


def list_pictures(folder: Path) -> PictureSequence:
    """The sequence's pictures.

    Raises:
        UnreadableSourceError: ``seqinfo.ini`` is none, there is no picture, a name has no number, or two have the same.
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
            raise UnreadableSourceError(f"{pictures}: picture {file!r}, expected a name with its number: 000001.jpg")
        if found.setdefault(int(number[1]), file) != file:
            raise UnreadableSourceError(f"{pictures}: pictures {found[int(number[1])]!r} and {file!r} have one number")
    if not found:
        raise UnreadableSourceError(f"{pictures}: holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))})")
    numbers = tuple(sorted(found))
    return PictureSequence(numbers, tuple(pictures / found[number] for number in numbers), rate)


def _read_info(path: Path) -> tuple[PurePosixPath, float]:
    """The folder of pictures and the frames a second, as far as ``seqinfo.ini`` tells."""
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
        raise UnreadableSourceError(f"{path}: frameRate is {rate}, expected frames a second")
    pictures = PurePosixPath(name)
    if pictures.is_absolute() or ".." in pictures.parts or "\0" in name:
        raise UnreadableSourceError(f"{path}: imDir is {name!r:.100}, expected a folder in the sequence's")
    return pictures, rate


def read_pictures(
    sequence: PictureSequence, frames: Sequence[int] | None = None, pulse: Pulse = no_pulse
) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(place in the sequence, picture)`` for the wanted places, from 0; None for every one.

    Pictures are upright as OpenCV shows them: turned as their EXIF tag says.

    Raises:
        UnreadableSourceError: names the picture that cannot be read or has another size than the one before it.
    """
    shape: tuple[int, ...] | None = None
    for place in range(len(sequence.paths)) if frames is None else frames:
        picture = read_picture(sequence.paths[place])
        if shape is not None and shape != picture.shape:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (picture.shape, shape))
            raise UnreadableSourceError(f"{sequence.paths[place]}: pictures of {sizes} pixels in one sequence")
        shape = picture.shape
        yield place, picture
        pulse()


def read_picture(path: Path) -> RgbFrame:
    """One picture, upright; raises ``UnreadableSourceError``, which names it."""
    try:
        with opened(path, FORMATS) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError) as error:
        raise UnreadableSourceError(f"{path}: cannot be read: {first_line(error)}") from error
