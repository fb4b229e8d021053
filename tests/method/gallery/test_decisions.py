"""Thresholds and probabilities from results, applied to other matches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ccvid.config import ScoreOptions, ThresholdOptions
from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.gallery.decisions import Decisions, FarElsewhere, read_decisions
from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.scoring import ScoredRetrieval, score
from ccvid.retrieval.results import write_results
from ccvid.retrieval.thresholds.separation import Separation
from data_tools.errors import InputError
from data_tools.storage import StorageFolder

ROW = EmbeddingRow("t", None, None, "east", "gallery", {}, 1, "s")


def scored(persons: int, noise: float) -> ScoredRetrieval:
    random = np.random.default_rng(0)
    face = random.standard_normal((persons, 8))
    person = np.repeat(np.arange(persons), 4)
    sides, labels = [], []
    for prefix in "qg":
        sides.append((face[person] + noise * random.standard_normal((len(person), 8))).astype(np.float32))
        ids = tuple(f"{prefix}{number}" for number in range(len(person)))
        labels.append(RetrievalLabels(ids, tuple(map(str, person)), (prefix,) * len(person), (None,) * len(person)))
    return score(CosineDistances(*sides), labels[0], labels[1], ScoreOptions())


def results(folder: Path, scores: ScoredRetrieval, far: float = 0.05) -> StorageFolder:
    folder.mkdir(exist_ok=True)
    options = ScoreOptions(report=False, threshold=ThresholdOptions(far=far, draws=100))
    write_results(folder, scores, options, model="m", title="t", facts={})
    return StorageFolder(str(folder))


def matches(score_QK: list[list[float]]) -> RankedMatches:
    values = np.array(score_QK)
    return RankedMatches([ROW] * len(values), [ROW], np.zeros(values.shape, np.int64), values)


def test_what_results_hold_is_laid_on_other_scores(tmp_path: Path) -> None:
    place = results(tmp_path / "run", scored(20, 0.6))
    found = read_decisions(place)
    written = json.loads((tmp_path / "run" / "thresholds.json").read_text())
    assert found.threshold == written["recommended"]["threshold"]["value"]
    assert found.calibration is not None
    laid = found.add_probabilities(matches([[0.9, 0.1]]), model="m").probability_QK
    assert laid is not None
    np.testing.assert_array_equal(laid, found.calibration.probability(np.array([[0.9, 0.1]]), model="m"))
    doubtful = found.add_probabilities(matches([[0.9, 0.1]]), model="m", prior=1e-4).probability_QK
    assert doubtful is not None
    assert (doubtful < laid).all()
    with pytest.raises(InputError, match="run: threshold and probabilities are for embeddings of another model"):
        found.add_probabilities(matches([[0.5]]), model="other")


def test_too_few_people_give_neither_and_earlier_ones_go(tmp_path: Path) -> None:
    results(tmp_path / "run", scored(20, 0.6))
    found = read_decisions(results(tmp_path / "run", scored(2, 0.6), far=1e-6))
    assert found == Decisions(str(tmp_path / "run"), "m", None, None, separation=found.separation)
    assert "no threshold for a false accept rate of 0.0001 %" in (tmp_path / "run" / "metrics.txt").read_text()
    assert found.add_probabilities(matches([[0.5]]), model="m").probability_QK is None


def test_what_cannot_be_read(tmp_path: Path) -> None:
    place = StorageFolder(str(tmp_path))
    with pytest.raises(InputError, match=r"no thresholds\.json; give results of train\.py or evaluate\.py"):
        read_decisions(place)
    (tmp_path / "thresholds.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"thresholds\.json: model: Input should be a valid string"):
        read_decisions(place)
    (tmp_path / "thresholds.json").write_text('{"model": "m", "recommended": {"threshold": {"value": NaN}}}')
    with pytest.raises(InputError, match=r"thresholds\.json: recommended\.threshold\.value: Input should be a finite"):
        read_decisions(place)


def test_files_of_two_evaluations_are_refused(tmp_path: Path) -> None:
    place = results(tmp_path / "run", scored(20, 0.6))
    calibration = json.loads(place.read("calibration.json")) | {"model": "other"}
    (tmp_path / "run" / "calibration.json").write_text(json.dumps(calibration))
    with pytest.raises(
        InputError, match=r"calibration\.json: is for model 'other', but thresholds\.json next to it for model 'm'"
    ):
        read_decisions(place)


def test_unlabelled_data_is_compared_with_that_of_the_threshold() -> None:
    there = Separation(random_median=0.0, random_spread=0.1, first_median=0.8)
    decisions = Decisions("run", "m", 0.5, None, FarElsewhere(low=0.001, high=0.05), there)
    chance = np.random.default_rng(0)
    alike = decisions.compared(0.1 * chance.normal(size=5000), np.full(9, 0.8))
    assert [line.split(";")[0] for line in alike] == [
        "first matches stand out by 7.9 spreads of random pairs",
        "0 % of random pairs reach the threshold",
    ]
    assert alike[1].endswith("false accepts expected on other cameras: 0.1 to 5 %")
    warnings = [line for line in decisions.compared(chance.normal(size=5000), np.full(9, 0.8)) if "warning" in line]
    assert "matches stand out much less here" in warnings[0]
    assert "this data looks unlike that of run" in warnings[1]
    assert decisions.compared(np.empty(0), np.empty(0)) == []
    assert Decisions("run", "m", None, None).compared(np.zeros(5), np.ones(5)) == []


def test_results_tell_of_other_cameras_and_of_separation(tmp_path: Path) -> None:
    found = read_decisions(results(tmp_path / "run", scored(20, 0.6)))
    assert found.separation is not None
    assert found.separation.first_median > found.separation.random_median
    text = (tmp_path / "run" / "metrics.txt").read_text()
    assert "other cameras" in text
