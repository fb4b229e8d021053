"""A live gallery: a folder of embeddings from one embedder, in which tracklets can be added and removed.

    store.json          the embedder; embeddings of any other are refused
    part-KEY.parquet    embeddings of some tracklets, written atomically; KEY is derived from their ids
    removed.json        SHA-256 of the removed ids, so that they do not come back
    sources.json        the shards that tracklets came from, where reports find their frames

Adding tracklets writes new parts; removing a person rewrites the parts that hold the person. No other file is touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, TypeAdapter, ValidationError

from ccvid.config import Recipe
from ccvid.retrieval.embedding.parquet import read_table
from ccvid.retrieval.embedding.table import (
    EmbeddingRows,
    EmbeddingTable,
    read_embeddings,
    read_rows,
    read_vectors,
    write_embeddings,
)
from data_tools.clips import ClipOptions
from data_tools.documents import differences, parse_model
from data_tools.errors import InputError
from data_tools.loading_options import ResizeFilter
from data_tools.options import Options
from data_tools.storage import StorageFolder

STORE_FILE = "store.json"
REMOVED_FILE = "removed.json"
SOURCES_FILE = "sources.json"


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


@dataclass(frozen=True, slots=True)
class EmbeddingStore:
    """The store in a folder; see :func:`open_store`."""

    folder: StorageFolder
    embedder: EmbedderDescription

    def missing(self, shard_of: Mapping[str, str]) -> frozenset[str]:
        """The tracklets that are neither in the store nor removed from it.

        Args:
            shard_of: checksum of each tracklet's shard, by tracklet id.

        Raises:
            InputError: the store holds a tracklet of the same id from another shard.
        """
        known = self._known()
        for id, shard in shard_of.items():
            if known.get(id, shard) != shard:
                raise InputError(
                    f"{self.folder}: holds a tracklet {id!r} from other shards; use another store, or remove it first"
                )
        removed = self._removed()
        return frozenset(id for id in shard_of if id not in known and _digest(id) not in removed)

    def add(self, table: EmbeddingTable) -> None:
        """Write a part, atomically.

        Raises:
            InputError: the embeddings are from another embedder.
        """
        if table.model != self.embedder.fingerprint:
            raise InputError(f"{self.folder}: cannot add embeddings made with another model or other clips")
        self._write(f"part-{_digest(json.dumps(table.rows.columns['id'].to_pylist()))[:32]}.parquet", table)

    def parts(self) -> list[str]:
        """Names of the parts, sorted."""
        return [name for name in self.folder.names() if name.startswith("part-") and name.endswith(".parquet")]

    def read(self) -> EmbeddingTable:
        """All embeddings, sorted by id.

        Raises:
            InputError: it is empty, a part cannot be read or is from another embedder, or an id is in two parts.
        """
        with ExitStack() as fetched:
            paths = [fetched.enter_context(self.folder.fetched(name)) for name in self.parts()]
            if not paths:
                raise InputError(f"{self.folder}: the embedding store is empty")
            labels = [_read_labels(path) for path in paths]
            rows = EmbeddingRows(pa.concat_tables([part.columns for part in labels]))
            order = pc.sort_indices(rows.columns["id"]).to_numpy()
            rows = rows.take(order)
            self._refuse_duplicates(rows.columns["id"])
            place_N = np.empty(len(rows), np.int64)  # of each row, in the order of the parts
            place_N[order] = np.arange(len(rows))
            embedding_ND = np.empty((len(rows), self.embedder.dimensions), np.float32)
            ends = np.cumsum([len(part) for part in labels])
            for path, place_R in zip(paths, np.split(place_N, ends[:-1]), strict=True):  # one at a time, to save memory
                part_RD = read_vectors(path, model=self.embedder.fingerprint)
                if part_RD.shape != (len(place_R), self.embedder.dimensions):
                    count, dimensions = part_RD.shape
                    expected = f"{len(place_R)} of {self.embedder.dimensions}"
                    raise InputError(f"{path}: {count} embeddings of {dimensions} values, expected {expected}")
                embedding_ND[place_R] = part_RD
        return EmbeddingTable(rows, embedding_ND, self.embedder.fingerprint)

    def holds(self, *, persons: Collection[str] = (), ids: Collection[str] = ()) -> bool:
        """Whether it has a tracklet of these persons or ids."""
        for name in self.parts():
            with self.folder.fetched(name) as path:
                rows = _read_labels(path)
            if (rows.is_in("person", persons) | rows.is_in("id", ids)).any():
                return True
        return False

    def remove(self, *, persons: Collection[str] = (), ids: Collection[str] = ()) -> list[str]:
        """Remove tracklets by person and by id; returns the ids that were found, sorted.

        The SHA-256 of the ids is written first: the same call completes an interrupted removal, and embedding the same
        data again does not bring them back.
        """
        gone: dict[str, list[str]] = {}
        for name in self.parts():
            with self.folder.fetched(name) as path:
                rows = _read_labels(path)
            chosen = np.flatnonzero(rows.is_in("person", persons) | rows.is_in("id", ids))
            if len(chosen):
                gone[name] = rows.take(chosen).columns["id"].to_pylist()
        removed = sorted(id for found in gone.values() for id in found)
        if removed:
            noted = sorted(self._removed() | {_digest(id) for id in removed})
            self.folder.write(REMOVED_FILE, json.dumps(noted, indent=0).encode())
        for name, found in gone.items():
            table = self._read(name)
            kept = np.flatnonzero(~table.rows.is_in("id", found))
            if len(kept):
                self._write(name, table.take(kept))
            else:
                self.folder.delete(name)
        return removed

    def sources(self) -> list[str]:
        """Locations of the shards that were embedded, sorted; InputError if the list cannot be read."""
        return self._list(SOURCES_FILE)

    def add_source(self, place: str) -> None:
        """Record the location of shards that are embedded."""
        known = self.sources()
        if place not in known:
            self.folder.write(SOURCES_FILE, json.dumps(sorted([*known, place]), indent=1).encode())

    def _known(self) -> dict[str, str]:
        """Each tracklet's shard, by its id."""
        known: dict[str, str] = {}
        for name in self.parts():
            with self.folder.fetched(name) as path:
                table = read_table(path, required=("id", "shard_fingerprint"))
            known.update(zip(table["id"].to_pylist(), table["shard_fingerprint"].to_pylist(), strict=True))
        return known

    def _removed(self) -> frozenset[str]:
        return frozenset(self._list(REMOVED_FILE))

    def _list(self, name: str) -> list[str]:
        try:
            return TypeAdapter(list[str]).validate_json(self.folder.read(name))
        except FileNotFoundError:
            return []
        except ValidationError:
            raise InputError(f"{self.folder / name}: not a valid JSON list of strings") from None

    def _read(self, name: str) -> EmbeddingTable:
        with self.folder.fetched(name) as path:
            return read_embeddings(path, model=self.embedder.fingerprint)

    def _refuse_duplicates(self, sorted_ids: pa.ChunkedArray) -> None:
        repeated = pc.equal(sorted_ids.slice(1), sorted_ids.slice(0, len(sorted_ids) - 1))
        if pc.any(repeated).as_py():
            name = sorted_ids[pc.index(repeated, True).as_py()].as_py()
            raise InputError(f"{self.folder}: duplicate tracklet id {name!r}, found in two parts")

    def _write(self, name: str, table: EmbeddingTable) -> None:
        with self.folder.new_file(name) as path:
            write_embeddings(table, path)


def _read_labels(path: Path) -> EmbeddingRows:
    """A part's labels, without its embeddings."""
    return read_rows(
        read_table(path, required=("id", "person", "camera", "split"), wanted=lambda name: name != "embedding"), path
    )


def open_store(folder: StorageFolder, embedder: EmbedderDescription) -> EmbeddingStore:
    """Open the store in a folder, creating it if there is none.

    Raises:
        InputError: the store is from another embedder; the message lists the differences.
        OSError: the folder cannot be written.
    """
    found = read_embedder(folder)
    if found is None:
        folder.write(STORE_FILE, (embedder.model_dump_json(indent=1) + "\n").encode())
    elif found != embedder:
        changes = "; ".join(differences(found.model_dump(), embedder.model_dump()))
        raise InputError(
            f"{folder}: holds embeddings made differently ({changes}), which cannot be compared; use another store"
        )
    return EmbeddingStore(folder, embedder)


def read_store(folder: StorageFolder) -> EmbeddingStore:
    """An existing store; InputError if there is none."""
    found = read_embedder(folder)
    if found is None:
        raise InputError(f"{folder}: not an embedding store, no {STORE_FILE} in it")
    return EmbeddingStore(folder, found)


def read_embedder(folder: StorageFolder) -> EmbedderDescription | None:
    """The embedder of a store; None if there is no store, InputError if its description is invalid."""
    try:
        return parse_model(EmbedderDescription, folder.read(STORE_FILE), folder / STORE_FILE)
    except FileNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
