"""A node's cache of single remote files, such as the parts of a gallery: each is downloaded once per node.

CACHE/files/.lock                     held while files are removed
CACHE/files/FOLDER/VERSION-NAME       a file, complete, or not there; FOLDER is the SHA-256 of where it is kept. It is
                                      locked (shared) by every process that reads it; its mtime is the last use
CACHE/files/FOLDER/.lock-XX           held while one of the files is fetched that share it

VERSION is a file's size and the time when it was written, which S3 tells in seconds: the cache is for files whose names
change with their content. The shards of data sets in the same cache (``shard_cache``) are counted apart.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from data_tools.errors import InputError
from data_tools.file_lock import lock_file, locked, mark_used
from data_tools.shard_cache import GIBIBYTE, CacheOptions
from data_tools.storage import StorageFolder

FILES_FOLDER = "files"
BEGUN = ".*.tmp"


@contextmanager
def cached_file(remote: StorageFolder, name: str, cache: CacheOptions) -> Iterator[Path]:
    """A remote file as a local one that is valid within the block, fetched if this node does not have it yet.

    Raises:
        FileNotFoundError: there is no such file any more.
        InputError: the cache has no room for it.
        OSError: the storage does not answer or denies access, or the cache cannot be written.
    """
    folder = _folder_of(remote, cache)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{remote.version(name)}-{name}"
    with _fetched(remote, name, path, cache):
        yield path


def cached_files(remote: StorageFolder, cache: CacheOptions) -> list[Path]:
    """This node's copies of files of a remote folder, whole and of any version."""
    return _whole(_folder_of(remote, cache))


def drop_files(remote: StorageFolder, cache: CacheOptions, names: Collection[str]) -> None:
    """Remove copies by their own names, except those that are being read, and all that are begun.

    Raises:
        OSError: the cache cannot be written.
    """
    folder = _folder_of(remote, cache)
    if folder.exists():
        with locked(cache.folder / FILES_FOLDER / ".lock"):
            for path in _whole(folder):
                if path.name in names:
                    _evict(path)
            for begun in folder.glob(BEGUN):  # whoever is fetching it is told that it is gone
                begun.unlink(missing_ok=True)


def _folder_of(remote: StorageFolder, cache: CacheOptions) -> Path:
    place = remote.place.partition("?")[0].rstrip("/")
    return cache.folder / FILES_FOLDER / hashlib.sha256(place.encode()).hexdigest()


def _whole(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if not path.name.startswith(".")]


def _fetched(remote: StorageFolder, name: str, path: Path, cache: CacheOptions) -> IO[bytes]:
    """The file, locked for reading; one process of the node fetches it, others wait."""
    with locked(path.with_name(f".lock-{hashlib.sha256(path.name.encode()).hexdigest()[:2]}")):
        while True:
            if not path.exists():
                _fetch(remote, name, path, cache)
            with suppress(FileNotFoundError):  # evicted at once
                file = lock_file(path, shared=True, create=False)
                assert file is not None
                if os.fstat(file.fileno()).st_nlink:
                    mark_used(path)
                    return file
                file.close()


def _fetch(remote: StorageFolder, name: str, path: Path, cache: CacheOptions) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process killed here
        leftover.unlink(missing_ok=True)
    _make_room(remote / name, remote.size(name) or 0, cache)
    remote.download(name, path)
    if not remote.exists(name):  # whoever removed it may have dropped the copies before this one was there
        with locked(cache.folder / FILES_FOLDER / ".lock"):  # nobody is looking for what to evict
            path.unlink(missing_ok=True)
        raise FileNotFoundError(f"{remote / name}: was removed while it was fetched")


def _make_room(place: StorageFolder, wanted: int, cache: CacheOptions) -> None:
    """Evict files that none reads, those used longest ago first, until another fits the limit and the disk."""
    files = cache.folder / FILES_FOLDER
    with locked(files / ".lock"):
        kept = [(path.stat(), path) for path in files.glob("*/*") if not path.name.startswith(".")]
        used = sum(facts.st_size for facts, _ in kept)
        excess = max(used + wanted - cache.gibibytes * GIBIBYTE, wanted - shutil.disk_usage(files).free)
        for facts, path in sorted(kept, key=lambda each: each[0].st_mtime_ns):
            if excess > 0 and _evict(path):
                excess -= facts.st_size
        if excess > 0:
            raise InputError(
                f"{place}: its {wanted / 2**20:.1f} MiB do not fit into the cache {files}, whose limit is "
                f"{cache.gibibytes:g} GiB and of which the rest is being read; raise --data.cache.gibibytes, or set "
                "--data.cache.folder to a folder on a larger disk"
            )


def _evict(path: Path) -> bool:
    """Remove a file unless it is being read."""
    with locked(path, wait=False) as unread:
        if unread is None:
            return False
        path.unlink()
        return True
