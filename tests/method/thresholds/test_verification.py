"""Verification rates equal plain counts over all pairs, ties included, for any blocks."""

from __future__ import annotations

import itertools
import json
import re
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol
from ccvid.retrieval.thresholds import verification
from ccvid.retrieval.thresholds.verification import Verification, VerificationPairs, verify
from data_tools.errors import InputError
from tests.method.ranking.test_metrics import OWN, CutMatrix, problems
from tests.method.retrieval_oracle import loop_over_queries

EVERY = (*PROTOCOLS.values(), *OWN)
GENERAL = PROTOCOLS["general"]


def labels(prefix: str, person: str, camera: str | None = None) -> RetrievalLabels:
    """One tracklet per letter."""
    ids = tuple(f"{prefix}{row}" for row in range(len(person)))
    return RetrievalLabels(ids, tuple(person), tuple(camera or prefix * len(person)), (None,) * len(person))


def embedded(
    queries: int, gallery: int, persons: int
) -> tuple[np.ndarray, np.ndarray, tuple[RetrievalLabels, RetrievalLabels]]:
    """Noisy directions of persons, rounded so that some scores are equal."""
    chance = np.random.default_rng(4)
    centre = chance.integers(-2, 3, (persons, 6))
    sides = []
    for prefix, size in (("q", queries), ("g", gallery)):
        person = chance.integers(0, persons, size)
        embedding = (centre[person] + chance.integers(-2, 3, (size, 6)) + [0, 0, 0, 0, 0, 0.5]).astype(np.float32)
        ids = tuple(f"{prefix}{row}" for row in range(size))
        names, cameras = (tuple(map(str, column.tolist())) for column in (person, chance.integers(0, 3, size)))
        sides.append((embedding, RetrievalLabels(ids, names, cameras, (None,) * size)))
    return sides[0][0], sides[1][0], (sides[0][1], sides[1][1])


def plain_scores(
    problem: tuple[CutMatrix, RetrievalLabels, RetrievalLabels], protocol: Protocol
) -> tuple[list[float], list[float]]:
    """Genuine and impostor scores by the evaluator's oracle."""
    distances, query, gallery = problem
    figures = loop_over_queries(distances.matrix.tolist(), query, gallery, protocol)
    genuine = [1 - distances.matrix[q, g] for q, figure in enumerate(figures) if figure for g in figure.matches]
    rows, columns = protocol.taking_part(query), protocol.taking_part(gallery)
    everyone = itertools.product(rows.tolist(), columns.tolist())
    impostor = [1 - distances.matrix[q, g] for q, g in everyone if query.person[q] != gallery.person[g]]
    return genuine, impostor


def check(found: Verification, genuine: list[float], impostor: list[float]) -> None:
    assert found.genuine_score_P.tolist() == sorted(genuine)
    assert found.impostors == len(impostor)
    genuine_P1, impostor_N1 = np.array(genuine)[:, None], np.array(impostor)[:, None]
    np.testing.assert_array_equal(found.impostors_from_T, np.count_nonzero(impostor_N1 >= found.threshold_T, axis=0))
    np.testing.assert_array_equal(found.impostors_above_T, np.count_nonzero(impostor_N1 > found.threshold_T, axis=0))
    np.testing.assert_array_equal(found.tar, np.mean(genuine_P1 >= found.threshold_T, axis=0))
    truth, score = [1] * len(genuine) + [0] * len(impostor), genuine + impostor
    assert found.auc == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    far, tar, _ = roc_curve(truth, score, drop_intermediate=False)
    corners = itertools.pairwise(zip(far.tolist(), tar.tolist(), strict=True))
    (f0, t0), (f1, t1) = next(segment for segment in corners if sum(segment[1]) >= 1)
    eer, threshold = found.equal_error_rate
    assert eer == pytest.approx(f0 + (1 - f0 - t0) / (f1 + t1 - f0 - t0) * (f1 - f0), abs=1e-12)
    assert threshold in found.threshold_T
    for asked in (0.5, 0.2):
        point = found.operating_point(asked)
        if point.threshold is None or point.far is None:
            assert asked * len(impostor) < 1
            continue
        assert point.far == np.mean(np.array(impostor) >= point.threshold)
        assert point.tar == np.mean(np.array(genuine) >= point.threshold)
        assert point.far <= asked
        assert point.tar == tar[far <= asked].max(), "no threshold does better"


@settings(max_examples=200, deadline=None)
@given(problems(), st.sampled_from(EVERY), st.sampled_from([5, 2**16]), st.sampled_from([2, 2**17]))
def test_equals_plain_counts(
    problem: tuple[CutMatrix, RetrievalLabels, RetrievalLabels], protocol: Protocol, sampled: int, highest: int
) -> None:
    genuine, impostor = plain_scores(problem, protocol)
    distances, query, gallery = problem
    if protocol.obstacle(query, gallery) or not genuine or not impostor:
        with pytest.raises(InputError, match=f"protocol {protocol.name}: "):
            VerificationPairs.of(distances, query, gallery, protocol)
        return
    with (
        patch.object(verification, "SAMPLED_IMPOSTORS", sampled),
        patch.object(verification, "HIGHEST_IMPOSTORS", highest),
    ):
        check(verify(VerificationPairs.of(distances, query, gallery, protocol)), genuine, impostor)


def test_the_same_figures_whatever_the_blocks() -> None:
    query, gallery, sides = embedded(60, 90, 12)
    found = [
        verify(VerificationPairs.of(CosineDistances(query, gallery, query_block=q, gallery_block=g), *sides, GENERAL))
        for q, g in ((256, 8192), (7, 11), (1, 90))
    ]
    first = json.dumps(found[0].to_json())
    assert all(json.dumps(other.to_json()) == first for other in found[1:])
    assert json.loads(first)["roc"][-1]["tar"] == 1


def test_the_curve_and_the_histogram_tell_the_counts() -> None:
    query, gallery, sides = embedded(60, 90, 12)
    pairs = VerificationPairs.of(CosineDistances(query, gallery), *sides, GENERAL)
    found = verify(pairs)
    impostor_N = pairs.impostor_sample(10**6)
    assert len(impostor_N) == found.impostors
    curve = found.roc(points=50)
    assert len(curve) <= 51
    assert [far for far, _, _ in curve] == sorted(far for far, _, _ in curve)
    for far, tar, threshold in curve:
        assert far == np.mean(impostor_N >= threshold)
        assert tar == np.mean(found.genuine_score_P >= threshold)
    for share_B, score in zip(found.histogram(), (found.genuine_score_P, impostor_N), strict=True):
        np.testing.assert_allclose(share_B, np.histogram(score, found.edge_B)[0] / len(score), atol=1e-12)


def test_too_few_impostors_for_a_rate_are_said_to_be() -> None:
    distances = DistanceMatrix(np.array([[0.1, 0.5, 0.6, 0.7]]))
    pairs = VerificationPairs.of(distances, labels("q", "a"), labels("g", "abcd"), GENERAL)
    point = verify(pairs).operating_point(0.1)
    assert (point.threshold, point.far, point.tar) == (None, None, None)
    assert point.reason == "3 impostor pairs are too few for a rate of 0.1; 10 are needed"
    asked = verify(pairs).operating_point(0.34)
    assert (asked.far, asked.tar) == (1 / 3, 1.0)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=re.escape(f"false accept rate {rate}, expected")):
            verify(pairs).operating_point(rate)


@pytest.mark.parametrize(
    ("persons", "message"),
    [
        (("a", "aa"), "protocol general: 2 genuine and 0 impostor pairs, expected at least one of each"),
        (("a", "bc"), "protocol general: 0 genuine and 2 impostor pairs, expected at least one of each"),
        (("a", "abc"), r"distances have shape \(1, 2\), expected \(1, 3\)"),
        (("", "ab"), r"distances have shape \(1, 2\), expected \(0, 2\)"),
    ],
)
def test_what_cannot_be_compared(persons: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VerificationPairs.of(
            DistanceMatrix(np.array([[0.1, 0.2]])), labels("q", persons[0]), labels("g", persons[1]), GENERAL
        )


def test_a_sample_of_impostors_is_drawn_by_seed_and_holds_no_genuine_pair() -> None:
    query, gallery, sides = embedded(60, 90, 12)
    pairs = VerificationPairs.of(CosineDistances(query, gallery), *sides, GENERAL)
    drawn = [pairs.impostor_sample(500, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 400 < len(drawn[0]) < 500
    assert set(drawn[0]) <= set(pairs.impostor_sample(10**6).tolist())
