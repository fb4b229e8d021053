"""Opening encoded pictures that are not trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from data_tools.wording import one_line

MOST_PIXELS = 8192 * 4608
"""Of a picture or a video frame: a little more than 8K, because a tiny file may claim any size."""


@contextmanager
def open_picture(source: Any, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """A picture whose size has been checked but whose pixels are not decoded yet.

    Args:
        source: a path, or a stream of bytes.
        formats: Pillow's names of the accepted formats.

    Raises:
        OSError: from Pillow, while the picture is opened or used, or from the file system.
        ValueError: anything else is wrong with it.
    """
    try:
        with Image.open(source, formats=formats) as picture:
            check_size(picture.width, picture.height)
            yield picture
    except (OSError, ValueError):
        raise
    except Exception as error:  # for a damaged picture, Pillow's decoders raise almost anything
        raise ValueError(one_line(error)) from error


def check_size(width: int, height: int) -> None:
    """Raise ``ValueError`` if a picture has more than ``MOST_PIXELS``."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"it has {width}x{height} pixels, expected at most {MOST_PIXELS // 10**6} million")
