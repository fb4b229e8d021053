"""The overview's summaries: matrices by camera and attribute, scores of same and different persons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.report.charts import pair_scores
from ccvid.retrieval.report.matrices import distinct, matrix_columns, score_matrices
from data_tools.errors import InputError
from tests.method.report_walkers import small


@pytest.mark.parametrize("column", ["camera", "clothes"])
def test_a_matrix_cell_is_the_evaluation_of_its_part(column: str) -> None:
    report = small()
    query, gallery = report.evaluation.query, report.evaluation.gallery
    matrices = {matrix.protocol: matrix for matrix in score_matrices(report.evaluation, report.distances, column)}
    assert set(matrices) <= set(report.evaluation.results)
    checked = 0
    for name, matrix in matrices.items():
        for a, asked in enumerate(matrix.query_labels):
            for b, there in enumerate(matrix.gallery_labels):
                rows = [np.flatnonzero([label == chosen for label in side.column(column)])
                        for side, chosen in ((query, asked), (gallery, there))]  # fmt: skip
                part = [side.take(chosen.tolist()) for side, chosen in zip((query, gallery), rows, strict=True)]
                protocol = report.evaluation.results[name].protocol
                try:
                    alone = evaluate(report.distances.take(*rows), *part, protocols=[protocol]).results[name]
                except InputError:  # the protocol does not apply to any query here
                    assert matrix.queries_AB[a, b] == 0
                    assert np.isnan(matrix.map_AB[a, b])
                    continue
                checked += 1
                assert matrix.queries_AB[a, b] == np.count_nonzero(alone.has_match)
                assert matrix.map_AB[a, b] == pytest.approx(alone.mean_average_precision)
                assert matrix.top1_AB[a, b] == pytest.approx(alone.cmc(1))
    assert checked > 6


def test_columns_that_make_no_matrix_say_why() -> None:
    report = small()
    many = tuple(str(row) for row in range(len(report.evaluation.query)))
    query = replace(report.evaluation.query, attributes={"session": many, "site": ("x",) * len(many)})
    gallery = report.evaluation.gallery
    gallery = replace(gallery, attributes={"session": ("1",) * len(gallery), "scale": ("2",) * len(gallery)})
    chosen, left_out = matrix_columns(replace(report.evaluation, query=query, gallery=gallery))
    assert chosen == ["camera", "clothes"]
    assert set(left_out) == {"session", "site", "scale"}
    assert "60 values" in left_out["session"]
    assert distinct(("cam10", "cam9", None, "cam9")) == ("cam9", "cam10")


def test_scores_of_same_and_different_persons() -> None:
    report = small()
    scores = pair_scores(report.evaluation, report.distances)
    matches = report.evaluation.results["clothes_changing"]
    np.testing.assert_array_equal(scores["same person, different clothes"], 1 - matches.match_distance_M)
    different = [
        1 - float(report.distances.pairs(np.array([q]), np.array([g]))[0])
        for q, asked in enumerate(report.evaluation.query.person)
        for g, there in enumerate(report.evaluation.gallery.person)
        if asked != there
    ]
    np.testing.assert_array_equal(scores["different persons"], different)
