"""A live gallery: a folder of embeddings from one embedder, in which tracklets can be added and removed.

    store.json          the embedder; embeddings of any other are refused
    part-KEY.arrow      embeddings of some tracklets, written atomically; KEY is derived from their ids
    part-KEY.usearch    the index of a large part, once an approximate search was asked for; deleted with the part
    removed.json        SHA-256 of the removed ids, so that they do not come back
    sources.json        the shards that tracklets came from, where reports find their frames
    replacing.json      while a part takes the place of others: what to complete if the writer is killed
    .lock               locked by a writer; on object storage, .writing-ID.lock and .adding-ID.lock of each who wants to

Adding tracklets writes new parts; removing a person rewrites the parts that hold the person; small parts are merged now
and then. No other file is touched. Parts of earlier versions are Parquet, and stay until they are rewritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from ccvid.config import Recipe
from ccvid.retrieval.embedding.part_file import keys_of
from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.table import EmbeddingTable
from data_tools.clips import ClipOptions
from data_tools.documents import differences, parse_json, parse_model
from data_tools.errors import InputError
from data_tools.loading_options import ResizeFilter
from data_tools.options import Options
from data_tools.shard_cache import CacheOptions
from data_tools.storage import StorageFolder
from data_tools.storage_lock import storage_locked

STORE_FILE = "store.json"
REMOVED_FILE = "removed.json"
SOURCES_FILE = "sources.json"

LAYOUT = 2
"""Of the folder; in 1, all parts were Parquet."""


class EmbedderDescription(Options):
    """Everything but the tracklet that an embedding depends on. Embeddings with equal descriptions are comparable."""

    format_version: Literal[1] = 1
    model: str
    """Fingerprint of the weights."""
    dimensions: int = Field(ge=1)
    height: int
    width: int
    clip: ClipOptions
    resize_filter: ResizeFilter
    flip: bool
    bf16: bool

    @classmethod
    def of(cls, model: str, dimensions: int, recipe: Recipe) -> EmbedderDescription:
        """From the fingerprint of the weights and the recipe, whose precision is resolved."""
        return cls(
            model=model,
            dimensions=dimensions,
            height=recipe.model.height,
            width=recipe.model.width,
            clip=recipe.clip,
            resize_filter=recipe.model.resize_filter,
            flip=recipe.score.flip,
            bf16=recipe.train.bf16 is True,
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the description; the store's tables give it as their model."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class _Description(EmbedderDescription):
    layout: int = 1

    @property
    def embedder(self) -> EmbedderDescription:
        return EmbedderDescription.model_validate(self.model_dump(exclude={"layout"}))


@dataclass(frozen=True, slots=True)
class EmbeddingStore:
    """The store in a folder; see :func:`open_store`."""

    folder: StorageFolder
    embedder: EmbedderDescription
    cache: CacheOptions | None = None
    """Where each node keeps copies of parts on object storage."""
    fixed: tuple[str, ...] | None = None
    """See ``PartFolder``."""

    @property
    def parts(self) -> PartFolder:
        """Its embeddings."""
        return PartFolder(self.folder, self.embedder.fingerprint, self.embedder.dimensions, self.cache, self.fixed)

    def as_it_is(self) -> EmbeddingStore:
        """The store with the parts that it has now, whatever others do to it; only for reading."""
        return replace(self, fixed=self.parts.as_it_is().fixed)

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Add what is ``missing`` in the block: on object storage, others who want to wait meanwhile.

        On a disk they may add at the same time, because each addition looks again what is missing.
        """
        with ExitStack() as stack:
            if self.folder.local is None:
                stack.enter_context(storage_locked(self.folder, "adding"))
            yield

    def missing(self, shard_of: Mapping[str, str]) -> frozenset[str]:
        """The tracklets that are neither in the store nor removed from it.

        Args:
            shard_of: checksum of each tracklet's shard, by tracklet id.

        Raises:
            InputError: the store holds a tracklet of the same id from another shard.
        """
        ids, known = list(shard_of), dict[str, str]()
        key_I = keys_of(ids)
        for _, part in self.parts.each():
            known |= part.shards_of(ids, key_I)
        for id, shard in known.items():
            if shard_of[id] != shard:
                raise InputError(
                    f"{self.folder}: holds a tracklet {id!r} from other shards; use another store, or remove it first"
                )
        removed = self._removed()
        new = frozenset(id for id in ids if id not in known)
        return frozenset(id for id in new if digest_of(id) not in removed) if removed else new

    def add(self, table: EmbeddingTable) -> None:
        """Write a part, atomically, with those tracklets that the store lacks.

        Raises:
            InputError: the embeddings are from another embedder, or of a tracklet that is there from another shard.
        """
        if table.model != self.embedder.fingerprint:
            raise InputError(f"{self.folder}: cannot add embeddings made with another model or other clips")
        if self.folder.local is None:
            self._add_remotely(table)
            return
        with self.parts.writing():
            # Another command may have added or removed them meanwhile.
            ids, shards = (table.rows.columns[name].to_pylist() for name in ("id", "shard"))
            new = self.missing(dict(zip(ids, shards, strict=True)))
            table = table.take([number for number, id in enumerate(ids) if id in new])
            if len(table.rows):
                self._use_layout()
                self.parts.write(table)

    def _add_remotely(self, table: EmbeddingTable) -> None:
        """Without the lock, which a killed worker would leave behind, and a new part needs not.

        Whoever removes notes the ids, then looks for parts that are new. So either this sees the note, or that sees the
        part.
        """
        table = self._without_removed(table)
        if not len(table.rows):
            return
        self._use_layout()
        self.parts.write(table)
        if len(kept := self._without_removed(table).rows) < len(table.rows):
            self.remove(ids=sorted({*table.rows.values("id")} - {*kept.values("id")}))

    def _without_removed(self, table: EmbeddingTable) -> EmbeddingTable:
        removed = self._removed()
        return table.take([row for row, id in enumerate(table.rows.values("id")) if digest_of(id) not in removed])

    def merge_small_parts(self) -> None:
        """Make large parts of small ones, if there are many."""
        with self.parts.writing() as check:
            self._use_layout()
            self.parts.merge_small(check)

    def read(self) -> EmbeddingTable:
        """All embeddings by id; in memory, unless they are in one part on this machine, which is mapped.

        Raises:
            InputError: it is empty, a part cannot be read or is from another embedder, or an id is in two parts.
        """
        with self.parts.table(self.parts.names()) as table:
            return table

    def found(self, *, persons: Collection[str] = (), ids: Collection[str] = ()) -> dict[str, list[str]]:
        """The ids of the tracklets of these persons or ids, by the name of the part that holds them."""
        found: dict[str, list[str]] = {}
        wanted = list(ids)
        key_I = keys_of(wanted)
        for name, part in self.parts.each():
            there = set(part.shards_of(wanted, key_I))
            if part.values("person") & set(persons):
                rows = part.rows.take(np.flatnonzero(part.rows.is_in("person", persons)))
                there.update(rows.columns["id"].to_pylist())
            if there:
                found[name] = sorted(there)
        return found

    def remove(self, *, persons: Collection[str] = (), ids: Collection[str] = ()) -> list[str]:
        """Remove tracklets by person and by id; returns the ids that were found, sorted.

        Only the parts that hold them are written. The SHA-256 of the ids, and of all that are given, is written first:
        the same call completes an interrupted removal, and embedding the same data again does not bring them back.
        """
        with self.parts.writing() as check:
            self._note_removed(ids)
            found: dict[str, list[str]] = {}
            looked: set[str] = set()
            while names := sorted({*self.parts.names()} - looked):  # on object storage, others add meanwhile
                found |= replace(self, fixed=tuple(names)).found(persons=persons, ids=ids)
                self._note_removed(id for gone in found.values() for id in gone)
                looked.update(names)
            if found:
                self._use_layout()
            for name, gone in found.items():
                with self.parts.opened([name]) as (part,):
                    kept = part.table.take(np.flatnonzero(~part.rows.is_in("id", gone)))
                    check()
                    self.parts.replace([name], kept)
            self.parts.remove_leftovers()  # they may hold them, too
        return sorted(id for gone in found.values() for id in gone)

    def sources(self) -> list[str]:
        """Locations of the shards that were embedded, sorted; InputError if the list cannot be read."""
        return self._list(SOURCES_FILE)

    def add_source(self, place: str) -> None:
        """Record the location of shards that are embedded."""
        with self.parts.writing():
            known = self.sources()
            if place not in known:
                self.folder.write(SOURCES_FILE, json.dumps(sorted([*known, place]), indent=1).encode())

    def _removed(self) -> frozenset[str]:
        return frozenset(self._list(REMOVED_FILE))

    def _note_removed(self, ids: Iterable[str]) -> None:
        noted, noting = self._removed(), {digest_of(id) for id in ids}
        if not noted >= noting:
            self.folder.write(REMOVED_FILE, json.dumps(sorted(noted | noting), indent=0).encode())

    def _list(self, name: str) -> list[str]:
        try:
            return TypeAdapter(list[str]).validate_json(self.folder.read(name))
        except FileNotFoundError:
            return []
        except ValidationError:
            raise InputError(f"{self.folder / name}: not a valid JSON list of strings") from None

    def _use_layout(self) -> None:
        """Say in the store that it has parts that earlier versions cannot read."""
        if _read_description(self.folder).layout < LAYOUT:
            _write_description(self.folder, self.embedder)


def open_store(
    folder: StorageFolder, embedder: EmbedderDescription, cache: CacheOptions | None = None
) -> EmbeddingStore:
    """Open the store in a folder, creating it if there is none; for ``cache`` see ``EmbeddingStore``.

    Raises:
        InputError: the store is from another embedder; the message lists the differences.
        OSError: the folder cannot be written.
    """
    found = read_embedder(folder)
    if found is None:
        _write_description(folder, embedder)
    elif found != embedder:
        changes = "; ".join(differences(found.model_dump(), embedder.model_dump()))
        raise InputError(
            f"{folder}: holds embeddings made differently ({changes}), which cannot be compared; use another store"
        )
    return EmbeddingStore(folder, embedder, cache)


def read_store(folder: StorageFolder, cache: CacheOptions | None = None) -> EmbeddingStore:
    """An existing store; InputError if there is none."""
    found = read_embedder(folder)
    if found is None:
        raise InputError(f"{folder}: not an embedding store, no {STORE_FILE} in it")
    return EmbeddingStore(folder, found, cache)


def read_embedder(folder: StorageFolder) -> EmbedderDescription | None:
    """The embedder of a store; None if there is no store, InputError if its description is invalid."""
    try:
        return _read_description(folder).embedder
    except FileNotFoundError:
        return None


def _read_description(folder: StorageFolder) -> _Description:
    place, content = folder / STORE_FILE, folder.read(STORE_FILE)
    raw = parse_json(content, place)
    layout = raw.get("layout") if isinstance(raw, dict) else None
    if isinstance(layout, int) and layout > LAYOUT:
        raise InputError(
            f"{place}: written by a newer version of this software (layout {layout}; this version reads up to {LAYOUT})"
        )
    return parse_model(_Description, content, place)


def _write_description(folder: StorageFolder, embedder: EmbedderDescription) -> None:
    description = _Description(layout=LAYOUT, **embedder.model_dump())
    folder.write(STORE_FILE, (description.model_dump_json(indent=1) + "\n").encode())


def digest_of(text: str) -> str:
    """SHA-256 of an id, as the list of removed ids has it."""
    return hashlib.sha256(text.encode()).hexdigest()
