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
INDEX_NAME = "index.arrow"
SHARD_NAME, INDEX_NAMES = r"^shard-\d{5}(-r\d+)?\.arrow$", r"^index(-r\d+)?\.arrow$"
"""A file that is written again has another name, by which the manifest, written last, changes from old to new."""
FORMAT_VERSION = 3  # keep equal to Manifest.format_version

StorageMode = Literal["jpeg", "source", "raw"]


class FileEntry(Options):
    """One finished file."""

    file: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ShardEntry(FileEntry):
    """One finished shard."""

    file: str = Field(pattern=SHARD_NAME)
    rows: int = Field(ge=0)
    frames: int = Field(ge=0)
    first_sha256: str | None = None
    """Of the shard as it was made, if tracklets have been removed since; embeddings name the shard by it."""

    @property
    def fingerprint(self) -> str:
        """What embeddings name the shard by, which stays when tracklets are removed."""
        return self.first_sha256 or self.sha256


class IndexEntry(FileEntry):
    """The finished index, see :mod:`data_tools.shard_index`."""

    file: str = Field(default=INDEX_NAME, pattern=INDEX_NAMES)


class QuarantinedTracklet(Options):
    """A tracklet that was left out, and why."""

    tracklet: str
    origin: str
    reason: str


class Manifest(Options):
    """Contents of the folder. Class labels follow from the sorted label lists, so every rank and run agrees."""

    format_version: Literal[1, 2, 3] = 3
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
    index: IndexEntry | None = None
    """Missing in data sets made by format version 1."""
    quarantine: tuple[QuarantinedTracklet, ...]
    replaced: tuple[str, ...] = ()
    """SHA-256 of the earlier manifests of this folder, from before tracklets were removed: caches drop their copies."""

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files beside the manifest."""
        return self.shards if self.index is None else (*self.shards, self.index)


def read_manifest(folder: StorageFolder, *, with_index: bool = True) -> Manifest:
    """Read and check ``folder/manifest.json``.

    Args:
        with_index: whether the index must be there, too.

    Raises:
        InputError: there is none, it is not valid, a newer version wrote it, or a file is missing or has another size
            than the manifest says.
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
    for entry in manifest.files if with_index else manifest.shards:
        found = sizes.get(entry.file)
        if found is None:
            raise InputError(f"{folder / entry.file}: listed in the manifest but missing")
        if found != entry.size_bytes:
            raise InputError(f"{folder / entry.file}: {found} bytes, expected {entry.size_bytes}; {remedy(entry)}")
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


def wrong_checksum(place: str, found: str, entry: FileEntry) -> InputError:
    """The error for the file ``place`` whose checksum ``found`` differs from the manifest's."""
    return InputError(
        f"{place}: SHA-256 {found[:12]}…, expected {entry.sha256[:12]}…: the file was changed or damaged; "
        f"{remedy(entry)}"
    )


def remedy(entry: FileEntry) -> str:
    """What a user does about a damaged file."""
    if isinstance(entry, IndexEntry):
        return "make it again with ray_jobs/shard.py --index"
    return "remove manifest.json and this file, and run ray_jobs/shard.py again"


def to_json(model: Options) -> bytes:
    """A model as indented JSON."""
    return model.model_dump_json(indent=1).encode() + b"\n"


def write_model(path: Path, model: Options) -> None:
    """Write a model as indented JSON, atomically."""
    with atomic_file(path) as file:
        file.write(to_json(model))
