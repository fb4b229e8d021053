"""A live gallery: tracklets are added and removed in parts, and embeddings of other models are refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store, read_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable, write_embeddings
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder

EMBEDDER = EmbedderDescription(
    model="a", dimensions=3, height=32, width=16, clip=ClipOptions(), resize_filter="bicubic", flip=False, bf16=False
)


def table_of(*ids: str, shard: str = "s") -> EmbeddingTable:
    """Tracklets PERSON/NUMBER with an embedding that encodes the id."""
    rows = tuple(EmbeddingRow(id, id.partition("/")[0], None, "c", "gallery", {}, 2, shard) for id in ids)
    values = [[ord(id[0]), *map(ord, id[-2:])] for id in ids]
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
    assert table.embedding_ND[1].tolist() == [ord("a"), ord("/"), ord("2")]
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
    store.folder.write(".part-0.arrow.x.tmp", b"begun by a killed writer, with ann")
    traces = [b"ann", *(table_of(id).embedding_ND.tobytes() for id in ("ann/1", "ann/2", "ann/3"))]
    before = contents(store)
    assert all(any(trace in content for content, _ in before.values()) for trace in traces)
    assert store.remove(persons=["ann"]) == ["ann/1", "ann/2", "ann/3"]
    after = contents(store)
    assert [row.id for row in store.read().rows] == ["bob/1", "cid/1", "dan/1"]
    assert not [name for name, (content, _) in after.items() for trace in traces if trace in content]
    untouched = [name for name in before if after.get(name) == before[name]]
    assert len([name for name in untouched if name.startswith("part-")]) == 1  # dan's
    assert store.missing({"ann/1": "t", "ann/3": "u", "eva/1": "u"}) == {"eva/1"}
    assert store.remove(persons=["ann"]) == []
    assert store.remove(ids=["bob/1"]) == ["bob/1"]


@pytest.mark.parametrize("write", ["replacing.json", "part-"])
def test_a_removal_killed_between_two_writes_is_completed(
    store: EmbeddingStore, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after ``write``: everybody else is there once, and the same call finishes."""
    new_file = StorageFolder.new_file

    @contextmanager
    def until(folder: StorageFolder, name: str) -> Iterator[Path]:
        with new_file(folder, name) as path:
            yield path
        if name.startswith(write):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StorageFolder, "new_file", until)
        with pytest.raises(KeyboardInterrupt):
            store.remove(persons=["ann"])
    assert {"bob/1", "cid/1"} <= {row.id for row in store.read().rows}
    store.remove(persons=["ann"])
    assert [row.id for row in store.read().rows] == ["bob/1", "cid/1"]
    assert not [name for name, (content, _) in contents(store).items() if b"ann" in content]
    assert "replacing.json" not in store.folder.names()


def test_many_small_parts_become_a_large_one(store: EmbeddingStore) -> None:
    for number in range(20):
        store.add(table_of(f"dan/{number}", shard="u"))
    before = store.read()
    store.merge_small_parts()
    after = store.read()
    assert len(store.parts.names()) == 1
    assert after.rows == before.rows
    assert np.array_equal(after.embedding_ND, before.embedding_ND)
    store.merge_small_parts()  # few parts stay as they are
    assert store.missing({"dan/7": "u", "dan/77": "u"}) == {"dan/77"}


def test_two_writers_at_once_lose_and_repeat_nothing(store: EmbeddingStore) -> None:
    tables = [table_of(*(f"eva/{number}" for number in range(first, first + 8))) for first in range(0, 24, 4)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(store.add, tables))
    assert len(store.read().rows) == 4 + 28


def test_a_store_of_an_earlier_version_is_read_and_rewritten(store: EmbeddingStore) -> None:
    """Its parts are Parquet, and its description has no layout."""
    folder = store.folder.local
    assert folder is not None
    (folder / "store.json").write_text(EMBEDDER.model_dump_json())
    old = table_of("eva/1", "eva/2", "fay/1", shard="v")
    write_embeddings([old], folder / "part-0.parquet")
    assert [row.id for row in store.read().rows][-3:] == ["eva/1", "eva/2", "fay/1"]
    assert store.missing({"eva/1": "v", "new": "v"}) == {"new"}
    assert "layout" not in (folder / "store.json").read_text()
    assert store.remove(persons=["eva"]) == ["eva/1", "eva/2"]
    assert "part-0.parquet" not in store.folder.names()
    assert [row.id for row in store.read().rows][-1] == "fay/1"
    assert '"layout": 2' in (folder / "store.json").read_text()
    assert read_store(store.folder).embedder == EMBEDDER


def test_opening_a_part_maps_it(store: EmbeddingStore) -> None:
    for _, part in store.parts.each():
        assert not part.embedding_ND.flags.writeable
        assert not part.embedding_ND.flags.owndata
        assert part.values("camera") == {"c"}


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
        ("store.json", b"{", "store.json: not readable as JSON"),
        (
            "store.json",
            b'{"layout": 3}',
            r"store.json: written by a newer version .*layout 3; this version reads up to 2",
        ),
        ("replacing.json", b'{"into": "part-0.arrow", "replaced": ["../x"]}', "replacing.json: replaced"),
        ("store.json", b'{"model": 3}', "store.json: model"),
        ("removed.json", b"{", "removed.json: not a valid JSON list of strings"),
        ("part-0.parquet", b"PAR1", "part-0.parquet: not a readable Parquet file"),
        ("part-0.arrow", b"ARROW1", "part-0.arrow: not a readable part of embeddings"),
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
    """As two writers on object storage might do."""
    store.parts.write(table_of("bob/1"))
    with pytest.raises(InputError, match="duplicate tracklet id 'bob/1'"):
        store.read()
