"""Verification figures against plain loops and scikit-learn, and thresholds against what they promise."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ccvid.retrieval.distances import CosineDistances, DistanceMatrix
from ccvid.retrieval.labels import RetrievalLabels
from ccvid.retrieval.metrics import ProtocolResult, evaluate
from ccvid.retrieval.thresholds import recommend_threshold
from ccvid.retrieval.verification import BIN, PairScores, score_pairs, verify
from data_tools.errors import InputError


def made(persons: int, each: int, noise: float, seed: int = 0) -> tuple[np.ndarray, RetrievalLabels]:
    """Embeddings around a direction for each person; before two cameras, in two outfits."""
    chance = np.random.default_rng(seed)
    centre = chance.normal(size=(persons, 12))
    person = np.arange(persons * each) // each
    embedding = centre[person] + noise * chance.normal(size=(persons * each, 12))
    number = np.arange(persons * each) % each
    labels = RetrievalLabels(
        tuple(f"{seed}-{row}" for row in range(len(person))),
        tuple(f"p{code}" for code in person),
        tuple(f"c{code % 2}" for code in number),
        tuple(f"o{code // 2 % 2}" for code in number),
    )
    return embedding.astype(np.float32), labels


def pairs_of(
    protocol: str = "general", *, tail_pairs: int = 2**20, block: int = 8192, noise: float = 1.0
) -> tuple[PairScores, list[float], list[float]]:
    """Pairs of made embeddings, and by plain loops the genuine and the impostor scores."""
    query, asked = made(15, 4, noise)
    gallery, there = made(15, 4, noise, seed=1)
    gallery = query + 0.5 * gallery
    distances = CosineDistances(query, gallery, query_block=7, gallery_block=block)
    result = evaluate(distances, asked, there).results[protocol]
    genuine, impostor = [], []
    rows, columns = np.indices(distances.shape).reshape(2, -1)
    score = 1.0 - distances.pairs(rows, columns)
    for q, g, value in zip(rows, columns, score.tolist(), strict=True):
        if asked.person[q] != there.person[g]:
            impostor.append(value)
        elif asked.camera[q] != there.camera[g] and (protocol == "general" or asked.clothes[q] != there.clothes[g]):
            genuine.append(value)
    return score_pairs(distances, asked, there, result, tail_pairs=tail_pairs), genuine, impostor


@pytest.mark.parametrize("protocol", ["general", "clothes_changing"])
def test_the_pairs_are_those_of_plain_loops(protocol: str) -> None:
    pairs, genuine, impostor = pairs_of(protocol)
    assert sorted(pairs.genuine_M.tolist()) == sorted(genuine)
    assert pairs.tail.score_N.tolist() == sorted(impostor, reverse=True)
    assert pairs.impostors == len(impostor)


def test_every_figure_equals_a_plain_count() -> None:
    pairs, genuine, impostor = pairs_of()
    found = verify(pairs, (0.5, 0.1, 0.01, 0.001))
    for rate, point in found.at.items():
        assert point is not None
        assert point.false_accept_rate == np.mean(np.array(impostor) >= point.threshold)
        assert point.true_accept_rate == np.mean(np.array(genuine) >= point.threshold)
        assert point.false_accept_rate <= rate
        assert np.mean(np.array(impostor) >= point.threshold - BIN) > rate, "the lowest of such thresholds"
    truth = [1] * len(genuine) + [0] * len(impostor)
    assert found.area == pytest.approx(roc_auc_score(truth, genuine + impostor), abs=1e-4)
    every = sorted({*genuine, *impostor})
    errors = [(np.mean(np.array(impostor) >= t), np.mean(np.array(genuine) < t)) for t in every]
    equal = min(errors, key=lambda pair: abs(pair[0] - pair[1]))
    assert found.equal_error_rate == pytest.approx(sum(equal) / 2, abs=0.01)


def test_block_sizes_do_not_matter() -> None:
    first, second = (pairs_of(block=block, tail_pairs=100)[0] for block in (3, 8192))
    assert verify(first).to_json() == verify(second).to_json()
    assert recommend_threshold(first, 0.01).to_json() == recommend_threshold(second, 0.01).to_json()


def test_too_few_pairs_for_a_rate_give_none_and_say_why() -> None:
    pairs, _, impostor = pairs_of()
    assert verify(pairs, (1e-9,)).at[1e-9] is None
    with pytest.raises(InputError, match=rf"needs 1,000,000,000 impostor pairs, and there are {len(impostor):,}"):
        recommend_threshold(pairs, 1e-9)
    short, _, _ = pairs_of(tail_pairs=50)
    with pytest.raises(InputError, match=r"the highest \d+ were kept; ask for a lower rate"):
        recommend_threshold(short, 0.5)


@pytest.mark.parametrize("rate", [0.2, 0.01, 0.001])
def test_the_threshold_keeps_its_promise(rate: float) -> None:
    pairs, genuine, impostor = pairs_of()
    found = recommend_threshold(pairs, rate)
    assert found.false_accept_rate == np.mean(np.array(impostor) >= found.threshold) <= rate
    assert found.true_accept_rate == np.mean(np.array(genuine) >= found.threshold)
    below = max(score for score in impostor if score < found.threshold)
    assert np.mean(np.array(impostor) >= below) > rate
    assert found.threshold_interval.low <= found.threshold <= found.threshold_interval.high
    assert found.true_accept_interval.low <= found.true_accept_rate <= found.true_accept_interval.high


def test_the_bootstrap_equals_a_drawn_data_set() -> None:
    """Weights of pairs, against pairs that are really written out as often as their persons were drawn."""
    pairs, _, _ = pairs_of()
    count_P = np.random.default_rng(3).multinomial(15, np.full(15, 1 / 15))
    written = [
        score
        for score, (a, b) in zip(pairs.tail.score_N, pairs.tail.person_N2, strict=True)
        for _ in range(count_P[a] * count_P[b])
    ]
    both = (count_P @ pairs.query_P) * (count_P @ pairs.gallery_P)
    assert len(written) == both - (count_P**2) @ (pairs.query_P * pairs.gallery_P)


def test_the_interval_covers_other_people() -> None:
    """Thresholds from 30 persons: their 95 % intervals for the rate should hold the true rate in most draws."""
    true_rate, rate, inside = [], 0.02, 0
    for seed in range(20):
        embedding, labels = made(30, 4, 1.0, seed=100 + seed)
        distances = CosineDistances(embedding, embedding)
        pairs = score_pairs(distances, labels, labels, evaluate(distances, labels, labels).results["general"])
        found = recommend_threshold(pairs, rate, draws=200)
        other, names = made(200, 1, 1.0, seed=900 + seed)
        rows, columns = map(np.array, zip(*itertools.combinations(range(200), 2), strict=True))
        true = float(np.mean(1 - CosineDistances(other, other).pairs(rows, columns) >= found.threshold))
        assert len(set(names.person)) == 200
        true_rate.append(true)
        inside += found.false_accept_interval.low <= true <= found.false_accept_interval.high
    assert np.mean(true_rate) == pytest.approx(rate, rel=0.3)
    assert inside >= 14


def test_what_cannot_be_judged() -> None:
    query = RetrievalLabels(("a", "b"), ("x", "x"), ("1", "1"), (None, None))
    gallery = RetrievalLabels(("c", "d"), ("x", "x"), ("2", "2"), (None, None))
    distances = DistanceMatrix(np.array([[0.1, 0.2], [0.3, 0.4]]))
    result: ProtocolResult = evaluate(distances, query, gallery).results["general"]
    with pytest.raises(InputError, match="4 genuine and 0 impostor pairs"):
        score_pairs(distances, query, gallery, result)
    strangers = replace(gallery, person=("x", "y"))
    far = DistanceMatrix(np.array([[1.0, 50.0], [3.0, 4.0]]))
    with pytest.raises(InputError, match=r"expected cosines in \[-1, 1\]"):
        score_pairs(far, query, strangers, evaluate(far, query, strangers).results["general"])
