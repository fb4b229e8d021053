"""The manifest that binds shards into a data set: written last and atomically, so no manifest means no data set."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from pydantic import Field, ValidationError

from data_tools.errors import InputError
from data_tools.options import Options

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1  # Manifest.format_version says the same to pydantic

StorageMode = Literal["jpeg", "source", "raw"]


class ShardEntry(Options):
    """One finished shard file."""

    file: str = Field(pattern=r"^shard-\d{5}\.arrow$")
    rows: int = Field(ge=0)
    frames: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class QuarantinedTracklet(Options):
    """A tracklet left out, and why."""

    tracklet: str
    origin: str
    reason: str


class Manifest(Options):
    """What the folder holds. Class labels follow from the sorted label lists, the same on every rank and run."""

    format_version: Literal[1] = 1
    dataset: str
    fingerprint: str
    """Hash of the sources and settings that the shards were made from."""
    storage: StorageMode
    image_size: tuple[int, int] | None
    """(height, width) in pixels; None where frames keep their own sizes (``source``)."""
    split_tracklets: dict[Literal["train", "query", "gallery"], int]
    persons: tuple[str, ...]
    """Sorted; a person's class label is the position here."""
    clothes: tuple[tuple[str, str], ...]
    """Sorted pairs (person, clothes label); an outfit's class label is the position here."""
    cameras: tuple[str, ...]
    decoders: dict[str, str]
    shards: tuple[ShardEntry, ...]
    quarantine: tuple[QuarantinedTracklet, ...]


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``folder/manifest.json``.

    Raises:
        InputError: there is none, it is not valid, a newer version wrote it, or a shard is missing or of another
            size than the manifest says.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no {MANIFEST_NAME}, so no finished data set; make one with ray_jobs/shard.py"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable manifest: {error}") from None
    found_version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(found_version, int) and found_version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {found_version}, but this program reads up to {FORMAT_VERSION}; update the program"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise InputError(f"{path}: {place}: {first['msg']}, got {str(first['input'])[:80]!r}") from None
    for shard in manifest.shards:
        _check_size(folder / shard.file, shard.size_bytes)
    return manifest


def _check_size(path: Path, expected: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: listed in the manifest but {error.strerror}") from None
    if found != expected:
        raise InputError(f"{path}: {found} bytes, expected {expected}; make the data set again")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place on success and vanishes on failure."""
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
        if error.errno is not None and error.filename is None:  # a full disk does not say where it is
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise


def write_model(path: Path, model: Options) -> None:
    """Write a model as indented JSON, atomically."""
    with atomic_file(path) as file:
        file.write(model.model_dump_json(indent=1).encode() + b"\n")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
