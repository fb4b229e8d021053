"""Market-1501's junk and distractors in given distances and features, and scores below chance."""

from __future__ import annotations

import numpy as np
import pytest

from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix, Distances
from ccvid.retrieval.ranking.given import GivenRetrieval
from ccvid.retrieval.ranking.given_doubts import doubts_of_order, random_precision, without_junk
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from data_tools.errors import InputError


def labels(side: str, persons: list[str]) -> RetrievalLabels:
    ids = tuple(f"{side}{number}" for number in range(len(persons)))
    return RetrievalLabels(ids, tuple(persons), (side,) * len(persons), (None,) * len(persons))


def given(query: list[str], gallery: list[str], distances: Distances | None = None) -> GivenRetrieval:
    if distances is None:
        distances = DistanceMatrix(np.random.default_rng(0).random((len(query), len(gallery))))
    return GivenRetrieval(distances, labels("q", query), labels("g", gallery))


@pytest.mark.parametrize("junk", ["-1", "nan", "Unknown", "N/A"])
def test_junk_is_left_out(junk: str) -> None:
    found, notes = without_junk(given(["7", junk, "8"], [junk, "7", junk, "8", "9"]))
    assert (found.query.ids, found.gallery.ids) == (("q0", "q2"), ("g1", "g3", "g4"))
    assert found.distances.shape == (2, 3)
    assert [note.partition(";")[0] for note in notes] == [
        f"1 of 3 queries left out as junk (person {junk})",
        f"2 of 5 gallery entries left out as junk (person {junk})",
    ]


def test_scores_are_those_without_the_junk() -> None:
    """As if the rows had never been there, for matrices and for features."""
    random = np.random.default_rng(1)
    gallery = [*map(str, random.integers(1, 6, 30)), *["-1"] * 10, *["0000"] * 5]
    query = [str(person) for person in range(1, 6)]
    kept = [number for number, person in enumerate(gallery) if person != "-1"]
    matrix = random.random((5, 45))
    features = random.standard_normal((5, 8)), random.standard_normal((45, 8))
    for whole, part in (
        (DistanceMatrix(matrix), DistanceMatrix(matrix[:, kept])),
        (CosineDistances(*features), CosineDistances(features[0], features[1][kept])),
    ):
        found, notes = without_junk(given(query, gallery, whole))
        expected = given(query, [gallery[number] for number in kept], part)
        figures = [evaluate(*retrieval).results["general"].mean_average_precision for retrieval in (found, expected)]
        assert figures[0] == figures[1]
        assert notes[-1] == "5 gallery entries of person 0 are distractors: wrong answers to every query"


def test_persons_counted_from_0_have_no_distractors() -> None:
    asked = given(["0", "1"], ["0", "1"])
    found, notes = without_junk(asked)
    assert found == asked
    assert notes == []


def test_junk_alone_is_an_error() -> None:
    with pytest.raises(InputError, match=r"all 2 gallery entries are junk \(person -1\); see --keep-junk"):
        without_junk(given(["1"], ["-1", "-1"]))


def test_the_chance_of_a_random_order() -> None:
    query, gallery = [str(person) for person in range(4)], [str(number % 7) for number in range(20)]
    random = np.random.default_rng(2)
    found = []
    for _ in range(400):
        result = evaluate(*given(query, gallery, DistanceMatrix(random.random((4, 20))))).results["general"]
        found.append(result.mean_average_precision)
    assert random_precision(result).mean() == pytest.approx(np.mean(found), abs=4 * float(np.std(found)) / 20)


def test_similarities_are_distinguished_from_distances() -> None:
    query, gallery = [str(person) for person in range(4)], [str(number % 7) for number in range(20)]
    same = np.array([[q == g for g in gallery] for q in query], float)
    good = evaluate(*given(query, gallery, DistanceMatrix(1 - same)))
    assert doubts_of_order(good, similarities=True) == []
    turned = evaluate(*given(query, gallery, DistanceMatrix(same)))
    [doubt] = doubts_of_order(turned, similarities=True)
    assert doubt.startswith("general: mAP ")
    assert doubt.endswith("of a random order: are these similarities? Distances are expected, smaller is nearer")
    assert doubts_of_order(turned, similarities=False)[0].endswith("of a random order")
