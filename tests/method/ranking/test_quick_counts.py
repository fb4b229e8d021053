"""Ranks counted from quick scores equal those of a dense float64 matrix, for any embeddings, blocks and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ccvid.retrieval.ranking import nearest, quick_counts, threshold_counts
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix, Floats, Indices, on_grid
from ccvid.retrieval.ranking.nearest import NearestOthers
from ccvid.retrieval.ranking.quick_scores import quick_error
from ccvid.retrieval.ranking.ranks import PersonPairs, count_before, rank_persons
from ccvid.retrieval.ranking.threshold_counts import MOST_THRESHOLDS, Thresholds

Embeddings = npt.NDArray[np.float32]
KINDS = ("random", "ties", "duplicates", "one unit apart", "within the error", "few bins", "the same", "axes")


def made(kind: str, rows: int, dimensions: int, seed: int) -> Embeddings:
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, dimensions)).astype(np.float32)
    if kind == "ties":
        values = random.integers(-1, 2, (rows, dimensions)).astype(np.float32) + np.float32(0.25)
    elif kind == "duplicates":  # of few directions, at lengths that are powers of two: bit-identical
        values = values[random.integers(0, 9, rows)] * np.float32(2.0) ** random.integers(0, 3, (rows, 1))
    elif kind == "one unit apart":  # of the grid, in one coordinate
        values = np.repeat(values[:1] / np.linalg.norm(values[0]), rows, axis=0)
        values[np.arange(rows), random.integers(0, dimensions, rows)] += np.float32(2.0**-26) * random.integers(
            -1, 2, rows
        )
    elif kind == "within the error":
        values = values[:1] + values * np.float32(1e-6)
    elif kind == "few bins":
        values = values[:1] + values * np.float32(2e-3)
    elif kind == "the same":
        values = np.repeat(values[:1], rows, axis=0)
    elif kind == "axes":  # scores −1, 0 and 1 exactly
        values = np.eye(dimensions, dtype=np.float32)[random.integers(0, dimensions, rows)]
        values *= random.choice([-3.0, 0.5], (rows, 1))
    return values.astype(np.float32)


@contextmanager
def limits(query_block: int = 1024, gallery_block: int = 4096, **others: int) -> Iterator[None]:
    """Blocks of other sizes, for galleries of any size."""
    with ExitStack() as stack:
        for name, value in {"QUERY_BLOCK": query_block, "GALLERY_BLOCK": gallery_block, "LEAST_ENTRIES": 0}.items():
            stack.enter_context(patch.object(quick_counts, name, value))
        for name, value in others.items():
            module = next(m for m in (quick_counts, threshold_counts, nearest) if hasattr(m, name))
            stack.enter_context(patch.object(module, name, value))
        yield


def dense(query_QD: Embeddings, gallery_GD: Embeddings) -> DistanceMatrix:
    return DistanceMatrix(1.0 - on_grid(query_QD) @ on_grid(gallery_GD).T)


def assert_same(found: tuple[PersonPairs, NearestOthers], expected: tuple[PersonPairs, NearestOthers]) -> None:
    for mine, theirs in zip(
        (*astuple(found[0]), *astuple(found[1])), (*astuple(expected[0]), *astuple(expected[1])), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def assert_same_ranks(
    query_QD: Embeddings, gallery_GD: Embeddings, persons: tuple[Indices, Indices], kept: int = 7
) -> None:
    """All that ``rank_persons`` gives is that of the dense matrix, and quick scores were used for it."""
    expected = rank_persons(dense(query_QD, gallery_GD), *persons, kept)
    with patch.object(CosineDistances, "blocks", side_effect=AssertionError("exact distances of all pairs")):
        found = rank_persons(CosineDistances(query_QD, gallery_GD), *persons, kept)
    assert_same(found, expected)


def some_persons(queries: int, entries: int, persons: int) -> tuple[Indices, Indices]:
    random = np.random.default_rng(0)
    return random.integers(0, persons, queries), random.integers(0, persons, entries)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocks", [(1024, 4096), (1, 100), (20, 9), (16, 130)])
def test_equals_the_dense_matrix(kind: str, blocks: tuple[int, int]) -> None:
    query_QD, gallery_GD = made(kind, 37, 24, 0), made(kind, 211, 24, 1)
    gallery_GD[:9] = query_QD[:9]  # the queries themselves, at distance 0
    with limits(*blocks):
        assert_same_ranks(query_QD, gallery_GD, some_persons(37, 211, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_is_a_threshold(kind: str) -> None:
    query_QD, gallery_GD = made(kind, 70, 24, 16), made(kind, 300, 24, 17)
    gallery_GD[:9] = query_QD[:9]
    with limits(gallery_block=111):
        assert_same_ranks(query_QD, gallery_GD, some_persons(70, 300, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [1, 2, 513])
def test_any_number_of_dimensions(kind: str, dimensions: int) -> None:
    query_QD, gallery_GD = made(kind, 20, dimensions, 2), made(kind, 150, dimensions, 3)
    with limits(gallery_block=64):
        assert_same_ranks(query_QD, gallery_GD, some_persons(20, 150, 5))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", ["duplicates", "within the error"])
def test_any_number_of_threads(threads: int, kind: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with limits(8, 50):
            assert_same_ranks(made(kind, 41, 16, 4), made(kind, 120, 16, 5), some_persons(41, 120, 4))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("queries", "entries", "persons"), [(1, 1, 1), (1, 300, 5), (60, 1, 3), (3, 4, 9)])
def test_small_sides_and_persons_without_entries(queries: int, entries: int, persons: int) -> None:
    with limits():
        labels = some_persons(queries, entries, persons)
        assert_same_ranks(made("random", queries, 8, 6), made("random", entries, 8, 7), labels)


def test_a_query_with_many_entries_beside_others() -> None:
    """Those with more than ``MOST_THRESHOLDS`` are counted from exact distances of all pairs."""
    query_QD, gallery_GD = made("duplicates", 12, 16, 8), made("ties", 1500, 16, 9)
    persons = np.arange(12) % 3, np.where(np.arange(1500) < 1100, 0, 1 + np.arange(1500) % 90)
    assert MOST_THRESHOLDS < 1100
    with limits(gallery_block=300):
        expected = rank_persons(dense(query_QD, gallery_GD), *persons, 9)
        found = rank_persons(CosineDistances(query_QD, gallery_GD), *persons, 9)
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["within the error", "the same"])
def test_what_is_in_doubt_is_settled_in_bounded_pieces(kind: str) -> None:
    query_QD, gallery_GD = made(kind, 64, 16, 10), made(kind, 500, 16, 11)
    settled: list[int] = []
    settle = threshold_counts.ThresholdCounter._settle

    def counted(self: threshold_counts.ThresholdCounter, *doubts: npt.NDArray[np.int64]) -> None:
        settled.append(len(doubts[-1]))
        settle(self, *doubts)  # type: ignore[arg-type]

    with (
        limits(64, 100, MOST_DOUBTS=100, MOST_KEPT=50),
        patch.object(threshold_counts.ThresholdCounter, "_settle", counted),
    ):
        assert_same_ranks(query_QD, gallery_GD, some_persons(64, 500, 8))
    assert max(settled) <= 100 + threshold_counts.FEW_QUERIES * 100
    assert sum(settled) >= 64 * 500 / 2  # float32 cannot tell most of them apart


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [(100,), (1, 2, 150)])
def test_counts_over_parts_of_the_gallery_add_up(kind: str, cuts: tuple[int, ...]) -> None:
    query_QD, gallery_GD = made(kind, 9, 12, 14), made(kind, 200, 12, 15)
    pairs, _ = rank_persons(dense(query_QD, gallery_GD), *some_persons(9, 200, 3), 0)
    thresholds = Thresholds(pairs.first, pairs.distance, pairs.gallery)
    with limits():
        whole = count_before(CosineDistances(query_QD, gallery_GD), thresholds)
        parts = sum(
            count_before(
                CosineDistances(query_QD, gallery_GD[start:stop]),
                Thresholds(pairs.first, pairs.distance, pairs.gallery - start),
            )
            for start, stop in zip((0, *cuts), (*cuts, 200), strict=True)
        )
    own_before = np.arange(len(pairs.query)) - pairs.first[pairs.query]
    np.testing.assert_array_equal(whole, pairs.wrong_before + own_before)
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("dimensions", [1, 3, 64, 2048])
def test_no_quick_score_errs_by_more_than_the_bound(dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    values: Floats = random.normal(size=(80, dimensions)) * 10.0 ** random.uniform(-6, 0, (80, dimensions))
    exact_ND = on_grid(np.concatenate((values, np.ones((1, dimensions)), -values[:3])))
    quick = torch.from_numpy(exact_ND).float()
    exact_NN = exact_ND @ exact_ND.T
    assert (np.abs((quick @ quick.T).double().numpy() - exact_NN) <= quick_error(dimensions, exact_NN)).all()
