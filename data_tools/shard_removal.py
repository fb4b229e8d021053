"""Removing tracklets from a finished data set, with their frames.

The shards that hold them, and the index, are written again without them under new names; then the manifest, which
names the new files in place of the old, in one step; then the old files are deleted. A kill leaves the old data set or
the new one, and the same call completes the removal. All other shards stay as they are, and so do the rows that remain,
byte for byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.errors import InputError
from data_tools.file_lock import locked
from data_tools.files import sha256_of
from data_tools.manifest import (
    FORMAT_VERSION,
    INDEX_NAMES,
    MANIFEST_NAME,
    SHARD_NAME,
    Manifest,
    QuarantinedTracklet,
    ShardEntry,
    parse_manifest,
    read_manifest,
    to_json,
)
from data_tools.progress import Meter
from data_tools.shard_file import SHARD_SCHEMA
from data_tools.shard_index import ShardRows, pack_index, read_index, write_index
from data_tools.shard_writer import remove_leftovers
from data_tools.shards import right_shard
from data_tools.storage import StorageFolder
from data_tools.tracklet import SPLITS

LOCK_FILE = ".removing"
Mentions = Callable[[str], bool]
"""Whether a text tells of what is removed."""


@dataclass(frozen=True, slots=True)
class StoredLabels:
    """A finished data set without its frames."""

    folder: StorageFolder
    manifest: Manifest
    manifest_sha256: str
    """Of the manifest's file, by which caches name the data set."""
    rows: ShardRows

    @property
    def superseded(self) -> list[str]:
        """Files of shards that are not in the manifest: left by a killed removal, or a killed sharding."""
        known = {entry.file for entry in self.manifest.files}
        names = self.folder.names()
        return [
            name for name in names if re.search(rf"{SHARD_NAME}|{INDEX_NAMES}|^\..*\.tmp$", name) and name not in known
        ]


def read_labels(folder: StorageFolder) -> StoredLabels:
    """The manifest and the index of a finished data set; its shards are not read.

    Raises:
        InputError: there is none, it is damaged, or an earlier version made it, without an index.
        OSError: the storage does not answer or denies access.
    """
    manifest, content = read_manifest(folder), folder.read(MANIFEST_NAME)
    if parse_manifest(content, str(folder / MANIFEST_NAME)) != manifest:
        raise InputError(f"{folder / MANIFEST_NAME}: changed while it was read; run the same command again")
    if manifest.index is None:
        raise InputError(
            f"{folder}: made by an earlier version, without an index; add it with ray_jobs/shard.py --index"
        )
    with folder.fetched(manifest.index.file) as path:
        rows = read_index(path, manifest.index, manifest.shards)
    return StoredLabels(folder, manifest, hashlib.sha256(content).hexdigest(), rows)


def remove_tracklets(stored: StoredLabels, gone_N: npt.NDArray[np.bool_], mentions: Mentions = lambda _: False) -> None:
    """Write a data set again without some of its tracklets, which may be none after a kill.

    On a local or shared disk only one process at a time may do so; on object storage see that there is one.

    Args:
        stored: what ``read_labels`` has just returned.
        gone_N: the rows to remove.
        mentions: the entries of the quarantine to remove, by any of their texts.

    Raises:
        InputError: a shard is damaged, or the data set has changed meanwhile.
        OSError: the folder cannot be written.
    """
    folder, manifest = stored.folder, stored.manifest
    with _only_one(stored):
        quarantine = without_mentions(manifest.quarantine, mentions)
        if gone_N.any() or quarantine != manifest.quarantine:
            changed = manifest.model_copy(update={"quarantine": quarantine})
            content = to_json(_without(stored, changed, gone_N))
            folder.write(MANIFEST_NAME, content)
            stored = StoredLabels(folder, parse_manifest(content, str(folder)), "", stored.rows)
        for name in stored.superseded:
            folder.delete(name)
        remove_leftovers(folder)


def without_mentions(quarantine: Sequence[QuarantinedTracklet], mentions: Mentions) -> tuple[QuarantinedTracklet, ...]:
    """The entries of a quarantine none of whose texts mentions what is removed."""
    return tuple(
        entry
        for entry in quarantine
        if not any(map(mentions, (entry.tracklet, re.sub(r":\d+$", "", entry.origin), entry.reason)))
    )


@contextmanager
def _only_one(stored: StoredLabels) -> Iterator[None]:
    local = stored.folder.local
    with locked(local / LOCK_FILE) if local is not None else nullcontext():
        content = stored.folder.read(MANIFEST_NAME)
        if hashlib.sha256(content).hexdigest() != stored.manifest_sha256:
            raise InputError(f"{stored.folder}: has changed meanwhile; run the same command again")
        yield


def _without(stored: StoredLabels, manifest: Manifest, gone_N: npt.NDArray[np.bool_]) -> Manifest:
    """Write the shards that change, and the index; returns the manifest that names them."""
    folder, rows = stored.folder, stored.rows
    assert manifest.index is not None
    changing = np.unique(rows.shard_N[gone_N]).tolist()
    meter = Meter("removing frames", len(changing), "shards", brief=True)
    shards = list(manifest.shards)
    for number in changing:
        in_shard_N = rows.shard_N == number
        shards[number] = _write_again(folder, shards[number], rows.batch_N[in_shard_N & ~gone_N].tolist())
        meter.add(1, shards=1)
    kept = rows.take(np.flatnonzero(~gone_N))
    bounds = np.searchsorted(kept.shard_N, np.arange(len(shards) + 1)).tolist()
    parts = [pack_index(kept[start:end]) for start, end in pairwise(bounds)]
    splits = kept.values("split")
    return manifest.model_copy(
        update={
            "format_version": FORMAT_VERSION,
            "shards": tuple(shards),
            "index": write_index(parts, shards, folder, _next_name(manifest.index.file)),
            "split_tracklets": {split: splits.count(split) for split in SPLITS},
            "persons": tuple(sorted({*kept.values("person")} - {None})),
            "clothes": _outfits(kept),
            "cameras": tuple(sorted({*kept.values("camera")})),
            "replaced": (*manifest.replaced, stored.manifest_sha256),
        }
    )


def _outfits(rows: ShardRows) -> tuple[tuple[str, str], ...]:
    pairs = zip(rows.values("person"), rows.values("clothes"), strict=True)
    return tuple(sorted({pair for pair in pairs if None not in pair}))


def _write_again(folder: StorageFolder, entry: ShardEntry, batches: list[int]) -> ShardEntry:
    """Write a shard with some of its tracklets under a new name."""
    name = _next_name(entry.file)
    with right_shard(folder, entry) as shard, folder.new_file(name) as path:
        frames = 0
        with path.open("wb") as file, pa.ipc.new_file(file, SHARD_SCHEMA) as writer:
            for number in batches:
                frames += shard.row(number).frame_count
                writer.write_batch(shard.batch(number))
        return ShardEntry(
            file=name,
            rows=len(batches),
            frames=frames,
            size_bytes=path.stat().st_size,
            sha256=sha256_of(path),
            first_sha256=entry.fingerprint,
        )


def _next_name(file: str) -> str:
    """The name of a file's next revision: shard-00003.arrow, shard-00003-r1.arrow, shard-00003-r2.arrow."""
    base, _, revision = file.removesuffix(".arrow").partition("-r")
    return f"{base}-r{int(revision or 0) + 1}.arrow"
