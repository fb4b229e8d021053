"""A live gallery: tracklets are added and removed in parts, and embeddings of other models are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store, read_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder

EMBEDDER = EmbedderDescription(
    model="a", dimensions=3, height=32, width=16, clip=ClipOptions(), resize_filter="bicubic", flip=False, bf16=False
)


def table_of(*ids: str, shard: str = "s") -> EmbeddingTable:
    """Tracklets PERSON/NUMBER with an embedding that encodes the id."""
    rows = tuple(EmbeddingRow(id, id.partition("/")[0], None, "c", "gallery", {}, 2, shard) for id in ids)
    values = [[len(id), *map(ord, id[-2:])] for id in ids]
    return EmbeddingTable(EmbeddingRows.of(rows), np.array(values, np.float32), EMBEDDER.fingerprint)


def contents(store: EmbeddingStore) -> dict[str, tuple[bytes, int]]:
    folder = store.folder.local
    assert folder is not None
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    store = open_store(StorageFolder(str(tmp_path / "store")), EMBEDDER)
    store.add(table_of("ann/2", "bob/1"))
    store.add(table_of("cid/1", "ann/1", shard="t"))
    return store


def test_all_parts_by_id(store: EmbeddingStore) -> None:
    table = read_store(store.folder).read()
    assert [row.id for row in table.rows] == ["ann/1", "ann/2", "bob/1", "cid/1"]
    assert table.embedding_ND[1].tolist() == [5, ord("/"), ord("2")]
    assert table.model == EMBEDDER.fingerprint


def test_what_is_added_leaves_the_rest_as_it_is(store: EmbeddingStore) -> None:
    before = contents(store)
    assert store.missing({"bob/1": "s", "dan/1": "u"}) == {"dan/1"}
    store.add(table_of("dan/1", shard="u"))
    after = contents(store)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    assert store.missing({"dan/1": "u"}) == frozenset()


def test_a_removed_person_leaves_no_trace_and_does_not_come_back(store: EmbeddingStore) -> None:
    store.add(table_of("ann/3", shard="u"))  # a separate part, which is deleted
    store.add(table_of("dan/1", shard="u"))
    before = contents(store)
    assert store.remove(persons=["ann"]) == ["ann/1", "ann/2", "ann/3"]
    after = contents(store)
    assert [row.id for row in store.read().rows] == ["bob/1", "cid/1", "dan/1"]
    assert not [name for name, (content, _) in after.items() if b"ann" in content]
    assert len(before) == len(after)  # one part was deleted, removed.json was added
    untouched = [name for name in before if after.get(name) == before[name]]
    assert len(untouched) == 2  # store.json and dan's part
    assert store.missing({"ann/1": "t", "ann/3": "u", "eva/1": "u"}) == {"eva/1"}
    assert store.remove(persons=["ann"]) == []
    assert store.remove(ids=["bob/1"]) == ["bob/1"]


def test_another_embedder_is_refused_with_what_differs(store: EmbeddingStore) -> None:
    other = EMBEDDER.model_copy(update={"model": "b", "flip": True})
    with pytest.raises(InputError, match=r"model: 'a' there, 'b' now; flip: False there, True now"):
        open_store(store.folder, other)
    stranger = EmbeddingTable(table_of("eva/1").rows, np.ones((1, 3), np.float32), other.fingerprint)
    with pytest.raises(InputError, match="embeddings made with another model or other clips"):
        store.add(stranger)


def test_the_same_id_of_other_data_is_refused(store: EmbeddingStore) -> None:
    with pytest.raises(InputError, match=r"a tracklet 'bob/1' from other shards"):
        store.missing({"bob/1": "another"})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("store.json", b"{", "store.json: top level"),
        ("store.json", b'{"model": 3}', "store.json: model"),
        ("removed.json", b"{", "removed.json: not a valid JSON list of strings"),
        ("part-0.parquet", b"PAR1", "part-0.parquet: not a readable Parquet file"),
    ],
)
def test_damaged_files_are_named(store: EmbeddingStore, file: str, content: bytes, message: str) -> None:
    store.folder.write(file, content)
    with pytest.raises(InputError, match=message):
        read_store(store.folder).missing({"x": "s"})


def test_no_store_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an embedding store"):
        read_store(StorageFolder(str(tmp_path / "none")))
    with pytest.raises(InputError, match="the embedding store is empty"):
        open_store(StorageFolder(str(tmp_path / "new")), EMBEDDER).read()


def test_an_id_in_two_parts_is_refused(store: EmbeddingStore) -> None:
    store.add(table_of("bob/1"))
    with pytest.raises(InputError, match="duplicate tracklet id 'bob/1'"):
        store.read()
