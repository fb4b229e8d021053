"""Intervals over identities equal those of data sets written out draw by draw, and have the right coverage."""

from __future__ import annotations

import json
from unittest.mock import patch

import numpy as np
import pytest

from ccvid.retrieval.ranking.bootstrap import Interval, draw_persons, paired_difference, result_intervals
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.thresholds import recommended
from ccvid.retrieval.thresholds.recommended import recommend_threshold, threshold_ladder, weighted_impostors
from ccvid.retrieval.thresholds.verification import VerificationPairs, verify
from data_tools.errors import InputError
from tests.method.thresholds.test_verification import embedded, labels

GENERAL = PROTOCOLS["general"]


def made_pairs(queries: int = 60, gallery: int = 90, persons: int = 12, block: int = 8192) -> VerificationPairs:
    query, entries, sides = embedded(queries, gallery, persons)
    return VerificationPairs.of(CosineDistances(query, entries, gallery_block=block), *sides, GENERAL)


@pytest.mark.parametrize("together", [64, 2])
def test_weights_equal_pairs_written_out_as_often_as_their_persons_were_drawn(together: int) -> None:
    pairs = made_pairs()
    threshold_T = np.array([-0.5, 0.0, 0.3, 0.6])
    count_NP = draw_persons(pairs.persons, 5, seed=1)
    with patch.object(recommended, "DRAWS_TOGETHER", together):
        found_NT = weighted_impostors(pairs, threshold_T, count_NP)
    query, gallery = np.indices(pairs.distances.shape).reshape(2, -1)
    score = 1 - pairs.distances.pairs(query, gallery)
    for count_P, found_T in zip(count_NP, found_NT, strict=True):
        written = [
            value
            for value, one, two in zip(score, pairs.query_person_Q[query], pairs.gallery_person_G[gallery], strict=True)
            if one != two
            for _ in range(count_P[one] * count_P[two])
        ]
        assert found_T.tolist() == [sum(value >= threshold for value in written) for threshold in threshold_T]


@pytest.mark.parametrize("far", [0.3, 0.02, 0.001])
def test_the_recommended_threshold_and_its_interval(far: float) -> None:
    pairs = made_pairs()
    verification = verify(pairs)
    found = recommend_threshold(pairs, verification, far, draws=60, seed=2)
    assert found.threshold is not None
    assert found.far is not None
    assert found.tar is not None
    impostor = pairs.impostor_sample(10**6)
    assert found.far.value == np.mean(impostor >= found.threshold.value) <= far
    lower = max([*impostor[impostor < found.threshold.value]])
    assert np.mean(impostor >= lower) > far, "a lower threshold lets more through than was asked for"
    assert found.tar.value == np.mean(pairs.genuine_scores() >= found.threshold.value)
    # The same draws by plain loops over every impostor.
    query, gallery = np.indices(pairs.distances.shape).reshape(2, -1)
    one, two = pairs.query_person_Q[query], pairs.gallery_person_G[gallery]
    score = 1 - pairs.distances.pairs(query, gallery)
    ladder = threshold_ladder(verification, far)
    thresholds, rates = [], []
    for count_P in draw_persons(pairs.persons, 60, seed=2):
        weight = np.where(one == two, 0, count_P[one] * count_P[two])
        drawn = [weight[score >= threshold].sum() / weight.sum() for threshold in ladder]
        thresholds.append(next(t for t, rate in zip(ladder, drawn, strict=True) if rate <= far))
        rates.append(weight[score >= found.threshold.value].sum() / weight.sum())
    assert found.threshold == Interval.of(found.threshold.value, np.array(thresholds))
    assert found.far == Interval.of(found.far.value, np.array(rates))


def test_the_recommendation_is_the_same_whatever_the_blocks_but_not_the_seed() -> None:
    texts = []
    for block, together, seed in ((8192, 64, 0), (7, 3, 0), (8192, 64, 1)):
        pairs = made_pairs(block=block)
        with patch.object(recommended, "DRAWS_TOGETHER", together):
            texts.append(json.dumps(recommend_threshold(pairs, verify(pairs), 0.01, draws=50, seed=seed).to_json()))
    assert texts[0] == texts[1] != texts[2]


def test_too_few_pairs_for_a_rate_are_said_to_be() -> None:
    pairs = made_pairs()
    found = recommend_threshold(pairs, verify(pairs), 1e-9, draws=5)
    assert found.threshold is found.far is found.tar is None
    assert found.reason is not None
    assert "impostor pairs are too few for a rate of 1e-09; 1,000,000,000 are needed" in found.reason
    with pytest.raises(InputError, match=r"false accept rate 1\.5, expected"):
        recommend_threshold(pairs, verify(pairs), 1.5)


def test_draws_without_an_impostor_are_left_out() -> None:
    distances = DistanceMatrix(np.array([[0.1, 0.5], [0.6, 0.2]]))
    pairs = VerificationPairs.of(distances, labels("q", "ab"), labels("g", "ab"), GENERAL)
    found = recommend_threshold(pairs, verify(pairs), 0.5, draws=40)  # half of the draws hold only one person
    assert found.threshold is not None
    assert found.far is not None
    assert (found.far.value, found.far.low, found.far.high) == (0.5, 0.5, 0.5)
    assert found.threshold.low == found.threshold.value == found.threshold.high


def test_the_rate_among_other_people_lies_within_the_interval_most_times() -> None:
    inside, rates = 0, []
    for seed in range(30):
        chance = np.random.default_rng(seed)
        sides = []
        for prefix, persons in (("q", 25), ("g", 25), ("o", 150)):
            if prefix != "g":
                centre = chance.normal(size=(persons, 12))
            person = np.repeat(np.arange(persons), 3)
            embedding = (centre[person] + chance.normal(size=(len(person), 12))).astype(np.float32)
            names = tuple(map(str, person.tolist()))
            sides.append(
                (
                    embedding,
                    RetrievalLabels(
                        tuple(f"{prefix}{n}" for n in range(len(person))),
                        names,
                        (prefix,) * len(person),
                        (None,) * len(person),
                    ),
                )
            )
        pairs = VerificationPairs.of(CosineDistances(sides[0][0], sides[1][0]), sides[0][1], sides[1][1], GENERAL)
        found = recommend_threshold(pairs, verify(pairs), 0.05, draws=200)
        assert found.threshold is not None
        assert found.far is not None
        other = sides[2][0] / np.linalg.norm(sides[2][0], axis=1, keepdims=True)
        different = np.arange(len(other))[:, None] // 3 != np.arange(len(other)) // 3
        rate = float(np.mean((other @ other.T)[different] >= found.threshold.value))
        rates.append(rate)
        inside += found.far.low <= rate <= found.far.high
    assert np.mean(rates) == pytest.approx(0.05, rel=0.2)
    assert inside >= 23


def test_the_figures_of_a_result_equal_loops_over_drawn_persons() -> None:
    query, gallery, (asked, there) = embedded(60, 90, 12)
    result = evaluate(CosineDistances(query, gallery), asked, there).results["general"]
    found = result_intervals(result, asked.person, draws=40, seed=3)
    names = sorted({name for name, matched in zip(asked.person, result.has_match, strict=True) if matched})
    rows_of = {name: [q for q in range(60) if asked.person[q] == name and result.has_match[q]] for name in names}
    drawn = []
    for count_P in draw_persons(len(names), 40, seed=3):
        rows = [q for name, count in zip(names, count_P, strict=True) for _ in range(count) for q in rows_of[name]]
        drawn.append((result.average_precision_Q[rows].mean(), np.mean(result.first_match_rank_Q[rows] <= 5)))
    for interval, value, values in zip(
        (found.mean_average_precision, found.cmc[5]),
        (result.mean_average_precision, result.cmc(5)),
        np.array(drawn).T,
        strict=True,
    ):
        expected = Interval.of(value, values)
        assert interval.value == value
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.to_json()["persons"] == len(names)


def test_the_difference_of_two_results_is_that_of_the_same_persons() -> None:
    chance = np.random.default_rng(0)
    person = [f"p{number // 4}" for number in range(160)]
    first = chance.uniform(0.3, 0.6, 160)
    change = np.repeat(chance.normal(0.1, 0.1, 40), 4)
    found = paired_difference(first, first + change, person)
    assert found.difference.value == pytest.approx(change.mean())
    width = found.difference.high - found.difference.low
    assert width == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(40), rel=0.35), "the spread of 40 persons, not 160 queries"
    assert found.p_value < 0.01
    back = paired_difference(first + change, first, person)
    assert back.difference.low == pytest.approx(-found.difference.high)
    assert back.p_value == found.p_value
    assert paired_difference(first, first, person).p_value == 1.0


def test_nothing_to_draw_from() -> None:
    with pytest.raises(InputError, match="nothing to draw from"):
        paired_difference(np.zeros(0), np.zeros(0), [])
