"""The pictures of thresholds show the given values, and are valid SVG files."""

from __future__ import annotations

import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from ccvid.retrieval.ranking.distances import DistanceMatrix
from ccvid.retrieval.report.figures import save_figure
from ccvid.retrieval.report.threshold_pictures import draw_errors, draw_reliability
from ccvid.retrieval.thresholds.calibration import PairSample, fit_calibration, reliability
from ccvid.retrieval.thresholds.recommended import RecommendedThreshold, recommend_threshold
from ccvid.retrieval.thresholds.verification import Verification, VerificationPairs, verify
from tests.method.ranking.test_bootstrap import made_pairs
from tests.method.thresholds.test_verification import GENERAL, labels


def found(far: float = 0.05) -> tuple[Verification, RecommendedThreshold]:
    pairs = made_pairs()
    verification = verify(pairs)
    return verification, recommend_threshold(pairs, verification, far, draws=20)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_error_curves_pass_through_the_recommended_threshold() -> None:
    verification, recommended = found()
    assert recommended.far is not None
    assert recommended.tar is not None
    figure = draw_errors(verification, title="Walkers, $test$\x00", recommended=recommended)
    roc, det = figure.axes
    far, tar = (np.asarray(values) for values in roc.lines[0].get_data())
    for value, rate in zip(far, tar, strict=True):
        assert rate == verification.tar[verification.far <= value].max()
    floor = 0.5 / len(verification.genuine_score_P)
    np.testing.assert_allclose(np.asarray(det.lines[0].get_ydata()), np.maximum(1 - tar, floor))
    marks = [np.asarray(axes.lines[-1].get_xydata()).tolist() for axes in (roc, det)]
    assert marks == [
        [[recommended.far.value, recommended.tar.value]],
        [[recommended.far.value, 1 - recommended.tar.value]],
    ]
    assert f"equal error rate {100 * verification.equal_error_rate[0]:.3g} %" in legend(figure)
    assert figure.get_suptitle() == "Walkers, $test$�"


def test_reliability_is_drawn_bin_by_bin() -> None:
    chance = np.random.default_rng(0)
    sample = PairSample(chance.normal(0.6, 0.2, 200), chance.normal(0.2, 0.2, 900))
    table = reliability(fit_calibration(sample, "logistic", model="m"), sample, prior=0.1)
    (axes,) = draw_reliability(table, title="Walkers").axes
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), np.stack((table.said_B, table.true_B), axis=1))
    assert "prior 10 %" in axes.get_title()


@pytest.mark.parametrize("matrix", [[[0.1, 0.5], [0.6, 0.2]], [[0.3, 0.3], [0.3, 0.3]]], ids=["perfect", "all equal"])
def test_extremes_are_drawn_and_written(matrix: list[list[float]], tmp_path: Path) -> None:
    """No error at all, no difference at all, a rate that is too small to measure: pictures without a warning."""
    pairs = VerificationPairs.of(DistanceMatrix(np.array(matrix)), labels("q", "ab"), labels("g", "ab"), GENERAL)
    verification = verify(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rate in (0.5, 0.01):
            recommended = recommend_threshold(pairs, verification, rate, draws=20)
            save_figure(draw_errors(verification, title="<b>&", recommended=recommended), tmp_path / "picture.svg")
            assert ElementTree.parse(tmp_path / "picture.svg").getroot().tag.endswith("}svg")
