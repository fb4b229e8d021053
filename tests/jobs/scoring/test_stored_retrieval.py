"""A retrieval over stored parts equals that of one process to the last digit, whatever the parts, tasks and order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from functools import reduce
from pathlib import Path
from pickle import PickleBuffer
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ray.cloudpickle import dumps, loads

from ccvid.config import ProtocolOptions, ScoreOptions, ThresholdOptions
from ccvid.retrieval.embedding import part_folder
from ccvid.retrieval.embedding.part_folder import PartsChangedError
from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store
from ccvid.retrieval.embedding.table import (
    EmbeddingRow,
    EmbeddingRows,
    EmbeddingTable,
    read_embeddings,
    write_embeddings,
)
from ccvid.retrieval.gallery.post_processing import compare_post_processing
from ccvid.retrieval.gallery.slices import IN_THREADS
from ccvid.retrieval.ranking import quick_counts
from ccvid.retrieval.ranking.distances import CosineDistances, Distances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import Evaluation
from ccvid.retrieval.ranking.protocols import with_own
from ccvid.retrieval.ranking.scoring import score
from ccvid.retrieval.report.charts import pair_scores
from ccvid.retrieval.report.matrices import score_matrices
from ccvid.retrieval.thresholds.find import find_thresholds
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.scoring import part_tasks, stored_distances, stored_retrieval
from ray_jobs.scoring.part_tasks import PartRunner
from ray_jobs.scoring.stored_distances import StoredDistances
from ray_jobs.scoring.stored_retrieval import StoredRetrieval, read_retrieval

Result = TypeVar("Result")

EMBEDDER = EmbedderDescription(
    model="a", dimensions=3, height=32, width=16, clip=ClipOptions(), resize_filter="bicubic", flip=False, bf16=False
)
OPTIONS = ScoreOptions(
    protocols=(
        ProtocolOptions(name="two_cameras", within={"camera": ("c0", "c1")}),
        ProtocolOptions(name="indoors", agree=("clothes",), differ=(), within={"location": ("in",)}),
    ),
    single_shot_draws=2,
    threshold=ThresholdOptions(far=0.05, draws=100, calibration="isotonic"),
)


def copied(value: Any) -> Any:
    """A copy whose arrays cannot be written to, as if it came from Ray's object store."""
    buffers: list[PickleBuffer] = []
    pickled = dumps(value, protocol=5, buffer_callback=buffers.append)  # type: ignore[no-untyped-call]
    return loads(pickled, buffers=[bytes(buffer.raw()) for buffer in buffers])


def shuffled(seed: int) -> PartRunner:
    """Tasks with any share of the groups each, done in any order; what is sent and returned is copied, as by Ray."""
    random = np.random.default_rng(seed)

    def run(
        work: Callable[..., tuple[int, Result]],
        groups: Sequence[Any],
        common: tuple[Any, ...],
        merge: Callable[[Result, Result], Result],
        what: str,
    ) -> Result:
        assert what
        order = random.permutation(len(groups))
        shares = [share for share in np.split(order, np.sort(random.integers(0, len(groups) + 1, 2))) if len(share)]
        sent = [copied((work, [groups[number] for number in share], common)) for share in shares]
        found: Result = reduce(copied(merge), [copied(task(share, *common)[1]) for task, share, common in sent])
        return found

    return run


def rows(count: int, seed: int) -> list[EmbeddingRow]:
    """Few persons, cameras and outfits, some of them unknown; a third are queries."""
    random = np.random.default_rng(seed)
    return [
        EmbeddingRow(
            id=f"{number * 7919 % count:05d}",
            person=None if number % 11 == 0 else f"p{random.integers(0, 12)}",
            clothes=None if number % 5 == 0 else f"o{random.integers(0, 2)}",
            camera=f"c{random.integers(0, 3)}",
            split=("query", "gallery", "gallery", "train")[number % 4],
            attributes={"location": "in" if number % 3 else "out"} if number % 7 else {},
            clip_count=1,
            shard="s",
        )
        for number in range(count)
    ]


def tied(count: int, seed: int) -> np.ndarray:
    """Many equal vectors, others that differ in the last bit, so that distances tie or nearly do."""
    random = np.random.default_rng(seed)
    values = random.integers(-2, 3, (count, 3)).astype(np.float32) + np.float32(0.1)
    values[::3] = np.nextafter(values[::3], np.float32(9))
    return values


def store_of(folder: Path, count: int, parts: int, seed: int = 0, *, by_split: bool = False) -> EmbeddingStore:
    """A store whose parts hold any of the rows; ``by_split``: most parts hold only labelled rows of one split."""
    store, every, values = open_store(StorageFolder(str(folder)), EMBEDDER), rows(count, seed), tied(count, seed)
    order = np.random.default_rng(parts).permutation(count)
    if by_split:
        order = np.array(sorted(order, key=lambda number: (every[number].person is None, every[number].split)))
    for own in np.array_split(order, parts):
        table = EmbeddingTable(EmbeddingRows.of(every[number] for number in own), values[own], EMBEDDER.fingerprint)
        store.add(table)
    return store


def in_memory(store: EmbeddingStore) -> tuple[CosineDistances, EmbeddingTable, EmbeddingTable]:
    """The whole gallery in one process."""
    table = store.read()
    table = table.take(np.flatnonzero(table.rows.is_known("person")))
    query, gallery = table.part("query"), table.part("gallery")
    return CosineDistances(query.embedding_ND, gallery.embedding_ND), query, gallery


def labels_of(found: StoredRetrieval) -> tuple[RetrievalLabels, RetrievalLabels]:
    return RetrievalLabels.from_rows(found.query.rows), RetrievalLabels.from_rows(found.gallery)


def results(evaluation: Evaluation) -> dict[str, list[object]]:
    return {
        name: [
            value.tolist() if isinstance(value, np.ndarray) else value
            for value in (*astuple(result)[1:-1], *astuple(result)[-1], *astuple(evaluation.ranked_gallery(name)))
        ]
        for name, result in evaluation.results.items()
    }


def everything(distances: Distances, query: RetrievalLabels, gallery: RetrievalLabels) -> list[object]:
    """All that is told of a retrieval."""
    scores = score(distances, query, gallery, OPTIONS)
    assert {"general", "clothes_changing", "same_location", "two_cameras", "indoors"} <= set(scores.evaluation.results)
    thresholds = [
        find_thresholds(
            distances, query, gallery, scores.evaluation.results[name].protocol, OPTIONS.threshold, model=""
        )
        for name in ("general", "two_cameras")
    ]
    assert all(found.calibration and found.open_set and found.recommended.threshold for found in thresholds)
    matrices = score_matrices(scores.evaluation, distances, "camera")
    return [
        scores.to_json(),
        str(results(scores.evaluation)),
        [(found.to_json(), found.calibration and found.calibration.model_dump()) for found in thresholds],
        {name: values.tolist() for name, values in pair_scores(scores.evaluation, distances).items()},
        str([(matrix.map_AB.tolist(), matrix.top1_AB.tolist(), matrix.queries_AB.tolist()) for matrix in matrices]),
    ]


@pytest.mark.parametrize(("seed", "least"), [(0, 1), (1, 4096)])
def test_everything_equals_one_process_whatever_the_parts_and_tasks(tmp_path: Path, seed: int, least: int) -> None:
    whole = store_of(tmp_path / "whole", 300, parts=1, seed=seed)
    distances, query, gallery = in_memory(whole)
    labels = [RetrievalLabels.from_rows(list(side.rows)) for side in (query, gallery)]
    with patch.object(quick_counts, "LEAST_ENTRIES", least):  # by quick scores, or by exact ones alone
        expected = everything(distances, labels[0], labels[1])
        for parts, bytes_of_a_group, large in ((9, 1, 9**9), (9, 20_000, 9**9), (20, 20_000, 10)):
            store = store_of(tmp_path / f"{parts}-{bytes_of_a_group}", 300, parts, seed, by_split=large == 10)
            with (
                patch.object(part_folder, "LARGE_BYTES", bytes_of_a_group),
                patch.object(stored_retrieval, "LARGE_TABLE", large),
            ):
                found = read_retrieval(store, run=shuffled(parts))
            assert [row.id for row in found.query.rows] == [row.id for row in query.rows]
            assert list(found.gallery) == list(gallery.rows)
            assert everything(found.distances, *labels_of(found)) == expected


def test_post_processing_equals_that_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_distances, "ClusterSlices", lambda: IN_THREADS)
    distances, query, gallery = in_memory(store_of(tmp_path / "whole", 300, parts=1))
    labels = [RetrievalLabels.from_rows(list(side.rows)) for side in (query, gallery)]
    protocols = (
        with_own(OPTIONS.protocols)[:2] + with_own(OPTIONS.protocols)[-2:]
    )  # the last two take parts of the rows
    expected = compare_post_processing(distances, labels[0], labels[1], protocols)
    found = read_retrieval(store_of(tmp_path / "parts", 300, parts=7), run=shuffled(5))
    processed = compare_post_processing(found.distances, labels[0], labels[1], protocols)
    assert len(expected) == 5
    assert len(expected[0].mean_average_precision) == 4
    assert [replace(row, seconds=0) for row in processed] == [replace(row, seconds=0) for row in expected]


def test_a_query_that_is_in_the_gallery_too_is_never_its_own_match(tmp_path: Path) -> None:
    store = store_of(tmp_path, 300, 7)
    found = read_retrieval(store, run=shuffled(3))
    gallery = RetrievalLabels.from_rows(list(found.gallery))
    some = np.arange(0, len(gallery), 3)
    gallery_ND = np.concatenate([table.embedding_ND for table in found.gallery_tables()])
    asked = replace(found.distances, query_QD=gallery_ND[some])
    expected = everything(CosineDistances(gallery_ND[some], gallery_ND), gallery.take(some), gallery)
    assert everything(asked, gallery.take(some), gallery) == expected


def test_rows_are_taken_in_any_order(tmp_path: Path) -> None:
    store = store_of(tmp_path, 200, 5)
    distances, _, _ = in_memory(store)
    found: Distances = read_retrieval(store, run=shuffled(1)).distances
    random = np.random.default_rng(0)
    for _ in range(2):
        query_rows, gallery_rows = (random.permutation(size)[: size // 2 + 1] for size in distances.shape)
        distances, found = distances.take(query_rows, gallery_rows), found.take(query_rows, gallery_rows)
        assert found.shape == distances.shape
        every = np.indices(distances.shape).reshape(2, -1)
        assert np.array_equal(found.pairs(*every), distances.pairs(*every))
    nothing = found.take(np.arange(2), np.empty(0, np.int64))
    assert nothing.shape == (2, 0)
    assert len(nothing.pairs(np.empty(0, np.int64), np.empty(0, np.int64))) == 0


def test_the_order_given_is_that_of_the_gallery(tmp_path: Path) -> None:
    """It decides ties; ids that the store lacks are left out, and so is what is not asked for."""
    store = store_of(tmp_path / "store", 200, 5)
    distances, query, gallery = in_memory(store)
    random = np.random.default_rng(2)
    chosen = [random.permutation(len(side.rows))[:-3] for side in (query, gallery)]
    ids = [
        pa.chunked_array([["none"], pc.take(side.rows.columns["id"], pa.array(rows)).combine_chunks()])
        for side, rows in zip((query, gallery), chosen, strict=True)
    ]
    found = read_retrieval(store, order=(ids[0], ids[1]), run=shuffled(4))
    sides = query.take(chosen[0]), gallery.take(chosen[1])
    labels = [RetrievalLabels.from_rows(list(side.rows)) for side in sides]
    assert everything(found.distances, *labels) == everything(distances.take(chosen[0], chosen[1]), *labels)
    write_embeddings(found.gallery_tables(), tmp_path / "gallery.parquet")
    written = read_embeddings(tmp_path / "gallery.parquet")
    assert written.rows == sides[1].rows
    assert np.array_equal(written.embedding_ND, sides[1].embedding_ND)


def test_small_ones_are_scored_in_memory_and_large_ones_in_their_parts(tmp_path: Path) -> None:
    store = store_of(tmp_path, 200, 5)
    retrieval = read_retrieval(store)
    small = retrieval.scored(OPTIONS)
    with (
        patch.object(part_tasks, "PAIRS_WORTH_SHARING", 1),
        patch("ray_jobs.scoring.stored_retrieval.on_cluster", shuffled(5)),
    ):
        large = retrieval.scored(OPTIONS)
    assert (type(small.distances), type(large.distances)) == (CosineDistances, StoredDistances)
    assert small.to_json() == large.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: None, "the embedding store is empty"),
        (lambda table: table.part("gallery"), "0 tracklets of split query and 28 of split gallery with a person label"),
        (lambda table: table.take(np.flatnonzero(~table.rows.is_known("person"))), "0 tracklets of split query and 0"),
    ],
)
def test_what_cannot_be_scored(tmp_path: Path, change: Callable[[EmbeddingTable], Any], message: str) -> None:
    table = store_of(tmp_path / "all", 60, 1).read()
    store = open_store(StorageFolder(str(tmp_path / "store")), EMBEDDER)
    if (changed := change(table)) is not None:
        store.add(changed)
    with pytest.raises(InputError, match=f"store: {message}"):
        read_retrieval(store)


def test_parts_that_are_damaged_gone_or_hold_an_id_twice_are_named(tmp_path: Path) -> None:
    store = store_of(tmp_path / "zero", 60, 3)
    values = tied(4, 0)
    values[2] = 0
    others = EmbeddingRows.of([replace(row, id=f"z{row.id}") for row in rows(4, 0)])
    store.add(EmbeddingTable(others, values, EMBEDDER.fingerprint))
    with pytest.raises(
        InputError, match=r"reading .*part-\w+\.arrow: gallery embedding row \d: largest absolute value"
    ):
        read_retrieval(store)
    store = store_of(tmp_path / "gone", 60, 3)
    found = read_retrieval(store)
    store.folder.delete(store.parts.names()[1])
    with pytest.raises(PartsChangedError, match=r"was removed or merged by another command meanwhile.*part-\w+\.arrow"):
        found.distances.pairs(np.array([0]), np.array([0]))
    first, second = store_of(tmp_path / "first", 60, 1), store_of(tmp_path / "second", 60, 3)
    for name in second.parts.names():
        with second.folder.fetched(name) as path:
            first.folder.upload(path, name)
    with pytest.raises(InputError, match=r"first: duplicate tracklet id .*, found in two parts"):
        read_retrieval(first)
