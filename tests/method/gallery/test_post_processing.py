"""Every method scores as it does by itself, with its gain and its cost."""

from __future__ import annotations

import numpy as np
import pytest

from ccvid.retrieval.gallery.adaptation import expand_queries
from ccvid.retrieval.gallery.post_processing import ProcessedScores, compare_post_processing, post_processing_rows
from ccvid.retrieval.gallery.reranking import re_rank
from ccvid.retrieval.gallery.vectors import JoinedVectors, MatrixVectors
from ccvid.retrieval.ranking.distances import CosineDistances, Distances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.report.tables import post_processing_lines


@pytest.fixture(scope="module")
def problem() -> tuple[CosineDistances, RetrievalLabels, RetrievalLabels]:
    random = np.random.default_rng(0)
    face = random.standard_normal((10, 8))
    sides, labels = [], []
    for prefix, size in (("q", 20), ("g", 80)):
        person = random.integers(0, 10, size)
        sides.append((face[person] + 0.8 * random.standard_normal((size, 8))).astype(np.float32))
        camera = tuple(f"{prefix}{number % 2}" for number in range(size))
        ids = tuple(f"{prefix}{number}" for number in range(size))
        labels.append(RetrievalLabels(ids, tuple(map(str, person)), camera, (None,) * size))
    return CosineDistances(*sides), labels[0], labels[1]


def test_methods_are_scored_as_by_themselves(problem: tuple[CosineDistances, RetrievalLabels, RetrievalLabels]) -> None:
    distances, query, gallery = problem
    found = {row.method: row for row in compare_post_processing(*problem, [PROTOCOLS["general"]])}
    assert list(found) == [
        "plain", "re-ranking", "query expansion", "gallery centroids", "camera means subtracted"
    ]  # fmt: skip
    query_QD, gallery_GD = distances.query_QD, distances.gallery_GD
    alone: dict[str, Distances] = {
        "plain": distances,
        "re-ranking": re_rank(distances, JoinedVectors(MatrixVectors(query_QD), MatrixVectors(gallery_GD))),
        "query expansion": CosineDistances(expand_queries(query_QD, MatrixVectors(gallery_GD)), gallery_GD),
    }
    for method, ranked in alone.items():
        result = evaluate(ranked, query, gallery).results["general"]
        assert found[method].mean_average_precision == {"general": result.mean_average_precision}
        assert found[method].top_1 == {"general": result.cmc(1)}
        assert found[method].seconds > 0


def test_gain_and_cost_stand_in_the_table() -> None:
    plain = ProcessedScores("plain", {"same_clothes": 0.5}, {"same_clothes": 0.25}, 2.0)
    other = ProcessedScores("other", {"same_clothes": 0.625}, {"same_clothes": 0.2}, 5.0)
    headings, rows = post_processing_rows([plain, other])
    assert headings == ["", "same-clothes mAP", "same-clothes top-1", "cost"]
    assert rows == [
        ["plain", "50.0", "25.0", "2.00 s"],
        ["other", "62.5 (+12.5)", "20.0 (-5.0)", "5.00 s (2.5×)"],
    ]
    text = "\n".join(post_processing_lines([plain, other]))
    assert "62.5 (+12.5)" in text
    assert "use the whole gallery" in text
    assert other.to_json()["protocols"] == {"same_clothes": {"map": 0.625, "top-1": 0.2}}
