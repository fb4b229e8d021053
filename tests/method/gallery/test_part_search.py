"""Searching a gallery part by part gives what one search of the whole gives, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery.part_search import FoundEntries, search_part
from data_tools.errors import InputError


def table(count: int, seed: int, name: str = "g") -> EmbeddingTable:
    """Few different directions, so that many scores are equal; ids in an order of their own."""
    random = np.random.default_rng(seed)
    directions = random.integers(-1, 2, (12, 3)).astype(np.float32)
    directions[~directions.any(axis=1)] = 1
    ids = sorted(f"{name}{number}" for number in random.permutation(10 * count)[:count])
    rows = EmbeddingRows.of(EmbeddingRow(id, None, None, f"c{len(id)}", "gallery", {}, 1, "s") for id in ids)
    return EmbeddingTable(rows, directions[random.integers(0, 12, count)], "m")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("exclude", [("id",), ("id", "camera")])
def test_any_parts_in_any_order(seed: int, exclude: tuple[str, ...]) -> None:
    gallery, random, k = table(60, seed), np.random.default_rng(seed), 7
    queries = gallery.take(np.sort(random.permutation(60)[:9]))
    whole = search_part(queries, gallery, k, exclude=exclude)
    part_N = random.integers(0, 5, 60)
    parts = [gallery.take(np.flatnonzero(part_N == part)) for part in random.permutation(6)]
    found = FoundEntries.none(9, k)
    for part in parts:
        found = search_part(queries, part, k, exclude=exclude).merged(found)
    assert found.rows == whole.rows
    assert np.array_equal(found.nearest.gallery_QK, whole.nearest.gallery_QK)
    assert np.array_equal(found.nearest.score_QK, whole.nearest.score_QK)
    assert EmbeddingTable.joined(parts).rows == gallery.rows
    assert np.array_equal(EmbeddingTable.joined(parts).embedding_ND, gallery.embedding_ND)


def test_fewer_entries_than_asked_for() -> None:
    gallery = table(3, 0)
    found = search_part(gallery, gallery, 5).merged(FoundEntries.none(3, 5))
    assert (found.nearest.gallery_QK >= 0).sum(axis=1).tolist() == [2, 2, 2]
    assert np.isneginf(found.nearest.score_QK[:, 2:]).all()


def test_an_id_in_two_parts() -> None:
    gallery = table(3, 0)
    found = search_part(table(2, 1, "q"), gallery, 3)
    with pytest.raises(InputError, match=r"duplicate tracklet id 'g.*', found in two parts"):
        found.merged(found)
