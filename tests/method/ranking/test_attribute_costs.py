"""What makes queries hard, against plain loops and made effects."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccvid.retrieval.ranking.attribute_costs import (
    Observations,
    camera_pairs,
    camera_precision,
    label_observations,
    value_costs,
)
from ccvid.retrieval.ranking.bootstrap import draw_persons, group_difference
from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from data_tools.errors import InputError
from tests.method.ranking.test_controls import GALLERY, QUERY


def test_a_difference_of_groups_equals_plain_loops() -> None:
    """Draws without anybody of a group are left out; a person may be in both groups."""
    value = [0.5, 0.25, 1.0, 0.125, 0.75]
    person, member = ["a", "a", "b", "c", "b"], [True, False, False, True, False]
    found = group_difference(np.array(value), np.array(member), person, draws=200)
    drawn = []
    for count in draw_persons(3, 200).tolist():
        weight = dict(zip("abc", count, strict=True))
        means = []
        for side in (True, False):
            rows = [row for row in range(5) if member[row] == side]
            total = sum(weight[person[row]] for row in rows)
            means.append(sum(weight[person[row]] * value[row] for row in rows) / total if total else math.nan)
        drawn.append(means[0] - means[1])
    assert any(math.isnan(each) for each in drawn)
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    assert found.value == (0.5 + 0.125) / 2 - (0.25 + 1 + 0.75) / 3
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize("member", [[True, True], [False, False]])
def test_a_group_without_values_is_refused(member: list[bool]) -> None:
    with pytest.raises(InputError, match="needs values in both"):
        group_difference(np.ones(2), np.array(member), ["a", "b"])


def test_what_costs_most_comes_first_and_what_says_nothing_is_left_out() -> None:
    random = np.random.default_rng(0)
    persons = [f"p{number // 4}" for number in range(400)]
    dark, far = random.random(400) < 0.3, random.random(400) < 0.5
    precision = np.clip(0.8 - 0.4 * dark - 0.1 * far + 0.05 * random.standard_normal(400), 0, 1)
    columns: dict[str, list[str | None]] = {
        "light": ["dark" if is_dark else "day" for is_dark in dark],
        "scale": ["far" if is_far else None if number % 10 == 0 else "near" for number, is_far in enumerate(far)],
        "weather": ["sun"] * 400,
        "video": [f"video {number}" for number in range(400)],
        "owner": ["x" if number < 8 else "y" for number in range(400)],
        "height": [None] * 400,
    }
    costs, left_out = value_costs([Observations(name, precision, persons, column) for name, column in columns.items()])
    assert [(cost.attribute, cost.value) for cost in costs] == [
        ("light", "dark"),
        ("scale", "far"),
        ("scale", "near"),
        ("light", "day"),
    ]
    first = costs[0]
    assert first.queries == dark.sum()
    assert first.difference.low < -0.4 < first.difference.high < 0
    assert first.mean == pytest.approx(precision[dark].mean())
    assert costs[2].queries == sum(value == "near" for value in columns["scale"])
    assert left_out == {
        "weather": "only one value",
        "video": "400 values; at most 40 can be compared",
        "owner": "no value with 3 persons on both sides",
        "height": "not known",
    }


def test_camera_pairs_are_those_of_searches_of_one_camera() -> None:
    random = np.random.default_rng(3)
    distances = CosineDistances(
        *(random.standard_normal((len(side), 8)).astype(np.float32) for side in (QUERY, GALLERY))
    )
    rule = PROTOCOLS["clothes_changing"]
    precision_QC = camera_precision(distances, QUERY, GALLERY, rule)
    for number, camera in enumerate(("c0", "c1", "c2", "c3")):
        rows = [row for row, each in enumerate(GALLERY.camera) if each == camera]
        part = distances.take(np.arange(len(QUERY)), np.array(rows))
        expected = evaluate(part, QUERY, GALLERY.take(rows), protocols=[rule]).results["clothes_changing"]
        np.testing.assert_array_equal(precision_QC[:, number], expected.average_precision_Q)
    observed = camera_pairs(precision_QC, QUERY, GALLERY)
    assert len(observed.value) == np.count_nonzero(~np.isnan(precision_QC)) > 100
    first_query, first_camera = (int(place[0]) for place in np.nonzero(~np.isnan(precision_QC)))
    assert observed.value[0] == f"{QUERY.camera[first_query]} → c{first_camera}"
    assert all(pair is not None and pair[:2] != pair[-2:] for pair in observed.value), "a match is on another camera"


def test_labels_of_queries() -> None:
    observed = label_observations(np.ones(len(QUERY)), QUERY, {"length": ["long"] * len(QUERY)}, ["scale"])
    assert [each.attribute for each in observed] == ["camera", "length"]
    assert observed[0].value == list(QUERY.camera)
