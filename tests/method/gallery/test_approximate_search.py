"""The search by indexes against the exact search, and its recall."""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from ccvid.retrieval.gallery import approximate_search as module
from ccvid.retrieval.gallery.approximate_search import (
    IndexedPart,
    approximate_search,
    indexed_part,
    search_parts,
)
from ccvid.retrieval.gallery.neighbour_index import NeighbourIndex
from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking.distances import Indices
from data_tools.errors import InputError
from tests.method.gallery.test_search import dense


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_ROWS", 100)


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((30, 16), np.float32), random.standard_normal((500, 16), np.float32)


def ties() -> tuple[np.ndarray, np.ndarray]:
    """Few directions at several lengths: bit-identical cosines, within parts and across them."""
    query, gallery = made()
    lengths = np.float32(2.0) ** (np.arange(500) % 3)[:, None].astype(np.float32)
    return query, gallery[np.arange(500) % 40] * lengths


def index_parts(gallery: np.ndarray) -> list[IndexedPart]:
    """Parts of 220, the last without an index if it is small."""
    parts = [gallery[start : start + 220] for start in range(0, len(gallery), 220)]
    return [IndexedPart(part, NeighbourIndex.build(part) if len(part) >= 100 else None) for part in parts]


@pytest.mark.parametrize("make", [made, ties])
def test_parts_without_an_index_are_the_exact_search(make: object) -> None:
    assert callable(make)
    query, gallery = make()
    exclude = [(np.arange(30) % 3, np.arange(500) % 4 - 1)]
    parts = [IndexedPart(gallery[start : start + 90]) for start in range(0, 500, 90)]
    found, exact = search_parts(query, parts, 12, exclude=exclude), search(query, gallery, 12, exclude=exclude)
    assert np.array_equal(found.gallery_QK, exact.gallery_QK)
    assert np.array_equal(found.score_QK, exact.score_QK)


@pytest.mark.parametrize("checked", [5, 200])
def test_recall_is_the_share_of_exact_entries_found(checked: int) -> None:
    query, gallery = made()
    exclude = [(np.arange(30) % 3, np.arange(500) % 4 - 1)]  # −1: unknown, never left out
    with patch.object(module, "CHECKED_QUERIES", checked):
        found, recall = approximate_search(query, index_parts(gallery), 5, exclude=exclude)
    exact = search(query, gallery, 5, exclude=exclude)
    asked = np.random.default_rng(0).permutation(30)[:checked]
    hits = [len(set(found.gallery_QK[row]) & set(exact.gallery_QK[row])) / 5 for row in asked.tolist()]
    assert recall == pytest.approx(np.mean(hits))
    assert recall > 0.9
    same = found.gallery_QK == exact.gallery_QK
    assert np.array_equal(found.score_QK[same], exact.score_QK[same])  # scores of found entries are exact
    assert (np.diff(found.score_QK, axis=1) <= 0).all()
    for row, there in enumerate(found.gallery_QK):
        assert not (exclude[0][1][there] == exclude[0][0][row]).any()


def test_a_small_gallery_is_found_whole() -> None:
    query, gallery = made()
    found, recall = approximate_search(query, index_parts(gallery), 10)
    exact = search(query, gallery, 10)
    assert recall == 1
    assert np.array_equal(found.gallery_QK, exact.gallery_QK)
    assert np.array_equal(found.score_QK, exact.score_QK)


def test_fewer_entries_than_asked_for() -> None:
    query, gallery = made()
    found, recall = approximate_search(query, index_parts(gallery[:240]), 300)
    assert recall > 0.9
    assert (found.gallery_QK[:, 240:] == -1).all()
    assert np.isinf(found.score_QK[:, 240:]).all()


def test_parts_with_their_indexes_in_files(tmp_path: Path) -> None:
    """As those of an embedding store; the small part has none."""
    query, gallery = made()

    def parts(build: bool) -> list[IndexedPart]:
        return [
            indexed_part(gallery[rows], tmp_path / f"part-{rows.start}.usearch", "model", build=build)
            for rows in (slice(0, 200), slice(200, 440), slice(440, 500))
        ]

    def written() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    assert all(part.index is None for part in parts(build=False))
    assert written() == {}
    found, recall = approximate_search(query, parts(build=True), 10)
    before = written()
    assert sorted(before) == ["part-0.usearch", "part-200.usearch"]
    assert [part.index is None for part in parts(build=False)] == [False, False, True]
    again, _ = approximate_search(query, parts(build=True), 10)
    assert written() == before
    assert recall == 1
    for entries in (found, again):
        assert np.array_equal(entries.score_QK, search(query, gallery, 10).score_QK)


@pytest.mark.parametrize("rows", [0, 1, 40, 90, 300, 499])
@pytest.mark.parametrize("indexed", [True, False])
def test_only_chosen_rows_are_found(rows: int, indexed: bool) -> None:
    query, gallery = made()
    chosen = np.sort(np.random.default_rng(rows).permutation(500)[:rows])
    exclude = [(np.arange(30) % 3, np.arange(500) % 7 - 1)]
    part = IndexedPart(gallery, NeighbourIndex.build(gallery) if indexed else None)
    found = part.neighbours(query, 5, exclude=exclude, chosen=chosen)
    allowed = np.zeros((30, 500), np.bool_)
    allowed[:, chosen] = exclude[0][0][:, None] != exclude[0][1][chosen]
    exact = dense(query, gallery, 5, ~allowed)
    assert np.array_equal(found.gallery_QK, exact.gallery_QK)
    assert np.array_equal(found.score_QK, exact.score_QK)


def test_missed_entries_lower_the_recall() -> None:
    query, gallery = made()
    parts = [IndexedPart(gallery[:220], FirstHalf(110)), IndexedPart(gallery[220:])]
    found, recall = approximate_search(query, parts, 5)
    assert not ((found.gallery_QK >= 110) & (found.gallery_QK < 220)).any()
    assert recall < 0.9


class FirstHalf(NeighbourIndex):
    """An index that contains only some entries."""

    def __init__(self, known: int) -> None:
        self._rows = self.known = known

    def candidates(self, query_QD: np.ndarray, k: int) -> tuple[Indices, Indices]:  # noqa: ARG002
        return np.repeat(np.arange(len(query_QD)), self.known), np.tile(np.arange(self.known), len(query_QD))


def test_without_usearch(tmp_path: Path) -> None:
    gallery, refused = made()[1], partial(pytest.raises, InputError, match=r"pip install 'ccvid\[ann\]'")
    with patch.dict(sys.modules, {"usearch.index": None}), refused():
        index_parts(gallery)
    with patch("importlib.metadata.version", side_effect=PackageNotFoundError), refused():
        indexed_part(gallery, tmp_path / "part.usearch", "model")
