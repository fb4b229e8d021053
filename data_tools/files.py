"""Local files: atomic writes, bounded reads and checksums."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_tools.errors import InputError

MOST_DOCUMENT_BYTES = 2**27
"""Limit for a file that is read as a whole (a document or a picture). Ours are far smaller."""


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that replaces it on success and is removed on failure."""
    handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False)  # noqa: SIM115
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(handle.name, 0o644)
        os.replace(handle.name, path)
    except OSError as error:
        Path(handle.name).unlink(missing_ok=True)
        if error.errno is not None and error.filename is None:  # the error of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise


def read_document(path: Path, most: int = MOST_DOCUMENT_BYTES) -> bytes:
    """A file's whole content.

    Raises:
        InputError: it has more than ``most`` bytes.
        OSError: it cannot be read.
    """
    check_document_size(path, path.stat().st_size, most)
    return path.read_bytes()


def check_document_size(place: object, size: int, most: int = MOST_DOCUMENT_BYTES) -> None:
    """Raise ``InputError`` if ``place`` is too large to be read as a whole."""
    if size > most:
        raise InputError(f"{place}: has {size / 2**20:.0f} MiB, expected at most {most / 2**20:.0f} MiB")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
