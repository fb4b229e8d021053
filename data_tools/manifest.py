"""The manifest that makes shards a data set. It is written last and atomically: no manifest, no data set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from data_tools.documents import first_problem, parse_json
from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.options import Options
from data_tools.storage import StorageFolder

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1  # keep equal to Manifest.format_version

StorageMode = Literal["jpeg", "source", "raw"]


class ShardEntry(Options):
    """One finished shard file."""

    file: str = Field(pattern=r"^shard-\d{5}\.arrow$")
    rows: int = Field(ge=0)
    frames: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class QuarantinedTracklet(Options):
    """A tracklet that was left out, and why."""

    tracklet: str
    origin: str
    reason: str


class Manifest(Options):
    """Contents of the folder. Class labels follow from the sorted label lists, so every rank and run agrees."""

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


def read_manifest(folder: StorageFolder) -> Manifest:
    """Read and check ``folder/manifest.json``.

    Raises:
        InputError: there is none, it is not valid, a newer version wrote it, or a shard is missing or has another
            size than the manifest says.
        OSError: the storage does not answer or denies access.
    """
    try:
        content = folder.read(MANIFEST_NAME)
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no {MANIFEST_NAME}, so this is not a finished data set; make one with ray_jobs/shard.py"
        ) from None
    manifest = parse_manifest(content, str(folder / MANIFEST_NAME))
    sizes = folder.sizes()
    for shard in manifest.shards:
        found = sizes.get(shard.file)
        if found is None:
            raise InputError(f"{folder / shard.file}: listed in the manifest but missing")
        if found != shard.size_bytes:
            raise InputError(
                f"{folder / shard.file}: {found} bytes, expected {shard.size_bytes}; make the data set again"
            )
    return manifest


def parse_manifest(content: bytes, place: str) -> Manifest:
    """Parse the manifest in the file ``place``; raises InputError if it is not valid."""
    values = parse_json(content, place)
    found_version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(found_version, int) and found_version > FORMAT_VERSION:
        raise InputError(
            f"{place}: format version {found_version}, but this program reads up to {FORMAT_VERSION}; "
            "update the program"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{place}: {first_problem(error)}") from None


def to_json(model: Options) -> bytes:
    """A model as indented JSON."""
    return model.model_dump_json(indent=1).encode() + b"\n"


def write_model(path: Path, model: Options) -> None:
    """Write a model as indented JSON, atomically."""
    with atomic_file(path) as file:
        file.write(to_json(model))
