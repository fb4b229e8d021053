"""Neighbours, weights and groups of a stored gallery are those of its embeddings in memory, to the bit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from ccvid.retrieval.embedding.part_folder import PartFolder, PartsChangedError
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery import own_neighbours as neighbours_module
from ccvid.retrieval.gallery import slices, vectors
from ccvid.retrieval.gallery.adaptation import GalleryChange, expand_queries, gallery_centroids, subtract_camera_means
from ccvid.retrieval.gallery.clusters import Presence, find_clusters
from ccvid.retrieval.gallery.own_neighbours import own_neighbours
from ccvid.retrieval.gallery.reranking import re_rank, reciprocal_neighbours
from ccvid.retrieval.gallery.vectors import JoinedVectors, MatrixVectors, StoredVectors, Vectors, read_stored
from ccvid.retrieval.ranking.distances import CosineDistances
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from tests.method.gallery.test_reranking import blocks

ROWS, DIMENSIONS = 90, 6


def gallery(kind: str) -> EmbeddingTable:
    random = np.random.default_rng(3)
    centre = random.standard_normal((ROWS // 5, DIMENSIONS))[np.arange(ROWS) % (ROWS // 5)]
    embedding = (centre + 0.4 * random.standard_normal(centre.shape)).astype(np.float32)
    if kind == "ties":
        embedding = (random.integers(-1, 2, embedding.shape) + 0.5).astype(np.float32)
    if kind == "duplicates":
        embedding[20:50] = embedding[20]
        embedding[60:70] = embedding[60] * np.float32(1 + 2**-20)
        embedding[70] = -embedding[71]
    rows = EmbeddingRows.of(
        EmbeddingRow(
            f"{number:03}",
            None,
            None,
            "c",
            "gallery",
            {"video": f"v{number % 7}", "start_seconds": f"{number % 30}", "end_seconds": f"{number % 30 + 4}"},
            1,
            "s",
        )
        for number in range(ROWS)
    )
    return EmbeddingTable(rows, embedding, "m")


def stored(table: EmbeddingTable, part_N: np.ndarray, folder: Path) -> PartFolder:
    """The rows of each part in a part of its own."""
    parts = PartFolder(StorageFolder(str(folder)), "m", DIMENSIONS)
    for number in np.unique(part_N).tolist():
        parts.write(table.take(np.flatnonzero(part_N == number)))
    return parts


def everything(found: Vectors, presence: Presence, exact_rows: int) -> list[np.ndarray]:
    weights = reciprocal_neighbours(found, k1=7, k2=3, exact_rows=exact_rows)
    clusters = find_clusters(found, presence, exact_rows=exact_rows)
    matrix = weights.weight_NN
    return [matrix.data, matrix.indices, matrix.indptr, weights.largest_N, clusters.group_N, clusters.medoid_M]


@pytest.mark.parametrize("kind", ["plain", "ties", "duplicates"])
@pytest.mark.parametrize("exact_rows", [ROWS, 0])
def test_any_parts_and_slices(kind: str, exact_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours_module, "INDEXED_ROWS", 40)
    table = gallery(kind)
    presence = Presence.of(table.rows)
    expected = everything(MatrixVectors(table.embedding_ND), presence, exact_rows)
    random = np.random.default_rng(0)
    partitions = [np.zeros(ROWS, np.int64), random.integers(0, 3, ROWS), np.arange(ROWS) // 50]
    for number, part_N in enumerate(partitions):
        monkeypatch.setattr(slices, "MOST_ROWS", [256, 29, 64][number])
        monkeypatch.setattr(vectors, "PAIRS", [2048, 100, 31][number])
        rows, found = read_stored(stored(table, part_N, tmp_path / str(number)))
        assert rows == table.rows
        assert all(map(np.array_equal, everything(pickle.loads(pickle.dumps(found)), presence, exact_rows), expected))


def test_queries_and_gallery_of_a_store(tmp_path: Path) -> None:
    table = gallery("plain")
    _, found = read_stored(stored(table, np.arange(ROWS) % 3, tmp_path))
    query, entry = np.arange(7, 40, 3), np.arange(ROWS - 1, -1, -2)
    base = CosineDistances(table.embedding_ND[query], table.embedding_ND[entry])
    sides = MatrixVectors(table.embedding_ND[query]), MatrixVectors(table.embedding_ND[entry])
    (expected,) = blocks(re_rank(base, JoinedVectors(*sides)))
    for every in (found.rows(np.concatenate((query, entry))), JoinedVectors(sides[0], found.rows(entry))):
        (block,) = blocks(re_rank(base, every))
        assert np.array_equal(block.values, expected.values)


def test_methods_before_ranking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stored gallery, as of one in memory; also where rows are asked for in several calls."""
    table, memory = gallery("duplicates"), MatrixVectors(gallery("duplicates").embedding_ND)
    cameras = [f"c{number % 4}" for number in range(ROWS + 9)]
    query, rows = table.embedding_ND[:9] + np.float32(0.1), np.arange(ROWS)

    def adapted(entries: Vectors, parts: list[np.ndarray]) -> list[np.ndarray]:
        moved, change = subtract_camera_means(query, entries, cameras[:9], cameras[9:])
        changes: list[GalleryChange] = [change, gallery_centroids(entries)]
        changed = [np.concatenate([one(part, table.embedding_ND[part]) for part in parts]) for one in changes]
        return [expand_queries(query, entries), moved, *changed]

    expected = adapted(memory, [rows])
    assert all(np.isfinite(values).all() for values in expected), "of 30 equal ones, some are not their own neighbours"
    for number, part_N in enumerate((rows % 3, rows // 31)):
        monkeypatch.setattr(slices, "MOST_ROWS", [7, 64][number])
        _, found = read_stored(stored(table, part_N, tmp_path / str(number)))
        assert all(map(np.array_equal, adapted(found, np.array_split(rows, 4)), expected))


def test_rows_are_taken_and_gone_through_in_order() -> None:
    first, second = np.arange(8, dtype=np.float32).reshape(4, 2) + 1, -np.arange(6, dtype=np.float32).reshape(3, 2) - 1
    with JoinedVectors(MatrixVectors(first), MatrixVectors(second)).opened() as opened:
        assert np.array_equal(opened.take(np.array([5, 0, 5])), [second[1], first[0], second[1]])
        assert [rows.tolist() for rows, _ in opened.each()] == [[0, 1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (0, "largest absolute value is 0.0")])
def test_a_useless_embedding_is_named(value: float, text: str, tmp_path: Path) -> None:
    table = gallery("plain")
    parts = stored(table, np.arange(ROWS) % 2, tmp_path)
    path = sorted(tmp_path.glob("*.arrow"))[1]
    content = path.read_bytes()
    row = next(row for row in table.embedding_ND if row.tobytes() in content)
    path.write_bytes(content.replace(row.tobytes(), np.full_like(row, value).tobytes()))
    with pytest.raises(InputError, match=rf"{path}: (query|gallery) embedding row 0.* {text}"):
        read_stored(parts)


def test_stores_that_are_refused(tmp_path: Path) -> None:
    table = gallery("plain")
    with pytest.raises(InputError, match="the embedding store is empty"):
        read_stored(PartFolder(StorageFolder(str(tmp_path)), "m", DIMENSIONS))
    parts = stored(table, np.arange(ROWS) % 2, tmp_path)
    _, found = read_stored(parts)
    parts.write(table.take([4]))
    with pytest.raises(InputError, match=f"{tmp_path}: duplicate tracklet id '004', found in two parts"):
        read_stored(parts)
    (tmp_path / found.names[0]).unlink()
    with pytest.raises(
        PartsChangedError, match=f"was removed or merged by another command meanwhile.*{found.names[0]}"
    ):
        own_neighbours(found, 3)


def test_a_stored_gallery_holds_only_where_its_rows_are(tmp_path: Path) -> None:
    _, found = read_stored(stored(gallery("plain"), np.arange(ROWS) % 2, tmp_path))
    assert isinstance(found, StoredVectors)
    assert found.shape == (ROWS, DIMENSIONS)
    assert len(pickle.dumps(found)) < 8 * ROWS + 1500
