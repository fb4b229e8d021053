"""The interval for other cameras: exact counts, wide where cameras differ or are few, and held in most draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.thresholds.elsewhere import RatesByCamera, far_elsewhere
from ccvid.retrieval.thresholds.recommended import recommend_threshold
from ccvid.retrieval.thresholds.verification import VerificationPairs, verify
from tests.method.ranking.test_bootstrap import made_pairs

GENERAL = PROTOCOLS["general"]


def test_counts_equal_those_over_all_pairs() -> None:
    pairs = made_pairs()
    found = RatesByCamera.of(pairs, 0.3)
    accepted_CC, impostors_CC = np.zeros((2, pairs.cameras, pairs.cameras), np.int64)
    for query, entry in itertools.product(*map(range, pairs.distances.shape)):
        if pairs.query_person_Q[query] != pairs.gallery_person_G[entry]:
            cameras = pairs.query_camera_Q[query], pairs.gallery_camera_G[entry]
            impostors_CC[cameras] += 1
            accepted_CC[cameras] += 1 - pairs.distances.pairs(np.array([query]), np.array([entry]))[0] >= 0.3
    np.testing.assert_array_equal(found.impostors_CC, impostors_CC)
    np.testing.assert_array_equal(found.accepted_CC, accepted_CC)
    assert found.cameras == 3


def rates(accepted: list[list[int]], impostors: int = 1000) -> RatesByCamera:
    return RatesByCamera(np.full((len(accepted), len(accepted)), impostors), np.array(accepted))


SURE = np.full(100, 0.05)
"""Draws of persons that do not change the rate."""


def test_the_more_cameras_differ_and_the_fewer_they_are_the_wider() -> None:
    reach = []
    for factors in ([1, 1, 1, 1], [1, 2, 1, 2, 1, 2, 1, 2], [1, 2, 1, 2], [1, 2]):  # of the rate of each camera's pairs
        found = rates((10 * np.outer(factors, factors)).tolist())
        interval = far_elsewhere(found, SURE, 50, draws=200)
        assert interval is not None
        assert interval.low <= interval.value <= interval.high
        reach.append(interval.high - interval.low)
    assert reach[0] < 1e-3 < 0.005 < reach[1] < reach[2] < reach[3]
    assert reach[3] > 0.3
    assert far_elsewhere(rates([[50]]), SURE, 50, draws=200) is None


def test_a_rate_of_nothing_has_an_interval() -> None:
    interval = far_elsewhere(rates([[0, 0], [0, 0]]), np.zeros(100), 50, draws=200)
    assert interval is not None
    assert 0 == interval.value <= interval.high < 0.01


def camera_set(chance: np.random.Generator, cameras: int, persons: int) -> tuple[np.ndarray, RetrievalLabels]:
    """Four tracklets of each person; every camera pushes all of them in its own direction."""
    person = np.repeat(np.arange(persons), 4)
    camera = chance.integers(0, cameras, len(person))
    push = 0.8 * chance.normal(size=(cameras, 16))
    values = chance.normal(size=(persons, 16))[person] + push[camera] + 0.7 * chance.normal(size=(len(person), 16))
    names = tuple(map(str, person.tolist()))
    ids = tuple(f"t{row}" for row in range(len(person)))
    return values.astype(np.float32), RetrievalLabels(ids, names, tuple(map(str, camera.tolist())), (None,) * len(ids))


@pytest.mark.parametrize("cameras", [3, 6])
def test_the_rate_on_other_cameras_lies_within_the_interval_most_times(cameras: int) -> None:
    inside, beyond_persons = 0, 0
    for seed in range(40):
        chance = np.random.default_rng(seed)
        (here, labels), (there, others) = camera_set(chance, cameras, 30), camera_set(chance, cameras, 30)
        pairs = VerificationPairs.of(CosineDistances(here, here), labels, labels, GENERAL)
        found = recommend_threshold(pairs, verify(pairs), 0.02, draws=100)
        assert found.threshold is not None
        assert found.far is not None
        assert found.far_elsewhere is not None
        unseen = VerificationPairs.of(CosineDistances(there, there), others, others, GENERAL)
        rates = RatesByCamera.of(unseen, found.threshold.value)
        rate = rates.accepted_CC.sum() / rates.impostors_CC.sum()
        inside += found.far_elsewhere.low <= rate <= found.far_elsewhere.high
        beyond_persons += not found.far.low <= rate <= found.far.high
    assert inside >= 37
    assert beyond_persons >= 5, "cameras that hardly differ would prove nothing"
