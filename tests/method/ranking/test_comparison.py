"""Comparing two results: paired differences, their intervals, and which queries changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccvid.retrieval.ranking.comparison import QueryScores, compare, read_query_scores
from ccvid.retrieval.ranking.distances import DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.report.changes import RankedResult, change_view
from ccvid.retrieval.report.filmstrips import Caption, Mark, State, Tracklets
from ccvid.retrieval.report.tables import write_query_table
from data_tools.errors import InputError


def scores(average_precision: np.ndarray, person: list[str], first: int = 0) -> QueryScores:
    ids = tuple(f"q{number:03}" for number in range(first, first + len(person)))
    figures = {"map": average_precision, "minp": average_precision / 2, "top-1": np.round(average_precision)}
    return QueryScores(ids, tuple(person), figures, ((),) * len(person))


def made(persons: int, each: int, shift: float, noise: float, seed: int = 0) -> tuple[QueryScores, QueryScores]:
    """Two results; all queries of a person change by the same random amount, ``shift`` on average."""
    chance = np.random.default_rng(seed)
    before = chance.uniform(0.3, 0.6, persons * each)
    change = np.repeat(chance.normal(shift, noise, persons), each)
    names = [f"p{number // each}" for number in range(persons * each)]
    return scores(before, names), scores(before + change, names)


def test_the_differences_are_those_of_the_means() -> None:
    first, second = made(20, 3, 0.05, 0.1)
    found = compare(first, second)
    for name, difference in found.differences.items():
        assert difference.first == pytest.approx(first.figures[name].mean())
        assert difference.difference.value == pytest.approx((second.figures[name] - first.figures[name]).mean())
        assert difference.difference.low <= difference.difference.value <= difference.difference.high
    assert found.persons == 20


def test_the_interval_is_that_of_persons_not_of_queries() -> None:
    """Copies of a query add no information: the interval stays, and fits the spread of a mean of 40 persons."""
    once, often = (compare(*made(40, each, 0.0, 0.1)).differences["map"] for each in (1, 10))
    expected = 2 * 1.96 * 0.1 / np.sqrt(40)
    for difference in (once, often):
        assert difference.difference.high - difference.difference.low == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("seed", range(3))
def test_chance_is_distinguished_from_a_difference(seed: int) -> None:
    assert compare(*made(40, 2, 0.1, 0.1, seed)).differences["map"].p_value < 0.01
    nothing = [compare(*made(40, 2, 0.0, 0.1, 10 * seed + again)).differences["map"].p_value for again in range(10)]
    assert np.median(nothing) > 0.1
    same, _ = made(5, 2, 0.0, 0.0)
    assert compare(same, same).differences["map"].p_value == 1.0


def test_the_same_seed_gives_the_same() -> None:
    pair = made(10, 2, 0.02, 0.1)
    assert compare(*pair).to_json() == compare(*pair).to_json()
    assert compare(*pair).to_json() != compare(*pair, seed=1).to_json()


def test_queries_are_paired_by_id_and_ranked_by_their_change() -> None:
    first = scores(np.array([0.5, 0.5, 0.5, 0.5]), ["a", "a", "b", "c"])
    second = scores(np.array([0.9, 0.4, 0.5, 0.7]), ["a", "b", "c", "d"], first=1)  # q001 to q004
    found = compare(first, second)
    assert found.ids == ("q001", "q002", "q003")
    np.testing.assert_allclose(found.change_Q, [0.4, -0.1, 0.0])
    assert (found.better, found.worse) == ([0], [1])
    assert found.to_json()["better"] == 1


def test_what_cannot_be_compared() -> None:
    first, second = made(2, 1, 0.0, 0.0)
    with pytest.raises(InputError, match="no query in common"):
        compare(first, scores(np.ones(1), ["p0"], first=50))
    with pytest.raises(InputError, match="query 'q000' is person 'p0' in one result and 'x' in the other"):
        compare(first, replace(second, person=("x", "p1")))


def test_reading_what_an_evaluation_wrote(tmp_path: Path) -> None:
    query = RetrievalLabels(("q1", "q0", "q2"), ("a", "b", "z"), ("1", "1", "1"), (None, None, None))
    gallery = RetrievalLabels(("g0", "g1", "g2"), ("a", "b", "a"), ("2", "2", "2"), (None, None, None))
    distances = DistanceMatrix(np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]))
    evaluation = evaluate(distances, query, gallery, top_k=2)
    write_query_table(evaluation, tmp_path / "queries.parquet")
    found = read_query_scores(tmp_path / "queries.parquet")["general"]
    assert (found.ids, found.person) == (("q0", "q1"), ("b", "a"))  # q2 has no match
    np.testing.assert_allclose(found.figures["map"], [1 / 2, (1 + 2 / 3) / 2])
    assert found.figures["top-1"].tolist() == [0.0, 1.0]
    assert found.ranked[0] == (("g0", 0.1, False), ("g1", 0.2, True))
    pq.write_table(pq.read_table(tmp_path / "queries.parquet").drop(["person"]), tmp_path / "old.parquet")
    with pytest.raises(InputError, match=r"old\.parquet: no column person"):
        read_query_scores(tmp_path / "old.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"average_precision": ["x"]}, "not a query table, columns of another type"),
        ({"average_precision": [2.0]}, "row 0: average_precision is 2.0, expected a number from 0 to 1"),
        ({"average_precision": [float("nan")]}, "row 0: average_precision is nan, expected a number from 0 to 1"),
        ({"person": [None]}, "row 0: no person"),
        ({"first_match_rank": [0]}, "row 0: first_match_rank is 0, expected at least 1"),
        (
            {"distances": [[0.1, 0.2]]},
            "row 0: gallery_ids, distances and is_match must be lists of equal length without nulls",
        ),
        (
            {"gallery_ids": [[None]]},
            "row 0: gallery_ids, distances and is_match must be lists of equal length without nulls",
        ),
        ({"distances": [[float("inf")]]}, "row 0: a distance is not finite"),
    ],
)
def test_rows_that_are_no_querys_results(tmp_path: Path, changes: dict[str, list[Any]], message: str) -> None:
    row = {
        "query_id": ["q"],
        "person": ["p"],
        "protocol": ["general"],
        "average_precision": [0.5],
        "inverse_negative_penalty": [0.5],
        "first_match_rank": [2],
        "gallery_ids": [["g"]],
        "distances": [[0.5]],
        "is_match": [[True]],
    }
    path = tmp_path / "queries.parquet"
    pq.write_table(pa.table(row), path)
    assert read_query_scores(path)["general"].ids == ("q",)
    pq.write_table(pa.table({**row, **changes}), path)
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        read_query_scores(path)


def test_changed_queries_as_both_results_ranked_them() -> None:
    first, second = (
        scores(np.array([0.5, 0.5, 0.9]), ["a", "b", "c"]),
        scores(np.array([0.5, 0.9, 0.25]), ["a", "b", "c"]),
    )
    ranked = ((("g0", 0.25, True), ("gone", 0.5, False), ("g1", 0.75, False)),) * 3
    results = (RankedResult("one", replace(first, ranked=ranked)), RankedResult("two", replace(second, ranked=ranked)))
    shown = Tracklets(
        lambda indices: [Caption("", None, f"camera {index}", None, None) for index in indices], lambda _: []
    )
    number_of = {"q001": 0, "q002": 1, "g0": 2, "g1": 3}
    rows = list(change_view("p", compare(first, second), results, shown, number_of).rows)
    assert [(row.name, row.notes) for row in rows] == [
        ("q002", ("one", "average precision 90.0 %")),
        ("q002", ("two", "average precision 25.0 %", "−65.0")),
        ("q001", ("one", "average precision 50.0 %")),
        ("q001", ("two", "average precision 90.0 %", "+40.0")),
    ]
    assert (rows[0].query, rows[0].cameras, rows[1].state) == (1, ("camera 1",), State.WRONG)
    gallery_E, rank_E, score_E, probability_E, mark_E = rows[0].entries
    assert score_E is not None
    assert (gallery_E.tolist(), rank_E.tolist(), score_E.tolist()) == ([2, 3], [1, 3], [0.75, 0.25])
    assert (probability_E, mark_E.tolist()) == (None, [Mark.RIGHT, Mark.WRONG])
    assert [row.value for row in rows] == [-65.0, -65.0, 40.0, 40.0]
