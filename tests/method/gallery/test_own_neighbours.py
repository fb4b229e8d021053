"""Neighbours of a set within itself: exactly against all pairs, and by an index against exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvid.retrieval.gallery import own_neighbours as module
from ccvid.retrieval.gallery import slices
from ccvid.retrieval.gallery.clusters import Presence, find_clusters
from ccvid.retrieval.gallery.neighbour_index import NeighbourIndex
from ccvid.retrieval.gallery.own_neighbours import own_neighbours
from ccvid.retrieval.gallery.reranking import reciprocal_neighbours
from ccvid.retrieval.gallery.vectors import MatrixVectors
from ccvid.retrieval.ranking.distances import CosineDistances


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INDEXED_ROWS", 170)
    monkeypatch.setattr(slices, "MOST_ROWS", 64)


def people(kind: str = "plain", tracklets: int = 300) -> np.ndarray:
    random = np.random.default_rng(0)
    centre = random.standard_normal((tracklets // 6, 16))[np.arange(tracklets) % (tracklets // 6)]
    embedding = (centre + 0.5 * random.standard_normal((tracklets, 16))).astype(np.float32)
    if kind == "duplicates":
        embedding[40:60] = embedding[40]
        embedding[70] = -embedding[71]
    return embedding


def first_rows(queries: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(queries), count), np.tile(np.arange(count), queries)


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
def test_exact_neighbours_and_largest_distances(kind: str) -> None:
    embedding = people(kind)
    found = own_neighbours(MatrixVectors(embedding), 9)
    (block,) = CosineDistances(embedding, embedding, query_block=300).blocks()
    assert np.array_equal(found.nearest_NK, np.argsort(block.values, axis=1, kind="stable")[:, :9])
    assert np.array_equal(found.largest_N, 2 * block.values.max(axis=1))


def test_equal_embeddings_have_a_largest_distance_of_1() -> None:
    assert own_neighbours(MatrixVectors(np.ones((5, 3), np.float32)), 2).largest_N.tolist() == [1.0] * 5


def test_the_index_finds_the_same_in_a_small_set(capsys: pytest.CaptureFixture[str]) -> None:
    vectors = MatrixVectors(people())
    exact, found = own_neighbours(vectors, 21), own_neighbours(vectors, 21, exact_rows=299)
    assert np.array_equal(found.nearest_NK, exact.nearest_NK)
    assert np.array_equal(found.largest_N, exact.largest_N)
    told = capsys.readouterr().out
    assert "recall of the first 21 is 100.00 %; the largest distance is too small by 0.00 %, at most 0.00 %" in told


def test_among_equal_embeddings_an_index_finds_some() -> None:
    """They stand in the order of the exact scores, each with itself."""
    embedding = people("duplicates")
    found = own_neighbours(MatrixVectors(embedding), 21, exact_rows=0).nearest_NK
    assert all(row in near for row, near in enumerate(found))
    own, row_P = CosineDistances(embedding, embedding), np.repeat(np.arange(300), 21)
    distance = own.pairs(row_P, found.ravel().astype(np.int64)).reshape(-1, 21)
    assert np.array_equal(np.lexsort((found, distance)), np.tile(np.arange(21), (300, 1)))
    assert (found == own_neighbours(MatrixVectors(embedding), 21).nearest_NK).mean() > 0.9


def test_weights_and_groups_by_the_index_equal_the_exact_ones() -> None:
    vectors, unknown = MatrixVectors(people()), Presence(np.full(300, -1), np.zeros(300), np.zeros(300))
    for exact, found in zip(
        (reciprocal_neighbours(vectors).weight_NN, find_clusters(vectors, unknown)),
        (reciprocal_neighbours(vectors, exact_rows=0).weight_NN, find_clusters(vectors, unknown, exact_rows=0)),
        strict=True,
    ):
        names = ("data", "indices", "indptr") if hasattr(exact, "indptr") else ("group_N", "medoid_M")
        assert all(np.array_equal(getattr(exact, name), getattr(found, name)) for name in names)


def test_the_number_of_threads_changes_nothing() -> None:
    vectors, before = MatrixVectors(people()), torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(reciprocal_neighbours(vectors, k1=6, k2=2, exact_rows=0).weight_NN)
    torch.set_num_threads(before)
    assert np.array_equal(found[0].data, found[1].data)
    assert np.array_equal(found[0].indices, found[1].indices)


def test_missed_neighbours_are_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index that finds only the first rows of each part, never oneself beyond them."""
    exact = own_neighbours(MatrixVectors(people()), 9)
    monkeypatch.setattr(NeighbourIndex, "candidates", lambda _, query, k: first_rows(len(query), min(k, 2)))
    found = own_neighbours(MatrixVectors(people()), 9, exact_rows=0)
    assert (found.nearest_NK[:, 5:] == -1).all()
    assert all(row in near for row, near in enumerate(found.nearest_NK))
    assert (found.largest_N <= exact.largest_N).all()
    assert "recall of the first 9 is 1" in capsys.readouterr().out
    weight = reciprocal_neighbours(MatrixVectors(people()), k1=8, k2=3, exact_rows=0).weight_NN
    np.testing.assert_allclose(weight.sum(axis=1), 1)


def test_without_usearch_all_pairs_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "has_usearch", lambda: False)
    found = own_neighbours(MatrixVectors(people()), 5, exact_rows=0)
    assert np.array_equal(found.nearest_NK, own_neighbours(MatrixVectors(people()), 5).nearest_NK)
    assert "pip install 'ccvid[ann]'" in capsys.readouterr().out
