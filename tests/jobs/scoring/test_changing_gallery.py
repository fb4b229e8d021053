"""A gallery that changes while it is read: the removal wins, a merge and an addition change nothing."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from ccvid.config import Recipe, RunOptions, ScoreOptions
from ccvid.retrieval.embedding import part_folder
from ccvid.retrieval.embedding.part_folder import PartsChangedError
from ccvid.retrieval.embedding.store import REMOVED_FILE, EmbeddingStore, digest_of, open_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery.clusters import Presence, find_clusters
from ccvid.retrieval.gallery.vectors import MatrixVectors, read_stored
from ccvid.retrieval.ranking.scoring import score
from ccvid.retrieval.results import write_results
from ccvid.run_files import METRICS_FILE, QUERIES_FILE, SCORED
from data_tools import storage_lock
from data_tools.shard_cache import CacheOptions
from data_tools.storage import StorageFolder
from ray_jobs.scoring import changing_gallery, evaluation, part_tasks
from ray_jobs.scoring.changing_gallery import although_it_changes
from ray_jobs.scoring.entries import EntryFilter
from ray_jobs.scoring.evaluation import score_store
from ray_jobs.scoring.gallery_search import GallerySearch, search_gallery
from ray_jobs.scoring.kept_data import Places, _find_part_copies, _remove_part_copies
from ray_jobs.scoring.named_rows import Named
from ray_jobs.scoring.stored_retrieval import StoredRetrieval, read_retrieval
from tests.jobs.scoring.test_stored_retrieval import EMBEDDER, OPTIONS, labels_of, shuffled, store_of
from tests.s3_server import S3Server

Change = Callable[[EmbeddingStore], None]


def remove(store: EmbeddingStore) -> None:
    assert store.remove(persons=["p3"])


def merge(store: EmbeddingStore) -> None:
    with patch.object(part_folder, "LARGE_BYTES", 2**26):
        store.merge_small_parts()
    assert len(store.parts.names()) == 1


def add(store: EmbeddingStore) -> None:
    row = EmbeddingRow("new", "p3", None, "c0", "train", {}, 1, "s")
    store.add(EmbeddingTable(EmbeddingRows.of([row]), np.ones((1, 3), np.float32), EMBEDDER.fingerprint))


CHANGES = [
    pytest.param(remove, 2, id="removal"),
    pytest.param(merge, 2, id="merge"),
    pytest.param(add, 1, id="addition"),
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingStore:
    """Of seven small parts, which may be merged."""
    monkeypatch.setattr(part_folder, "MOST_SMALL_PARTS", 3)
    return store_of(tmp_path / "gallery", 300, 7)


def once(change: Change, store: EmbeddingStore) -> Callable[[], int]:
    """Changes the store when it is first called; returns how often it was called."""
    calls = 0

    def changing() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            change(store)
        return calls

    return changing


def figures(found: StoredRetrieval) -> dict[str, object]:
    return score(found.distances, *labels_of(found), ScoreOptions()).to_json()


@pytest.mark.parametrize("when", ["before", "between", "after"])
@pytest.mark.parametrize(("change", "attempts"), CHANGES)
def test_an_evaluation(
    store: EmbeddingStore, change: Change, attempts: int, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the labels are read, before anything is compared, and after."""
    changing = once(change, store)

    def scored(now: EmbeddingStore) -> tuple[int, dict[str, object]]:
        calls = changing() if when == "before" else 0
        found = read_retrieval(now, run=shuffled(1))
        calls = changing() if when == "between" else calls
        made = figures(found)
        return changing() if when == "after" else calls, made

    calls, made = although_it_changes(store, scored)
    after = read_retrieval(store, run=shuffled(2))
    assert made == figures(after)
    assert calls == attempts
    assert capsys.readouterr().out.count("starting anew") == attempts - 1
    assert ("p3" in {row.person for row in after.gallery}) == (change is not remove)


@pytest.mark.parametrize(("change", "attempts"), CHANGES)
def test_groups(store: EmbeddingStore, change: Change, attempts: int) -> None:
    changing = once(change, store)

    def grouped(now: EmbeddingStore) -> tuple[int, list[str], list[int]]:
        rows, vectors = read_stored(now.parts)
        calls = changing()
        return calls, rows.values("id"), find_clusters(vectors, Presence.of(rows)).group_N.tolist()

    calls, ids, group_N = although_it_changes(store, grouped)
    table = store.read()
    if change is add:
        table = table.take(np.flatnonzero(~table.rows.is_in("id", ["new"])))
    assert calls == attempts
    assert ids == table.rows.values("id")
    assert group_N == find_clusters(MatrixVectors(table.embedding_ND), Presence.of(table.rows)).group_N.tolist()


@pytest.mark.parametrize("change", [remove, merge])
def test_a_search(store: EmbeddingStore, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed between one group of parts and the next."""
    monkeypatch.setattr(part_folder, "LARGE_BYTES", 1)
    queries, opened_parts, changing = store.read().part("query"), part_tasks.opened_parts, once(change, store)
    asked = GallerySearch(store, queries, EntryFilter(), 9, ("id",))
    opened = lambda *arguments: (changing(), opened_parts(*arguments))[1]  # noqa: E731
    with patch("ray_jobs.scoring.gallery_search.opened_parts", opened):
        found = although_it_changes(store, lambda now: search_gallery(replace(asked, store=now)))
    expected = search_gallery(asked)
    assert found.found.rows == expected.found.rows
    assert np.array_equal(found.found.nearest.gallery_QK, expected.found.nearest.gallery_QK)
    assert found.ranked == expected.ranked


def test_another_gallery_that_is_read_too(store: EmbeddingStore, tmp_path: Path) -> None:
    queries = store_of(tmp_path / "queries", 30, 2)
    changing = once(remove, queries)

    def read(_: EmbeddingStore) -> list[str]:
        persons = queries.read().rows.values("person")
        changing()
        return persons

    assert "p3" not in although_it_changes(store, read, also=[queries])
    assert changing() == 3


def recipe_of(folder: Path) -> Recipe:
    score = ScoreOptions(report=False, threshold=OPTIONS.threshold)
    return Recipe(run=RunOptions(name="scores", storage=str(folder / "runs")), score=score)


def test_who_is_removed_while_results_are_written_is_not_in_them(
    store: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = once(remove, store)
    results = StorageFolder(str(tmp_path / "runs" / "scores"))
    monkeypatch.setattr(evaluation, "write_results", lambda *a, **k: (write_results(*a, **k), changing())[0])
    queries = {id for row in store.read().rows if (id := row.id) and row.person == "p3" and row.split == "query"}
    score_store(recipe_of(tmp_path), store.folder, results)
    written = b"".join(results.read(name) for name in results.names())
    assert changing() == 3
    assert queries
    assert not [id for id in queries if id.encode() in written]
    score_store(recipe_of(tmp_path / "again"), store.folder, StorageFolder(str(tmp_path / "again")))
    assert results.read(QUERIES_FILE) == StorageFolder(str(tmp_path / "again")).read(QUERIES_FILE)


def test_one_that_changes_each_time_is_an_error_and_leaves_nothing(
    store: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = StorageFolder(str(tmp_path / "runs" / "scores"))

    def write_and_remove(*arguments: object, **options: object) -> None:
        write_results(*arguments, **options)  # type: ignore[arg-type]
        assert results.exists(METRICS_FILE)
        store.remove(ids=[store.read().rows[0].id])

    monkeypatch.setattr(changing_gallery, "ATTEMPTS", 2)
    monkeypatch.setattr(evaluation, "write_results", write_and_remove)
    with pytest.raises(PartsChangedError, match="was removed or merged by another command meanwhile"):
        score_store(recipe_of(tmp_path), store.folder, results)
    assert not {*results.names()} & {*SCORED}


@pytest.fixture
def remote(s3: S3Server, tmp_path: Path) -> EmbeddingStore:
    """A gallery of seven parts on object storage, whose node has a cache."""
    local, folder = store_of(tmp_path / "local", 300, 7), StorageFolder(s3.bucket()) / "gallery"
    assert local.folder.local is not None
    folder.upload_folder(local.folder.local)
    return open_store(folder, EMBEDDER, CacheOptions(folder=tmp_path / "cache"))


def part_reads(s3: S3Server, action: Callable[[], object]) -> list[str]:
    """The parts that were downloaded, each as often as it was."""
    before = len(s3.reads())
    action()
    return sorted(name for path in s3.reads()[before:] for name in re.findall(r"part-\w+\.arrow$", path))


@pytest.mark.slow
def test_a_node_downloads_each_part_once_and_only_those_it_needs(s3: S3Server, remote: EmbeddingStore) -> None:
    names = remote.parts.names()
    rows, vectors = read_stored(replace(remote, cache=None).parts)

    def take(part: int) -> np.ndarray:
        with replace(vectors, parts=remote.parts).opened() as opened:
            return opened.take(np.flatnonzero(vectors.matrix_N == part)[:2])

    assert part_reads(s3, lambda: take(3)) == [names[3]]
    assert part_reads(s3, lambda: [take(part) for part in (3, 5)]) == [names[5]]
    others = [name for number, name in enumerate(names) if number not in (3, 5)]

    def grouped_and_scored() -> dict[str, object]:
        rows, stored = read_stored(remote.parts)
        find_clusters(stored, Presence.of(rows))
        return figures(read_retrieval(remote, run=shuffled(3)))

    assert part_reads(s3, grouped_and_scored) == others
    assert len(rows) == 300


@pytest.mark.slow
def test_copies_on_the_node_are_forgotten(
    remote: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_jobs.scoring.kept_data.connect", lambda: None)
    monkeypatch.setattr("ray_jobs.scoring.kept_data.on_every_node", lambda work, *given: {"here": work(*given)})
    assert remote.cache is not None
    named = Named(frozenset(), frozenset({"p3"}))
    places = Places(remote, StorageFolder(str(tmp_path)), (), remote.cache)
    count = int(remote.read().rows.is_in("person", ["p3"]).sum())
    held = list(_find_part_copies(places, named))
    assert sum(each.rows or 0 for each in held) == count
    remote.remove(persons=["p3"])
    remote.read()  # copies of what is there now, beside those of what is gone
    assert sum(each.rows or 0 for each in _find_part_copies(places, named)) == count
    _remove_part_copies(places, named)
    assert list(_find_part_copies(places, named)) == []
    assert {*tmp_path.glob("cache/files/*/*-part-*")}, "those of others stay"


@pytest.mark.slow
def test_writers_on_object_storage_take_turns(remote: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that has read what is being removed would bring it back."""
    monkeypatch.setattr(storage_lock, "PAUSE_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(part_folder, "MOST_SMALL_PARTS", 3)
    replace_parts, merging, removed = part_folder.PartFolder.replace, threading.Event(), threading.Event()

    def remove_meanwhile() -> None:
        remove(remote)
        removed.set()

    remover = threading.Thread(target=remove_meanwhile)

    def slowly(parts: part_folder.PartFolder, names: list[str], table: EmbeddingTable) -> None:
        if not merging.is_set():
            merging.set()
            remover.start()
            assert not removed.wait(0.5)
        replace_parts(parts, names, table)

    monkeypatch.setattr(part_folder.PartFolder, "replace", slowly)
    remote.merge_small_parts()
    remover.join()
    rows = remote.read().rows
    assert "p3" not in rows.values("person")
    assert len(rows) > 200
    assert not [name for name in remote.folder.names() if name.startswith(".writing")]


@pytest.mark.slow
def test_two_jobs_that_add_the_same_to_object_storage_add_it_once(
    remote: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_lock, "PAUSE_SECONDS", (0.05, 0.2))
    rows = EmbeddingRows.of(EmbeddingRow(f"x{n}", None, None, "c0", "gallery", {}, 1, "s") for n in range(4))
    table = EmbeddingTable(rows, np.ones((4, 3), np.float32), EMBEDDER.fingerprint)

    def embed(wanted: list[int]) -> None:
        with remote.adding():
            lacking = remote.missing({f"x{number}": "s" for number in wanted})
            time.sleep(0.2)
            for number in wanted:  # a part each, as by several workers
                if f"x{number}" in lacking:
                    remote.add(table.take([number]))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(embed, ([0, 1, 2], [1, 2, 3])))
    assert [id for id in remote.read().rows.values("id") if id.startswith("x")] == ["x0", "x1", "x2", "x3"]


@pytest.mark.slow
@pytest.mark.parametrize("noted", ["before", "after", "not yet"])
def test_an_addition_on_object_storage_does_not_bring_back_who_is_removed_meanwhile(
    remote: EmbeddingStore, noted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noted before the part is written, or after by a removal that did not see it; or seen before it is noted."""
    rows = [EmbeddingRow(f"x{n}", f"p{98 + n}", None, "c0", "gallery", {}, 1, "s") for n in (1, 2)]
    table = EmbeddingTable(EmbeddingRows.of(rows), np.ones((2, 3), np.float32), EMBEDDER.fingerprint)
    write, first = part_folder.PartFolder.write, True

    def write_and_note(parts: part_folder.PartFolder, written: EmbeddingTable) -> None:
        nonlocal first
        is_first, first = first, False
        if noted == "before" and is_first:
            remote.remove(ids=["x1"])
        write(parts, written)
        if noted == "after" and is_first:
            remote.folder.write(REMOVED_FILE, json.dumps([digest_of("x1")]).encode())

    def find_and_add(store: EmbeddingStore, **asked: list[str]) -> dict[str, list[str]]:
        nonlocal first
        is_first, first = first, False
        seen = found(store, **asked)
        if is_first:
            remote.add(table)
        return seen

    if noted == "not yet":
        found = EmbeddingStore.found
        monkeypatch.setattr(EmbeddingStore, "found", find_and_add)
        assert "x1" in remote.remove(persons=["p99"])
    else:
        monkeypatch.setattr(part_folder.PartFolder, "write", write_and_note)
        remote.add(table)
    ids = remote.read().rows.values("id")
    assert "x2" in ids
    assert "x1" not in ids
