"""What is kept about a tracklet, where, and how it is removed: the table ``KEPT``, which whoever keeps more extends.

Each row finds the files that hold something of certain tracklets, and removes it from them. Finding changes nothing and
is repeated afterwards: what it then still finds was not removed. Removing completes what a kill has interrupted.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
import numpy.typing as npt

from ccvid.identities.persons import Persons
from ccvid.identities.register import Register
from ccvid.retrieval.embedding.part_folder import LEFTOVER, PART_NAME
from ccvid.retrieval.embedding.store import EmbeddingStore, read_embedder
from ccvid.retrieval.report.folder import MARKER as PAGES_MARKER
from ccvid.run_files import (
    ANNOTATED_FOLDER,
    CLUSTERS_FILE,
    GROUPS_FOLDER,
    IDENTITIES_FILE,
    LIVE_MATCHES_FILE,
    MATCHES_FILE,
    MATCHES_TABLE,
    PERSONS_FOLDER,
    QUESTIONS_FILE,
    REPORT_FOLDER,
    TRACKS_FOLDER,
    WATCH_FILE,
    rankings_file,
)
from data_tools.files import sha256_of
from data_tools.manifest import MANIFEST_NAME
from data_tools.options import Options
from data_tools.shard_cache import CacheOptions, cached_copies, drop_cached
from data_tools.shard_removal import StoredLabels, read_labels, remove_tracklets, without_mentions
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.cluster.every_node import on_every_node
from ray_jobs.scoring.cached_parts import copies_with, drop_copies_with
from ray_jobs.scoring.evaluation import PARTS_FOLDER
from ray_jobs.scoring.named_rows import TABLE_KINDS, Named, named_ids, without_rows
from ray_jobs.scoring.watch_log import WatchLog, without_reasons

DERIVED = (
    *(MATCHES_TABLE, MATCHES_FILE, CLUSTERS_FILE, REPORT_FOLDER, GROUPS_FOLDER, rankings_file("*", "*")),
    *(IDENTITIES_FILE, QUESTIONS_FILE, PERSONS_FOLDER, TRACKS_FOLDER, ANNOTATED_FOLDER),
)
"""Results that are removed as a whole, because the same command makes them again; so are all other pages."""
LEFT_BY_REMOVAL = "files, old or new, that a killed removal has left"
DOOMED = ".removed.tmp"
"""Ends the name of what is being deleted."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where something may be kept."""

    gallery: EmbeddingStore
    results: StorageFolder
    shards: tuple[StorageFolder, ...]
    """Finished data sets."""
    cache: CacheOptions


class Held(Options):
    """A file, or a folder with its files, that holds something of what is forgotten."""

    what: str
    place: str
    rows: int | None = None
    """How many tracklets or lines of it; None where they are not counted."""
    bytes: int
    sha256: str | None
    """None where its content was not read."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that is kept about tracklets."""

    what: str
    find: Callable[[Places, Named], Iterable[Held]]
    remove: Callable[[Places, Named], None]


def look_at(folder: StorageFolder, name: str, what: str, rows: int | None = None) -> Held:
    """A file or folder with its size and checksum; that of a folder is over the names and checksums of its files."""
    with folder.fetched(name) as path:
        if path.is_file():
            return Held(
                what=what, place=str(folder / name), rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path)
            )
        files = sorted(each for each in path.rglob("*") if each.is_file())
        listed = "".join(f"{sha256_of(each)}  {each.relative_to(path).as_posix()}\n" for each in files)
        size, digest = sum(each.stat().st_size for each in files), hashlib.sha256(listed.encode()).hexdigest()
        return Held(what=what, place=str(folder / name), rows=rows, bytes=size, sha256=digest)


def _derived(places: Places) -> list[str]:
    results = places.results
    return [
        name
        for name in results.names()
        if any(fnmatch(name, known) for known in DERIVED)
        or (not name.startswith(".") and results.exists(f"{name}/{PAGES_MARKER}"))
    ]


def _find_derived(places: Places, _: Named) -> Iterator[Held]:
    for name in _derived(places):
        yield look_at(places.results, name, "matches, groups, pages and pictures")


def _remove_derived(places: Places, _: Named) -> None:
    local = places.results.local
    for name in _derived(places):
        if local is not None:  # a kill leaves no half of a folder that nobody knows for pages any more
            name = (local / name).rename(local / f".{name}{DOOMED}").name
        places.results.delete(name)


def _table_names(places: Places) -> Iterator[tuple[StorageFolder, str]]:
    """The tables beside the results and in the gallery, which others may have put there."""
    for folder in dict.fromkeys((places.results, places.gallery.folder)):
        for name in folder.names():
            own = (name in (*DERIVED, WATCH_FILE) and folder == places.results) or re.fullmatch(PART_NAME, name)
            if name.endswith(TABLE_KINDS) and not name.startswith(".") and not own:
                yield folder, name


def _find_register(places: Places, named: Named) -> Iterator[Held]:
    register = Register(places.gallery.folder)
    for file, count in register.mentions(named.ids, named.persons).items():
        yield look_at(register.folder, file, "the register of persons", count)


def _remove_register(places: Places, named: Named) -> None:
    Register(places.gallery.folder).forget(named.ids, named.persons)


def ids_by_names(places: Places, persons: frozenset[str]) -> dict[str, set[str]]:
    """The ids of tracklets that the gallery's register, or tables of identities, give these names."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    known = Register(places.gallery.folder).persons() if persons else Persons()
    for id, number in zip(known.ids, known.person_N.tolist(), strict=True):
        if (name := known.names.get(number)) in persons:
            found[name].add(id)
    for folder, table in _table_names(places):
        if persons and table.endswith(".parquet"):
            with folder.fetched(table) as path:
                for person, ids in named_ids(path, persons).items():
                    found[person] |= ids
    return found


def _tables(places: Places, named: Named) -> Iterator[tuple[StorageFolder, str, int, bytes]]:
    """Each table that has rows of them: the number of these, and its content without."""
    for folder, name in _table_names(places):
        with folder.fetched(name) as path:
            count, content = without_rows(path, named)
        if count:
            yield folder, name, count, content


def _find_rows(places: Places, named: Named) -> Iterator[Held]:
    for folder, name, count, _ in _tables(places, named):
        yield look_at(folder, name, "rows of tables", count)


def _remove_rows(places: Places, named: Named) -> None:
    for folder, name, _, content in _tables(places, named):
        local = folder.local
        if name == LIVE_MATCHES_FILE and local is not None and (local / WATCH_FILE).exists():
            WatchLog(local / WATCH_FILE).note_pruned()
        folder.write(name, content)


def _left(places: Places) -> Iterator[tuple[StorageFolder, str]]:
    """Unfinished files and pages of killed writers."""
    for folder in dict.fromkeys((places.results, places.gallery.folder)):
        yield from ((folder, name) for name in folder.names() if re.fullmatch(r"\..+\.tmp", name))


def _find_left(places: Places, _: Named) -> Iterator[Held]:
    for folder, name in _left(places):
        yield look_at(folder, name, LEFT_BY_REMOVAL if name.endswith(DOOMED) else "what a killed writer has left")


def _remove_left(places: Places, _: Named) -> None:
    for folder, name in _left(places):
        if not re.fullmatch(LEFTOVER, name):  # those the gallery removes while no other process writes to it
            folder.delete(name)


def _watch_log(places: Places, named: Named) -> tuple[int, str]:
    local = places.results.local  # a watch needs a disk
    path = None if local is None else local / WATCH_FILE
    return (0, "") if path is None or not path.exists() else without_reasons(path.read_text(), named.in_text)


def _find_reasons(places: Places, named: Named) -> Iterator[Held]:
    if count := _watch_log(places, named)[0]:
        yield look_at(places.results, WATCH_FILE, "reasons in the log of a watch", count)


def _remove_reasons(places: Places, named: Named) -> None:
    count, content = _watch_log(places, named)
    if count:
        places.results.write(WATCH_FILE, content.encode())


def _galleries(places: Places) -> Iterator[EmbeddingStore]:
    """The gallery, and what a killed evaluation has left in the results."""
    yield places.gallery
    parts = places.results / PARTS_FOLDER
    if parts != places.gallery.folder and (embedder := read_embedder(parts)) is not None:
        yield EmbeddingStore(parts, embedder)


def _find_embeddings(places: Places, named: Named) -> Iterator[Held]:
    for store in _galleries(places):
        for part, ids in store.found(persons=named.persons, ids=named.ids).items():
            yield look_at(store.folder, part, "embeddings", len(ids))
            if (index := store.parts.index_path(part)) is not None and index.exists():
                yield look_at(store.folder, index.name, "an index of embeddings")


def _remove_embeddings(places: Places, named: Named) -> None:
    for store in _galleries(places):
        store.remove(persons=named.persons, ids=named.ids)


def _is_named(stored: StoredLabels, named: Named) -> npt.NDArray[np.bool_]:
    """Which rows of a data set are of the tracklets or the persons (N,)."""
    return stored.rows.is_in("id", named.ids) | stored.rows.is_in("person", named.persons)


def _find_frames(places: Places, named: Named) -> Iterator[Held]:
    for folder in places.shards:
        stored = read_labels(folder)
        manifest = stored.manifest
        count_S = np.bincount(stored.rows.shard_N[_is_named(stored, named)], minlength=len(manifest.shards))
        for entry, count in zip(manifest.shards, count_S.tolist(), strict=True):
            if count:
                place = str(folder / entry.file)
                yield Held(what="frames", place=place, rows=count, bytes=entry.size_bytes, sha256=entry.sha256)
        if count_S.any() and manifest.index is not None:
            yield look_at(folder, manifest.index.file, "labels of shards", int(count_S.sum()))
        told = len(manifest.quarantine) - len(without_mentions(manifest.quarantine, named.in_text))
        if count_S.any() or told:
            yield look_at(folder, MANIFEST_NAME, "labels and quarantine", int(count_S.sum()) + told)
        for name in stored.superseded:
            yield look_at(folder, name, LEFT_BY_REMOVAL)


def _remove_frames(places: Places, named: Named) -> None:
    for folder in places.shards:
        stored = read_labels(folder)
        remove_tracklets(stored, _is_named(stored, named), named.in_text)


def _old_manifests(places: Places, named: Named) -> list[str]:
    """Of remote data sets, of which nodes may have copies: those that list, or have listed, what is forgotten."""
    found: list[str] = []
    for folder in places.shards:
        if folder.local is None:
            stored = read_labels(folder)
            found += stored.manifest.replaced
            found += [stored.manifest_sha256] if _is_named(stored, named).any() else []
    return found


def _find_copies(places: Places, named: Named) -> Iterator[Held]:
    if manifests := _old_manifests(places, named):
        connect()
        for node, copies in on_every_node(cached_copies, places.cache, manifests).items():
            for path, size in copies.items():
                yield Held(what="copies of shards on the nodes", place=f"{node}:{path}", bytes=size, sha256=None)


def _remove_copies(places: Places, named: Named) -> None:
    if manifests := _old_manifests(places, named):
        connect()
        on_every_node(drop_cached, places.cache, manifests)


def _find_part_copies(places: Places, named: Named) -> Iterator[Held]:
    if places.gallery.folder.local is None:
        connect()
        for node, copies in on_every_node(copies_with, places.gallery, places.cache, named).items():
            for path, (rows, size) in copies.items():
                yield Held(
                    what="copies of embeddings on the nodes", place=f"{node}:{path}", rows=rows, bytes=size, sha256=None
                )


def _remove_part_copies(places: Places, named: Named) -> None:
    if places.gallery.folder.local is None:
        connect()
        on_every_node(drop_copies_with, places.gallery, places.cache, named)


KEPT = (
    Kept("what killed writers have left in the results and the gallery", _find_left, _remove_left),
    Kept("matches, groups, pages and pictures", _find_derived, _remove_derived),
    Kept("rows of tables: live matches, scored embeddings and queries, decisions", _find_rows, _remove_rows),
    Kept("the register of persons", _find_register, _remove_register),
    Kept("reasons in the log of a watch", _find_reasons, _remove_reasons),
    Kept("embeddings and their indexes", _find_embeddings, _remove_embeddings),
    Kept("frames and labels in shards", _find_frames, _remove_frames),
    Kept("copies of shards on the nodes", _find_copies, _remove_copies),
    Kept("copies of embeddings on the nodes", _find_part_copies, _remove_part_copies),
)
"""In the order of removal. Tables of other features in the gallery or the results (CSV, lines of JSON, Parquet) are
covered by the third row, if one row of the table is about one tracklet or person."""
