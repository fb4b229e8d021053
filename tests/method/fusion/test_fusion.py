"""Fused scores against their formula, and fits that never see the person they score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ccvid.config import ScoreOptions
from ccvid.retrieval.fusion.curves import LEAST_RISE, balanced, fit_curves, fit_logistic
from ccvid.retrieval.fusion.evidence import Evidence, PairEvidence, Readings, TrackletEvidence
from ccvid.retrieval.fusion.fitting import fit_fusion
from ccvid.retrieval.fusion.fused import FusedDistances
from ccvid.retrieval.fusion.fusion import OWN, Fusion, SourceFit
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix, Scores
from ccvid.retrieval.ranking.scoring import score
from data_tools.errors import InputError
from tests.method.fusion.made_evidence import Made, make


def source(name: str, **changes: object) -> SourceFit:
    values: dict[str, object] = {
        "name": name,
        "scores": (-0.5, 0.1, 0.9),
        "log_odds": ((-2.0, 0.5, 4.0),),
        "weight": 0.8,
        "genuine_pairs": 5,
        "impostor_pairs": 9,
    }
    return SourceFit.model_validate(values | changes)


FUSION = Fusion(
    protocol="general",
    persons=4,
    sources=(
        source(OWN, model="m"),
        source("face", scores=(0.0, 0.5), log_odds=((-0.3, 1.0), (-1.0, 3.0)), qualities=(0.2, 0.9, 0.4)),
        source("gait", scores=(1.0,), log_odds=((0.3,),), weight=0.5),
    ),
)


def face_of(made: Made) -> TrackletEvidence:
    """With the rows that are hidden left out."""
    known = np.flatnonzero(~made.hidden_N)
    place_N = np.full(len(made.labels), -1)
    place_N[known] = np.arange(len(known))
    faces = CosineDistances(made.face_ND[known], made.face_ND[known])
    return TrackletEvidence("face", faces, place_N, place_N, made.quality_N, made.quality_N)


def gait_of(made: Made, share: float = 0.5) -> PairEvidence:
    count, random = len(made.labels), np.random.default_rng(3)
    key_S = np.flatnonzero(random.uniform(size=count * count) < share)
    return PairEvidence("gait", (count, count), key_S, random.normal(size=len(key_S)), np.full(len(key_S), np.nan))


def evidence_of(made: Made) -> list[Evidence]:
    own = TrackletEvidence.complete(OWN, CosineDistances(made.body_ND, made.body_ND))
    return [own, face_of(made), gait_of(made)]


def by_the_formula(evidence: Sequence[Evidence], query: int, entry: int) -> float:
    """The fused score of one pair, in Python's floats."""
    total = 0.0
    for fit, readings in zip(
        FUSION.sources, (e.pairs(np.array([query]), np.array([entry])) for e in evidence), strict=True
    ):
        found, quality = float(readings.score[0]), float(readings.quality[0])
        if np.isnan(found):
            continue
        ratio, *better = (float(np.interp(found, fit.scores, curve)) for curve in fit.log_odds)
        if better:
            low, high, mean = fit.qualities
            share = (min(max(mean if np.isnan(quality) else quality, low), high) - low) / (high - low)
            ratio = (1 - share) * ratio + share * better[0]
        total += fit.weight * ratio
    return total


def whole(distances: FusedDistances) -> Scores:
    matrix = np.full(distances.shape, np.nan)
    for query_start, gallery_start, values in distances.blocks():
        place = np.s_[query_start : query_start + len(values), gallery_start : gallery_start + values.shape[1]]
        assert np.isnan(matrix[place]).all()
        matrix[place] = values
    return matrix


def test_every_pair_has_the_score_of_the_formula() -> None:
    made = make(5)
    evidence = evidence_of(made)
    matrix = whole(FusedDistances.by_one(evidence, FUSION))
    for query in range(len(matrix)):
        for entry in range(len(matrix)):
            assert 1 - matrix[query, entry] == pytest.approx(by_the_formula(evidence, query, entry), abs=1e-12)


def test_blocks_pairs_and_parts_are_bit_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(7)
    evidence = evidence_of(made)
    count, random = len(made.labels), np.random.default_rng(0)
    fusions = [FUSION, FUSION.only("face"), FUSION.only(OWN)]
    distances = replace(FusedDistances.by_one(evidence, FUSION), fusions=fusions, fusion_Q=random.integers(0, 3, count))
    matrix = whole(distances)
    for name, size in (("QUERY_TILE", 5), ("GALLERY_TILE", 3)):
        monkeypatch.setattr(f"ccvid.retrieval.fusion.fused.{name}", size)
    assert np.array_equal(whole(distances), matrix)
    query_P, gallery_P = random.integers(0, count, (2, 200))
    assert np.array_equal(distances.pairs(query_P, gallery_P), matrix[query_P, gallery_P])
    rows, entries = random.permutation(count)[:9], random.permutation(count)[:11]
    part = distances.take(rows, entries)
    assert np.array_equal(whole(part), matrix[np.ix_(rows, entries)])
    assert np.array_equal(whole(part.take(np.arange(4), np.arange(5))), matrix[np.ix_(rows[:4], entries[:5])])


def test_what_says_nothing_adds_nothing() -> None:
    made = make(4)
    count = len(made.labels)
    silent = PairEvidence("gait", (count, count), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    hidden = replace(face_of(made), query_Q=np.full(count, -1))
    own = evidence_of(made)[0]
    only_own = Fusion(protocol="general", persons=4, sources=FUSION.sources[:1])
    assert np.array_equal(
        whole(FusedDistances.by_one([own, hidden, silent], FUSION)), whole(FusedDistances.by_one([own], only_own))
    )


def test_ranks_of_fused_distances_are_those_of_the_matrix() -> None:
    made = make(8)
    distances = FusedDistances.by_one(evidence_of(made), FUSION)
    found = score(distances, made.labels, made.labels, ScoreOptions()).evaluation
    expected = score(DistanceMatrix(whole(distances)), made.labels, made.labels, ScoreOptions()).evaluation
    for name, result in expected.results.items():
        assert np.array_equal(found.results[name].average_precision_Q, result.average_precision_Q, equal_nan=True)


def mean_precision(distances: FusedDistances, made: Made) -> float:
    return (
        score(distances, made.labels, made.labels, ScoreOptions()).evaluation.results["general"].mean_average_precision
    )


def fitted(made: Made, *others: Evidence, seed: int = 0) -> tuple[Fusion, FusedDistances]:
    own = CosineDistances(made.body_ND, made.body_ND)
    found = fit_fusion(own, others, made.labels, made.labels, models=["m", *("" for _ in others)], seed=seed)
    return found.fusion, found.distances


def test_fused_is_better_than_each_and_quality_counts() -> None:
    made = make(32, 2)
    fusion, distances = fitted(made, face_of(made))
    fused, body, face = (
        mean_precision(some, made) for some in (distances, distances.only(OWN), distances.only("face"))
    )
    assert fused > max(body, face) + 0.05
    low_K, high_K = np.array(fusion.sources[1].log_odds)
    assert np.ptp(high_K) > np.ptp(low_K) + 1
    blind = replace(face_of(made), query_quality_Q=np.full(len(made.labels), np.nan))
    assert fused > mean_precision(fitted(made, blind)[1], made)
    assert fusion.persons == 32
    assert (fusion.model, fusion.names) == ("m", ("face",))


@pytest.mark.parametrize("spoilt", ["body", "face"])
def test_evidence_that_is_noise_does_no_harm(spoilt: str) -> None:
    made = make(24, body_noise=50 if spoilt == "body" else 0.6, face_noise=50 if spoilt == "face" else 0.7)
    _, distances = fitted(made, face_of(made))
    good = mean_precision(distances.only("face" if spoilt == "body" else OWN), made)
    assert mean_precision(distances, made) > good - 0.02


def test_a_query_is_scored_without_its_person() -> None:
    """Changed labels of one person change the scores of others' queries, but not those of its own."""
    made = make(15)
    _, before = fitted(made, face_of(made))
    own = np.flatnonzero(np.array(made.labels.person) == "3")
    spoilt = made.face_ND.copy()
    spoilt[own] = np.random.default_rng(9).normal(size=(len(own), spoilt.shape[1]))
    _, after = fitted(replace(made, face_ND=spoilt), face_of(replace(made, face_ND=spoilt)))
    assert np.array_equal(before.fusion_Q, after.fusion_Q)
    fold = before.fusion_Q[own[0]]
    same = [first == second for first, second in zip(before.fusions, after.fusions, strict=True)]
    assert same == [number == fold for number in range(len(same))]


def test_the_fit_is_the_same_each_time_and_read_back() -> None:
    made = make(10)
    fusion, _ = fitted(made, face_of(made))
    again, _ = fitted(made, face_of(made))
    assert again == fusion
    assert Fusion.model_validate_json(fusion.model_dump_json()).fingerprint == fusion.fingerprint


def test_too_little_to_fit() -> None:
    made = make(6)
    count = len(made.labels)
    one = PairEvidence("gait", (count, count), np.array([3]), np.zeros(1), np.zeros(1))
    with pytest.raises(InputError, match=r"gait: has scores for [01] pairs of one person and [01] pairs of two among"):
        fitted(made, one)


def test_the_logistic_fit_is_at_its_least() -> None:
    """No small step within the bounds lowers the loss; one coefficient is at its bound."""
    random = np.random.default_rng(0)
    genuine_C = np.repeat((1.0, 0.0), (40, 400))
    feature_CF = np.column_stack(
        (genuine_C + random.normal(size=440), -genuine_C + random.normal(size=440), np.ones(440))
    )
    least_F = np.array([0.0, 0.0, -np.inf])
    found_F = fit_logistic(feature_CF, genuine_C, least_F)
    weight_C, doubt_C = balanced(genuine_C), np.where(genuine_C > 0, 1 / 42, 1 / 402)
    target_C = np.where(genuine_C > 0, 1 - doubt_C, doubt_C)

    def loss(coefficient_F: Scores) -> float:
        odds_C = feature_CF @ coefficient_F
        return float(weight_C @ (np.logaddexp(0, odds_C) - target_C * odds_C))

    assert found_F[1] == 0
    assert found_F[0] > 1
    for step_F in 1e-3 * np.concatenate((np.eye(3), -np.eye(3))):
        assert loss(np.maximum(found_F + step_F, least_F)) >= loss(found_F)


def test_curves_rise_and_are_log_likelihood_ratios() -> None:
    random = np.random.default_rng(0)
    score_C = np.concatenate((random.normal(1, 1, 4000), random.normal(-1, 1, 20000)))
    score_K, (ratio_K,) = fit_curves(score_C, np.repeat((1.0, 0.0), (4000, 20000)))
    assert (np.diff(ratio_K) >= LEAST_RISE / 2).all()
    middle = np.linspace(-1.5, 1.5, 13)  # of two normal distributions, the ratio is 2 x
    np.testing.assert_allclose(np.interp(middle, score_K, ratio_K), 2 * middle, atol=0.4)


@pytest.mark.parametrize("score_C", [np.zeros(6), np.array([0.0, 0, 0, 1, 0, 0]), np.arange(6.0)])
def test_curves_of_few_or_equal_scores(score_C: Scores) -> None:
    score_K, (ratio_K,) = fit_curves(score_C, np.array([1.0, 1, 0, 0, 0, 0]))
    assert np.isfinite(ratio_K).all()
    assert (np.diff(score_K) > 0).all()
    assert (np.diff(ratio_K) > 0).all()


def test_unknown_qualities_count_as_the_mean() -> None:
    fit, score_A = FUSION.sources[1], np.array([0.3, 0.3, np.nan])
    found = fit.ratios(Readings(score_A, np.array([np.nan, 0.4, 0.4])))
    assert found[0] == found[1] != 0
    assert found[2] == 0
