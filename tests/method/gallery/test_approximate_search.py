"""The index against the exact search, and its recall."""

from __future__ import annotations

import sys
from unittest.mock import patch

import numpy as np
import pytest

from ccvid.retrieval.gallery import approximate_search as module
from ccvid.retrieval.gallery.approximate_search import approximate_search
from ccvid.retrieval.gallery.search import search
from data_tools.errors import InputError


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((30, 16), np.float32), random.standard_normal((500, 16), np.float32)


@pytest.mark.parametrize("checked", [5, 200])
def test_recall_is_the_share_of_exact_entries_found(checked: int) -> None:
    query, gallery = made()
    exclude = [(np.arange(30) % 3, np.arange(500) % 4 - 1)]  # −1: unknown, never left out
    with patch.object(module, "CHECKED_QUERIES", checked):
        found, recall = approximate_search(query, gallery, 5, exclude=exclude)
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


def test_missed_entries_lower_the_recall() -> None:
    query, gallery = made()
    with patch.object(module, "_index", lambda gallery: FirstHalf(len(gallery) // 2)):
        found, recall = approximate_search(query, gallery, 5)
    assert found.gallery_QK.max() < 250
    assert recall < 0.9


class FirstHalf:
    """An index that contains only some entries."""

    def __init__(self, known: int) -> None:
        self.known = known

    def search(self, query: np.ndarray, k: int) -> FirstHalf:  # noqa: ARG002
        self.keys = np.tile(np.arange(self.known, dtype=np.uint64), (len(query), 1))
        return self


def test_without_usearch() -> None:
    with (
        patch.dict(sys.modules, {"usearch.index": None}),
        pytest.raises(InputError, match=r"pip install 'ccvid\[ann\]'"),
    ):
        approximate_search(*made(), 3)
