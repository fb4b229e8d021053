"""Probabilities that hold on other pairs, for any prior; files that are validated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.thresholds.calibration import (
    Calibration,
    CalibrationMethod,
    PairSample,
    calibrate,
    fit_calibration,
    read_calibration,
    reliability,
    write_calibration,
)
from data_tools.errors import InputError
from tests.method.thresholds.test_verification import embedded

METHODS: list[CalibrationMethod] = ["isotonic", "logistic"]
SPREAD = 0.12


def drawn(genuine: int, impostors: int, seed: int) -> PairSample:
    """Normal scores of equal width around 0.6 and 0.2: the true log-odds are a line."""
    chance = np.random.default_rng(seed)
    return PairSample(chance.normal(0.6, SPREAD, genuine), chance.normal(0.2, SPREAD, impostors))


def true_probability(score: np.ndarray, prior: float) -> np.ndarray:
    log_odds = ((score - 0.2) ** 2 - (score - 0.6) ** 2) / (2 * SPREAD**2) + np.log(prior / (1 - prior))
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def curve(**changes: object) -> Calibration:
    made: dict[str, object] = {"method": "isotonic", "model": "m", "prior": 0.5, "genuine_pairs": 3}
    made |= {"impostor_pairs": 4, "scores": (0.0, 1.0), "log_odds": (-2.0, 2.0), **changes}
    return Calibration.model_validate(made)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_the_curve_is_the_true_one_for_any_prior(method: CalibrationMethod, prior: float) -> None:
    calibration = fit_calibration(drawn(40_000, 400_000, 0), method, model="m")
    score = np.linspace(0.25, 0.55, 31)
    np.testing.assert_allclose(
        calibration.probability(score, model="m", prior=prior), true_probability(score, prior), atol=0.05
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_it_keeps_its_word_on_other_pairs(method: CalibrationMethod, prior: float) -> None:
    calibration = fit_calibration(drawn(20_000, 200_000, 0), method, model="m", prior=prior)
    found = reliability(calibration, drawn(20_000, 200_000, 1))
    assert found.expected_calibration_error < 0.01
    assert found.weight_B.sum() == pytest.approx(1)
    assert found.weight_B @ found.true_B == pytest.approx(prior)
    knows_nothing = reliability(curve(log_odds=(0.0, 0.0)), drawn(20_000, 200_000, 1), prior=prior)
    assert knows_nothing.brier == pytest.approx(prior * (1 - prior))
    assert len(knows_nothing.said_B) == 1, "equal probabilities share a bin"
    assert found.brier < knows_nothing.brier


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "sample",
    [
        drawn(30, 500, 2),
        PairSample(np.array([0.9]), np.array([0.1])),
        PairSample(np.array([0.5, 0.5, 0.7]), np.array([0.5, 0.5, 0.5, 0.2])),
    ],
    ids=["few", "two pairs, told apart", "ties"],
)
def test_it_rises_and_is_never_certain(method: CalibrationMethod, sample: PairSample) -> None:
    calibration = fit_calibration(sample, method, model="m")
    score = np.array([-np.inf, *np.linspace(-1, 1, 401), np.inf])
    probability = calibration.probability(score, model="m")
    assert (np.diff(probability) >= 0).all()
    assert 0 < probability[0] < probability[-1] < 1


def test_steps_are_never_surer_than_one_more_pair_of_the_other_kind_would_leave_them() -> None:
    calibration = fit_calibration(PairSample(np.array([0.8, 0.9]), np.array([0.1, 0.2, 0.3])), "isotonic", model="m")
    assert calibration.probability(np.array([0.0, 1.0]), model="m") == pytest.approx([1 / 4, 4 / 5])


def test_reliability_equals_a_plain_table() -> None:
    sample = drawn(40, 60, 5)
    calibration = fit_calibration(sample, "logistic", model="m")
    found = reliability(calibration, sample, prior=0.4, bins=4)  # the prior is the share of the pairs: equal weights
    score = np.concatenate((sample.genuine_P, sample.impostor_N))
    rows = sorted(zip(calibration.probability(score, model="m", prior=0.4), [1] * 40 + [0] * 60, strict=True))
    bins = [np.array(rows[start : start + 25]) for start in range(0, 100, 25)]
    np.testing.assert_allclose(found.said_B, [b[:, 0].mean() for b in bins], atol=1e-12)
    np.testing.assert_allclose(found.true_B, [b[:, 1].mean() for b in bins], atol=1e-12)
    ece = np.mean([abs(b[:, 0].mean() - b[:, 1].mean()) for b in bins])
    assert found.expected_calibration_error == pytest.approx(ece)
    assert found.brier == pytest.approx(np.mean([(p - y) ** 2 for p, y in rows]))
    assert len(json.loads(json.dumps(found.to_json()))["bins"]) == 4


@pytest.mark.parametrize("method", METHODS)
def test_persons_are_either_fitted_or_held_out(method: CalibrationMethod) -> None:
    query, gallery, sides = embedded(120, 150, 20)
    distances = CosineDistances(query, gallery)
    both = [
        calibrate(distances, *sides, PROTOCOLS["general"], method=method, model="m", seed=seed) for seed in (0, 0, 1)
    ]
    assert both[0][0] == both[1][0] != both[2][0]
    calibration, found = both[0]
    everyone = sum(
        a == b and c != d
        for a, c in zip(sides[0].person, sides[0].camera, strict=True)
        for b, d in zip(sides[1].person, sides[1].camera, strict=True)
    )
    assert calibration.genuine_pairs + found.genuine_pairs == everyone
    assert found.expected_calibration_error < 0.1


def test_a_half_that_is_too_small_is_named() -> None:
    query, gallery, sides = embedded(120, 150, 20)
    rows = [np.array([row for row, name in enumerate(side.person) if name in ("1", "2")]) for side in sides]
    distances, asked, there = (
        CosineDistances(query, gallery).take(rows[0], rows[1]),
        *(side.take(part.tolist()) for side, part in zip(sides, rows, strict=True)),
    )
    with pytest.raises(InputError, match=r"the fitted half of 2 persons: protocol general: \d+ genuine and 0 impostor"):
        calibrate(distances, asked, there, PROTOCOLS["general"], method="isotonic", model="m")


def test_scores_of_another_model_and_priors_that_are_none() -> None:
    with pytest.raises(InputError, match="the calibration is for model m, the scores come from model n"):
        curve().probability(np.zeros(1), model="n")
    for prior in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match=f"prior {prior}, expected"):
            curve().probability(np.zeros(1), model="m", prior=prior)
        with pytest.raises(InputError, match=f"prior {prior}, expected"):
            fit_calibration(drawn(5, 5, 0), "isotonic", model="m", prior=prior)


def test_a_line_that_falls_is_refused() -> None:
    with pytest.raises(InputError, match="genuine pairs score no higher than impostor pairs"):
        fit_calibration(PairSample(np.array([0.1, 0.2]), np.array([0.6, 0.7])), "logistic", model="m")


def test_a_file_keeps_the_curve_to_the_last_digit(tmp_path: Path) -> None:
    calibration = fit_calibration(drawn(300, 3000, 0), "isotonic", model="m", prior=0.1)
    write_calibration(calibration, tmp_path / "calibration.json")
    assert read_calibration(tmp_path / "calibration.json") == calibration
    with pytest.raises(InputError, match="cannot be written"):
        write_calibration(calibration, tmp_path / "none" / "calibration.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_calibration(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version"),
        ({"scores": [1.0, 0.0]}, "scores must be increasing"),
        ({"log_odds": [2.0, -2.0]}, "log_odds must not decrease"),
        ({"log_odds": [2.0]}, "2 scores and 1 log_odds"),
        ({"scores": []}, "scores"),
        ({"log_odds": ["NaN", 1]}, "finite"),
        ({"prior": 1.0}, "prior"),
        ({"extra": 1}, "extra"),
        (None, "JSON"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, changes: dict[str, object] | None, message: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text("{" if changes is None else json.dumps(json.loads(curve().model_dump_json()) | changes))
    with pytest.raises(InputError, match=rf"calibration\.json: .*{message}"):
        read_calibration(path)
