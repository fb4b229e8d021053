"""The first k of a gallery: those of the exact scores, for every block size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ccvid.retrieval.gallery.candidates import copied_ahead
from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking import nearest
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices
from ccvid.retrieval.ranking.nearest import NearestEntries
from ccvid.retrieval.ranking.quick_scores import margin
from data_tools.errors import InputError


def dense(query: np.ndarray, gallery: np.ndarray, k: int, left_out: np.ndarray | None = None) -> NearestEntries:
    """By a stable sort of the whole exact matrix."""
    rows, columns = np.indices((len(query), len(gallery))).reshape(2, -1)
    score = 1.0 - CosineDistances(query, gallery).pairs(rows, columns).reshape(len(query), len(gallery))
    if left_out is not None:
        score[left_out] = -np.inf
    order = np.argsort(-score, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(score, order, axis=1)
    missing = k - order.shape[1]
    order = np.pad(np.where(np.isinf(found), -1, order), ((0, 0), (0, missing)), constant_values=-1)
    return NearestEntries(order, np.pad(found, ((0, 0), (0, missing)), constant_values=-np.inf))


def assert_equal(found: NearestEntries, expected: NearestEntries) -> None:
    assert np.array_equal(found.gallery_QK, expected.gallery_QK)
    assert np.array_equal(found.score_QK, expected.score_QK)


def vectors(kind: str, rows: int, dimensions: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)
    if kind == "ties":  # few directions, at several lengths that are powers of two: bit-identical cosines
        return values[np.arange(rows) % 7] * np.float32(2.0) ** (np.arange(rows) % 3)[:, None].astype(np.float32)
    if kind == "same":
        return np.repeat(values[:1], rows, axis=0)
    if kind == "nearly unit":  # taken as they are, though their lengths order them otherwise than their directions
        values = values[:1] + values * np.float32(1e-4)
        length = 1 + 2.0**-18 * np.random.default_rng(seed).uniform(-0.97, 0.97, (rows, 1))
        values *= (length / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    if kind == "near ties":  # differ by less than float32 products can resolve
        return values[:1] + values * np.float32(1e-7)
    return values


@pytest.mark.parametrize("kind", ["plain", "ties", "near ties"])
@pytest.mark.parametrize("blocks", [(1024, 8192), (3, 10), (1, 1)])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_equals_a_sort_of_the_exact_scores(kind: str, blocks: tuple[int, int], k: int) -> None:
    query, gallery = vectors("plain", 6, 24, 0), vectors(kind, 90, 24, 1)
    found = search(query, gallery, k, query_block=blocks[0], gallery_block=blocks[1])
    assert_equal(found, dense(query, gallery, k))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("block", [10, 200])
def test_nearly_unit_vectors_are_ranked_by_direction(seed: int, block: int) -> None:
    gallery = vectors("nearly unit", 200, 4, seed)
    query = gallery[:3] * np.float32(3)
    assert_equal(search(query, gallery, 5, gallery_block=block), dense(query, gallery, 5))


@pytest.mark.parametrize("kind", ["plain", "ties", "near ties"])
def test_quick_scores_from_float16_give_the_same(kind: str) -> None:
    query, gallery = vectors("plain", 6, 24, 0), vectors(kind, 90, 24, 1)
    assert_equal(search(query, gallery, 5, gallery_block=10, quick_dtype=torch.float16), dense(query, gallery, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dimensions", [1, 24, 2048])
def test_no_quick_score_errs_by_more_than_half_the_margin(dtype: torch.dtype, dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    small = random.normal(size=(50, dimensions)) * 10.0 ** random.uniform(-8, 0, size=(50, dimensions))
    values = np.concatenate((small, np.ones((1, dimensions)), random.normal(size=(50, dimensions))))
    unit = torch.from_numpy(values / np.linalg.norm(values, axis=1, keepdims=True))
    quick = unit.float().to(dtype).float()
    error = (quick @ quick.T - unit @ unit.T).abs().max().item()
    assert error < margin(dimensions, dtype) / 2


@pytest.mark.parametrize("starts", [[0], [0, 1, 8, 15], [0, 2000, 4500]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_that_are_copied_ahead_are_the_gallery(starts: list[int], dtype: type[np.floating]) -> None:
    gallery = vectors("plain", 5000, 3, 6).astype(dtype)
    gallery.flags.writeable = False
    blocks = list(copied_ahead(gallery, starts, pin_memory=False))
    assert [block.start for block in blocks] == starts
    assert np.array_equal(np.concatenate([block.values.numpy() for block in blocks]), gallery.astype(np.float32))


@pytest.mark.parametrize("kind", ["plain", "ties", "near ties", "same"])
@pytest.mark.parametrize("threads", [1, 3])
def test_many_candidates_are_thinned_out_by_exact_scores(kind: str, threads: int) -> None:
    query, gallery = vectors("plain", 9, 24, 10), vectors(kind, 400, 24, 11)
    gallery[300:] = gallery[:100]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    kept: list[int] = []
    try:
        with patch.object(nearest, "MOST_KEPT", 1), most_pairs(kept):
            found = search(query, gallery, 3, gallery_block=20, query_block=4)
    finally:
        torch.set_num_threads(before)
    assert_equal(found, dense(query, gallery, 3))
    assert max(kept) < 4 * 8 * 3 + 4 * 20  # of a group of 4: the limit, and what a block of 20 brings


@contextmanager
def most_pairs(kept: list[int]) -> Iterator[None]:
    """Notes how many pairs are scored exactly at a time."""
    pairs = CosineDistances.pairs

    def noted(self: CosineDistances, query_P: Indices, gallery_P: Indices) -> Floats:
        kept.append(len(query_P))
        return pairs(self, query_P, gallery_P)

    with patch.object(CosineDistances, "pairs", noted):
        yield


@pytest.mark.parametrize("size", [1e-29, 1e-18, 1e17, 1e29])
def test_vectors_of_any_length_that_float32_squares_do_not_hold(size: float) -> None:
    query, gallery = vectors("plain", 5, 16, 14), vectors("plain", 60, 16, 15)
    gallery[::3] *= np.float32(size)
    query[1] *= np.float32(size)
    assert_equal(search(query, gallery, 7, gallery_block=25), dense(query, gallery, 7))


@pytest.mark.parametrize(("queries", "entries", "k"), [(1, 1, 1), (1, 300, 200), (300, 1, 2)])
def test_small_sides(queries: int, entries: int, k: int) -> None:
    query, gallery = vectors("plain", queries, 8, 16), vectors("ties", entries, 8, 17)
    assert_equal(search(query, gallery, k), dense(query, gallery, k))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_and_checks_the_gallery() -> None:
    query, gallery = vectors("plain", 40, 64, 7), vectors("ties", 9000, 64, 8)
    assert_equal(search(query, gallery, 20, device="cuda"), search(query, gallery, 20))
    gallery[8999, 3] = np.nan
    with pytest.raises(InputError, match="gallery embedding row 8999, column 3 is nan"):
        search(query, gallery, 20, device="cuda")


def test_what_a_query_leaves_out() -> None:
    query, gallery = vectors("plain", 5, 16, 2), vectors("ties", 40, 16, 3)
    cameras = np.array([0, 1, 2, -1, 3]), np.arange(40) % 3
    ids = np.array([100, 101, 102, 103, 104]), np.arange(40) + 80
    left_out = (cameras[0][:, None] == cameras[1]) | (ids[0][:, None] == ids[1])
    found = search(query, gallery, 30, exclude=[cameras, ids], gallery_block=7)
    assert_equal(found, dense(query, gallery, 30, left_out))
    assert (found.gallery_QK[0, 27:] == -1).all()
    everything = np.zeros(5, np.int64), np.zeros(40, np.int64)
    assert (search(query, gallery, 3, exclude=[everything]).gallery_QK == -1).all()
    unknown = np.full(5, -1), np.full(40, -1)
    assert_equal(search(query, gallery, 3, exclude=[unknown]), dense(query, gallery, 3))


def test_a_memory_map_will_do(tmp_path: object) -> None:
    query, gallery = vectors("plain", 4, 8, 4), vectors("plain", 50, 8, 5)
    path = f"{tmp_path}/gallery.npy"
    np.save(path, gallery)
    assert_equal(search(query, np.load(path, mmap_mode="r"), 5), dense(query, gallery, 5))


@pytest.mark.parametrize(
    ("query", "gallery", "k", "message"),
    [
        (np.ones((2, 4)), np.ones((3, 4)), 0, "0 matches per query, expected 1 or more"),
        (np.ones((0, 4)), np.ones((3, 4)), 1, "nothing to rank: 0 queries, 3 gallery"),
        (np.ones((2, 4)), np.ones((3, 5)), 1, "from the same model"),
        (np.ones((2, 4)), np.full((3, 4), np.nan), 1, "gallery embedding row 0, column 0 is nan"),
        (np.zeros((2, 4)), np.ones((3, 4)), 1, "query embedding row 0: largest absolute value is 0.0, expected 1e-30"),
    ],
)
def test_mistakes(query: np.ndarray, gallery: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        search(query.astype(np.float32), gallery.astype(np.float32), k)
