"""A node's cache of remote shards: downloaded once per node, then memory-mapped by all its processes.

CACHE/.lock                       held while space is freed
CACHE/SHA-256 of the manifest/    a data set; a changed one has another manifest, and so another folder
    manifest.json                 written first: it reserves the data set's space
    shard-00000.arrow             appears complete and with the right checksum, or not at all; so does index.arrow
    .shard-00000.lock             held while the shard is fetched or checked; records the file last verified
    .in-use                       locked (shared) by every process that has the data set open; its mtime is the last use

A killed process leaves at most a temporary file, which the shard's next fetch removes; the kernel releases its locks.
Opening compares each shard's inode, size and change time with those recorded when its checksum was last verified: any
write changes the change time, which programs cannot set back. Only a shard that differs is read and verified again, so
that opening a warm cache needs no pass over the data.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated
from uuid import uuid4

from pydantic import Field

from data_tools.errors import InputError
from data_tools.file_lock import lock_file, locked, mark_used
from data_tools.files import atomic_file, read_document, sha256_of
from data_tools.manifest import MANIFEST_NAME, FileEntry, Manifest, parse_manifest, remedy, wrong_checksum
from data_tools.options import AbsolutePath, Options, Rare
from data_tools.progress import LINE_SECONDS, Progress, message, seconds_left, show
from data_tools.shards import IN_USE_NAME, ShardFolder
from data_tools.storage import READ_BYTES, StorageFolder, retrying, storage_errors

FETCHERS = 4
"""Shards that a process fetches in parallel: one stream from object storage does not saturate the network."""

GIBIBYTE = 2**30


class CacheOptions(Options):
    """Where a node keeps the shards of remote data sets."""

    folder: Annotated[AbsolutePath, Rare()] = Path("~/ccvid/cache")
    """Folder on a local disk of the node, shared by its processes."""
    gibibytes: Annotated[float, Rare()] = Field(default=100, gt=0)
    """Largest size of the cache in GiB. The data sets opened longest ago make room for a new one."""


def open_shards(place: str, cache: CacheOptions) -> ShardFolder:
    """Open a finished data set; a remote one is first fetched completely into this node's cache.

    Raises:
        InputError: there is no valid data set, a remote shard is damaged, or the cache has no room.
        OSError: the storage does not answer or denies access, or the cache cannot be written.
    """
    remote = StorageFolder(place)
    if remote.local is not None:
        return ShardFolder(remote.local)
    try:
        content = remote.read(MANIFEST_NAME)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: {error.strerror}, so this is not a finished data set") from None
    manifest = parse_manifest(content, str(remote / MANIFEST_NAME))
    drop_cached(cache, manifest.replaced)  # they hold tracklets that have been removed since
    folder = cache.folder / hashlib.sha256(content).hexdigest()
    in_use = _reserve(folder, content, _Wanted(str(remote), manifest), cache)
    with in_use:
        _Filling(remote, folder, manifest).run()
        return ShardFolder(folder)  # which takes its own lock on the data set


@dataclass(frozen=True, slots=True)
class _Wanted:
    place: str
    manifest: Manifest

    @property
    def size(self) -> int:
        return sum(entry.size_bytes for entry in self.manifest.files)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A data set in the cache: bytes reserved, and bytes present."""

    folder: Path
    reserved: int
    present: int
    last_used: int

    @classmethod
    def of(cls, folder: Path) -> _Kept:
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.arrow")}
        present, reserved = sum(sizes.values()), 0
        try:
            manifest = parse_manifest(read_document(folder / MANIFEST_NAME), str(folder))
            reserved = sum(entry.size_bytes for entry in manifest.files)
            last_used = (folder / IN_USE_NAME).stat().st_mtime_ns
        except (OSError, InputError):  # its process was killed right at the start
            last_used = 0
        return cls(folder, max(reserved, present), present, last_used)


def _reserve(folder: Path, content: bytes, wanted: _Wanted, cache: CacheOptions) -> IO[bytes]:
    """Make room for a data set and create its folder; returns its ``.in-use`` file, locked."""
    cache.folder.mkdir(parents=True, exist_ok=True)
    with locked(cache.folder / ".lock"):
        for leftover in cache.folder.glob(".evicted-*"):
            shutil.rmtree(leftover)
        _make_room(folder, wanted, cache)
        folder.mkdir(exist_ok=True)
        in_use = lock_file(folder / IN_USE_NAME, shared=True)
        assert in_use is not None
        mark_used(folder / IN_USE_NAME)
        for leftover in folder.glob(f".{MANIFEST_NAME}.*.tmp"):  # of a process killed here
            leftover.unlink()
        with atomic_file(folder / MANIFEST_NAME) as file:
            file.write(content)
        return in_use


def _make_room(folder: Path, wanted: _Wanted, cache: CacheOptions) -> None:
    """Evict unused data sets, least recently opened first, until the new one fits the limit and the disk."""
    kept = [_Kept.of(path) for path in cache.folder.iterdir() if re.fullmatch(r"[0-9a-f]{64}", path.name)]
    missing = wanted.size - sum(other.present for other in kept if other.folder == folder)
    if missing <= 0:
        return
    others = sorted((other for other in kept if other.folder != folder), key=lambda other: other.last_used)
    free = shutil.disk_usage(cache.folder).free
    # What others have reserved but not fetched yet will also need disk space.
    owed = sum(other.reserved - other.present for other in others)
    reserved = sum(other.reserved for other in others)
    excess = max(wanted.size + reserved - cache.gibibytes * GIBIBYTE, missing + owed - free)
    evicted: list[_Kept] = []
    with ExitStack() as locks:
        for other in others:
            if excess > 0 and locks.enter_context(locked(other.folder / IN_USE_NAME, wait=False)):
                evicted.append(other)
                excess -= other.reserved
        if excess > 0:
            used = reserved - sum(other.reserved for other in evicted)
            raise InputError(
                f"{wanted.place}: its shards need {_gibibytes(wanted.size)}, which do not fit into the cache "
                f"{cache.folder}: its limit is {cache.gibibytes:g} GiB, data sets in use take {_gibibytes(used)} of "
                f"it, and its disk has {_gibibytes(free)} free; raise --data.cache.gibibytes, or set "
                "--data.cache.folder to a folder on a larger disk"
            )
        for other in evicted:
            message(f"cache {cache.folder}: {_gibibytes(other.present)} evicted")
            _evict(other.folder)


def _evict(folder: Path) -> None:
    """Remove a data set that is locked, so that none sees a part of it."""
    shutil.rmtree(folder.rename(folder.with_name(f".evicted-{uuid4().hex}")))


def cached_copies(cache: CacheOptions, manifests: Collection[str]) -> dict[str, int]:
    """The folders in which this machine keeps data sets with these manifests, by SHA-256, and their bytes."""
    folders = [cache.folder / manifest for manifest in manifests]
    return {str(folder): _Kept.of(folder).present for folder in folders if folder.exists()}


def drop_cached(cache: CacheOptions, manifests: Collection[str]) -> list[Path]:
    """Remove the copies of data sets with these manifests, by SHA-256; returns those that stay because they are in use.

    Raises:
        OSError: the cache cannot be written.
    """
    folders = [cache.folder / manifest for manifest in manifests]
    if not any(folder.exists() for folder in folders):
        return []
    in_use = []
    with locked(cache.folder / ".lock"):
        for folder in filter(Path.exists, folders):
            with locked(folder / IN_USE_NAME, wait=False) as lock:
                if lock is None:
                    in_use.append(folder)
                else:
                    _evict(folder)
    return in_use


class _Filling:
    """Fetches all files of a data set into its folder, sharing the work with other processes that do the same."""

    def __init__(self, remote: StorageFolder, folder: Path, manifest: Manifest) -> None:
        self.remote, self.folder, self.manifest = remote, folder, manifest
        self._stopped = threading.Event()
        self._progress = _Progress(remote, folder, sum(entry.size_bytes for entry in manifest.files))

    def run(self) -> None:
        """Fetch what no other process is fetching, then wait for the others."""
        with ThreadPoolExecutor(FETCHERS) as pool:
            try:
                entries = self.manifest.files
                here = pool.map(lambda entry: self._provide(entry, wait=False), entries)
                others = [entry for entry, done in zip(entries, here, strict=True) if not done]
                list(pool.map(lambda entry: self._provide(entry, wait=True), others))
            except BaseException:
                self._stopped.set()
                raise
        self._progress.end()

    def _provide(self, entry: FileEntry, *, wait: bool) -> bool:
        """Ensure that one file is present and verified; False if another process is working on it."""
        path = self.folder / entry.file
        with locked(self.folder / f".{path.stem}.lock", wait=wait) as lock:
            if lock is None:
                return False
            lock.seek(0)
            noted = lock.read().decode(errors="replace")
            if not noted or noted != _state(path):
                if path.exists() and (path.stat().st_size != entry.size_bytes or sha256_of(path) != entry.sha256):
                    message(f"{path}: damaged; fetching it again")
                    path.unlink()
                if not path.exists():
                    what = f"fetching {self.remote / entry.file}"
                    retrying(lambda: self._fetch(entry, path), what, patience=self.remote.patience)
                lock.truncate(0)
                lock.write(_state(path).encode())
                lock.flush()
        return True

    def _fetch(self, entry: FileEntry, path: Path) -> None:
        for leftover in self.folder.glob(f".{entry.file}.*.tmp"):
            leftover.unlink()
        place, digest = str(self.remote / entry.file), hashlib.sha256()
        with atomic_file(path) as file:
            for chunk in self._chunks(entry, place):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != entry.sha256:
                raise wrong_checksum(place, digest.hexdigest(), entry)

    def _chunks(self, entry: FileEntry, place: str) -> Iterator[bytes]:
        received = 0
        with self.remote.open(entry.file) as stream:
            while True:
                with storage_errors(place):
                    chunk = stream.read(READ_BYTES)
                if not chunk:
                    break
                if self._stopped.is_set():
                    raise CancelledError
                received += len(chunk)
                yield chunk
                self._progress.show()
        if received == entry.size_bytes:
            return
        if self.remote.size(entry.file) == entry.size_bytes:
            raise OSError(errno.EIO, f"download ended after {received} of {entry.size_bytes} bytes", place)
        raise InputError(f"{place}: {received} bytes, expected {entry.size_bytes}; {remedy(entry)}")


class _Progress:
    """Reports every few seconds how much of a data set the node has fetched; one process reports for all."""

    def __init__(self, remote: StorageFolder, folder: Path, total: int) -> None:
        self._remote, self._folder, self._total = remote, folder, total
        self._started = self._shown = time.monotonic()
        self._at_start = self._present()
        self._turn = threading.Lock()
        self._speaking: IO[bytes] | None = None

    def show(self) -> None:
        """Report if an update is due and no other process reports."""
        with self._turn:
            now = time.monotonic()
            if now - self._shown < LINE_SECONDS:
                return
            self._shown = now
            self._speaking = self._speaking or lock_file(self._folder / ".speaking", wait=False)
            if self._speaking is not None:
                self._report(now)

    def end(self) -> None:
        """Report completion, if any progress was reported before."""
        if self._speaking is not None:
            self._report(time.monotonic())
            self._speaking.close()

    def _report(self, now: float) -> None:
        present, seconds = self._present(), now - self._started
        fetched = present - self._at_start
        what = f"fetching {self._remote} into {self._folder.parent}"
        show(
            Progress(
                what,
                present,
                self._total,
                "bytes",
                place=f"{what}: {_gibibytes(present)} of {_gibibytes(self._total)}",
                rates=((fetched / seconds / 2**20, "MiB"),),
                seconds_left=seconds_left(fetched, self._total - self._at_start, seconds),
            )
        )

    def _present(self) -> int:
        total = 0
        for entry in os.scandir(self._folder):
            if ".arrow" in entry.name:
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:  # renamed meanwhile
                    continue
        return total


def _state(path: Path) -> str:
    """A text that changes when the file is written to; "" if there is no file."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ""
    return f"{facts.st_ino} {facts.st_size} {facts.st_ctime_ns}"


def _gibibytes(size: float) -> str:
    return f"{size / GIBIBYTE:.3g} GiB" if size >= GIBIBYTE / 10 else f"{size / 2**20:.3g} MiB"
