"""The referee's controls, and the hash that says which figures answer the same question."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from ccvid.config import ScoreOptions
from ccvid.retrieval.ranking.controls import (
    LEVEL,
    Controls,
    chance_interval,
    oracle_distances,
    random_distances,
    score_controls,
)
from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.labels import ArrowColumn, RetrievalLabels
from ccvid.retrieval.ranking.protocol_hash import protocol_hash, protocol_hashes
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol
from ccvid.retrieval.ranking.scoring import score

OPTIONS = ScoreOptions()


def labels(size: int, prefix: str, *, seed: int, persons: int = 12) -> RetrievalLabels:
    random = np.random.default_rng(seed)
    person, camera, outfit = (random.integers(0, most, size) for most in (persons, 4, 3))
    return RetrievalLabels(
        ids=tuple(f"{prefix}{number}" for number in range(size)),
        person=tuple(f"p{number}" for number in person),
        camera=tuple(f"c{number}" for number in camera),
        clothes=tuple(None if number == 2 else f"o{number}" for number in outfit),
        attributes={"scale": tuple("far" if number % 2 else "near" for number in range(size))},
    )


QUERY, GALLERY = labels(80, "q", seed=1), labels(300, "g", seed=2)


def test_the_oracle_is_perfect_and_the_random_embedder_is_at_chance() -> None:
    controls = score_controls(QUERY, GALLERY, OPTIONS)
    assert controls.problems == []
    results = controls.oracle.evaluation.results
    assert list(results) == ["general", "same_clothes", "clothes_changing", "same_scale", "different_scale"]
    for name, result in results.items():
        assert (result.mean_average_precision, result.cmc(1)) == (1, 1), name
    random = controls.random.evaluation.results["general"]
    assert random.cmc(1) == pytest.approx(random.chance, abs=0.15)


def test_controls_that_are_not_as_they_must_be_are_named() -> None:
    """Two tracklets of the oracle change places; what should be random is nearly perfect, and nearly never right."""
    oracle, random = oracle_distances(QUERY, GALLERY), random_distances(QUERY, GALLERY)
    direction_GD = np.asarray(oracle.gallery_GD).copy()
    other = next(row for row, person in enumerate(GALLERY.person) if person != GALLERY.person[0])
    direction_GD[[0, other]] = direction_GD[[other, 0]]
    wrong = score(CosineDistances(np.asarray(oracle.query_QD), direction_GD), QUERY, GALLERY, OPTIONS)
    problems = Controls(wrong, score(random, QUERY, GALLERY, OPTIONS)).problems
    assert problems
    assert all("the perfect oracle has mAP" in problem for problem in problems)
    leaking = Controls(score(oracle, QUERY, GALLERY, OPTIONS), score(oracle, QUERY, GALLERY, OPTIONS)).problems
    assert "general: the random embedder has top-1 100.00 %" in leaking[0]
    assert "with a probability of 99.9 %" in leaking[0]


@pytest.mark.parametrize("chances", [[0.5], [0.1, 0.9, 0.3], [0.2] * 9, [1.0, 1.0], [0.0, 0.0, 0.5]])
def test_the_interval_of_chance_counts_every_outcome(chances: list[float]) -> None:
    probability_K = np.zeros(len(chances) + 1)
    for outcome in product((0, 1), repeat=len(chances)):
        hits = (chance if hit else 1 - chance for hit, chance in zip(outcome, chances, strict=True))
        probability_K[sum(outcome)] += np.prod(list(hits))
    low, high = (round(share * len(chances)) for share in chance_interval(np.array(chances)))
    tail = (1 - LEVEL) / 2
    assert probability_K[low : high + 1].sum() >= LEVEL
    assert probability_K[:low].sum() <= tail
    assert probability_K[high + 1 :].sum() <= tail
    assert probability_K[: low + 1].sum() > tail
    assert high == 0 or probability_K[high:].sum() >= tail


def test_chance_of_many_queries() -> None:
    low, high = chance_interval(np.full(5000, 0.1))
    assert low == pytest.approx(0.1 - 3.29 * np.sqrt(0.09 / 5000), abs=5e-4)
    assert high == pytest.approx(0.1 + 3.29 * np.sqrt(0.09 / 5000), abs=5e-4)


def test_a_hash_is_of_the_question_alone() -> None:
    """Neither order nor storage changes it; the rule, a label that it looks at, and a missing tracklet do."""
    rule = PROTOCOLS["clothes_changing"]
    expected = protocol_hash(rule, QUERY, GALLERY)
    shuffled = GALLERY.take(np.random.default_rng(0).permutation(len(GALLERY)).tolist())
    ids, person, camera, clothes = (
        ArrowColumn(pa.array(list(column))) for column in (QUERY.ids, QUERY.person, QUERY.camera, QUERY.clothes)
    )
    arrow = RetrievalLabels(ids, person, camera, clothes)
    assert protocol_hash(rule, arrow, shuffled) == expected
    assert protocol_hash(replace(rule, name="other name", differ=("clothes", "camera")), QUERY, GALLERY) == expected
    unseen = replace(GALLERY, attributes={"scale": tuple("near" for _ in GALLERY.ids)})
    assert protocol_hash(rule, QUERY, unseen) == expected, "the rule does not look at the scale"
    changed = [
        (rule, QUERY, GALLERY.take(range(1, len(GALLERY)))),
        (rule, QUERY, replace(GALLERY, camera=("c9", *GALLERY.camera[1:]))),
        (rule, replace(QUERY, person=("p99", *QUERY.person[1:])), GALLERY),
        (replace(rule, differ=("camera",)), QUERY, GALLERY),
        (replace(rule, within={"camera": ("c1", "c2")}), QUERY, GALLERY),
        (Protocol("x", agree=("camera",), differ=("clothes",)), QUERY, GALLERY),
        (rule, GALLERY, QUERY),
    ]
    assert len({expected, *(protocol_hash(*other) for other in changed)}) == 1 + len(changed)


def test_a_hash_does_not_depend_on_how_texts_are_cut() -> None:
    one = RetrievalLabels(("ab", "c"), ("1", "1"), ("x", "y"), (None, None))
    other = RetrievalLabels(("a", "bc"), ("1", "1"), ("x", "y"), (None, None))
    assert protocol_hash(PROTOCOLS["general"], one, QUERY) != protocol_hash(PROTOCOLS["general"], other, QUERY)
    nothing, text = (replace(one, clothes=(value, None)) for value in (None, "null"))
    rule = PROTOCOLS["same_clothes"]
    assert protocol_hash(rule, nothing, QUERY) != protocol_hash(rule, text, QUERY)


def test_a_known_hash() -> None:
    """The same on every machine and in every version: a change of it needs another ``RULE``."""
    query = RetrievalLabels(("q",), ("anna",), ("gate",), ("coat",))
    gallery = RetrievalLabels(("g", "h"), ("anna", "bert"), ("yard", "yard"), ("suit", None))
    assert protocol_hash(PROTOCOLS["clothes_changing"], query, gallery) == (
        "3abf25a968120b73dc68a3d91f2aab0d88b4c50c234121ac2989d3d6ec4f1bd6"
    )


def test_hashes_of_what_was_scored() -> None:
    evaluation = score_controls(QUERY, GALLERY, OPTIONS).oracle.evaluation
    hashes = protocol_hashes(evaluation)
    assert hashes["general"] == protocol_hash(PROTOCOLS["general"], QUERY, GALLERY)
