"""The copies of a remote gallery's parts in the cache of a node, while persons or tracklets are forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ccvid.retrieval.embedding.store import EmbeddingStore
from data_tools.file_cache import cached_files, drop_files
from data_tools.shard_cache import CacheOptions
from data_tools.storage import StorageFolder
from ray_jobs.scoring.named_rows import Named


def copies_with(gallery: EmbeddingStore, cache: CacheOptions, named: Named) -> dict[str, tuple[int, int]]:
    """This node's copies that hold some of these: how many tracklets of them, and bytes; also of parts long replaced.

    Raises:
        InputError: a copy is damaged.
    """
    paths = {path.name: path for path in cached_files(gallery.folder, cache)}
    if not paths:
        return {}
    folder = next(iter(paths.values())).parent
    copies = replace(gallery, folder=StorageFolder(str(folder)), fixed=tuple(sorted(paths)))
    found = copies.found(persons=named.persons, ids=named.ids)
    return {str(paths[name]): (len(ids), paths[name].stat().st_size) for name, ids in found.items()}


def drop_copies_with(gallery: EmbeddingStore, cache: CacheOptions, named: Named) -> None:
    """Remove them, except those that are being read."""
    drop_files(gallery.folder, cache, [Path(path).name for path in copies_with(gallery, cache, named)])
