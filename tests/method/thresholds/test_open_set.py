"""Identification against a watch-list equals plain loops over queries and candidates, ties included."""

from __future__ import annotations

import json
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol
from ccvid.retrieval.thresholds import open_set as module
from ccvid.retrieval.thresholds.open_set import OpenSetPoint, open_set
from data_tools.errors import InputError
from tests.method.ranking.test_metrics import CutMatrix, problems
from tests.method.retrieval_oracle import loop_over_queries
from tests.method.thresholds.test_verification import EVERY, embedded, labels, plain_scores

GENERAL = PROTOCOLS["general"]


def loops(
    problem: tuple[CutMatrix, RetrievalLabels, RetrievalLabels], protocol: Protocol, enrolled: set[str]
) -> tuple[list[tuple[float, int]], list[float]]:
    """Score and rank of the mate of each mated query, best score of each non-mated one."""
    distances, query, gallery = problem
    figures = loop_over_queries(distances.matrix.tolist(), query, gallery, protocol)
    entries = protocol.taking_part(gallery).tolist()
    mated, alarms = [], []
    for q in protocol.taking_part(query).tolist():
        figure, own = figures[q], query.person[q]
        best: dict[str, float] = {}
        for g in entries:
            if gallery.person[g] in enrolled - {own}:
                best[gallery.person[g]] = max(best.get(gallery.person[g], -9.0), 1 - distances.matrix[q, g])
        if figure and own in enrolled:
            mate = max(1 - distances.matrix[q, g] for g in figure.matches)
            mated.append((mate, 1 + sum(score >= mate for score in best.values())))
        else:
            alarms.append(max(best.values(), default=-np.inf))
    return mated, alarms


def check(point: OpenSetPoint, mated: list[tuple[float, int]], alarms: list[float]) -> None:
    if point.threshold is None or point.fnir is None:
        assert point.reason
        assert not mated or point.asked_fpir * len(alarms) < 1
        return
    threshold = point.threshold.mean
    assert sum(alarm >= threshold for alarm in alarms) / len(alarms) <= point.asked_fpir
    lower = max(alarm for alarm in alarms if alarm < threshold)
    assert sum(alarm >= lower for alarm in alarms) / len(alarms) > point.asked_fpir, "a lower one would not do"
    for rank, rate in point.fnir.items():
        assert rate.mean == pytest.approx(np.mean([place > rank or mate < threshold for mate, place in mated]))


@settings(max_examples=200, deadline=None)
@given(problems(), st.sampled_from(EVERY), st.sampled_from([1, 2**26]), st.integers(0, 3))
def test_equals_plain_loops(
    problem: tuple[CutMatrix, RetrievalLabels, RetrievalLabels], protocol: Protocol, held: int, seed: int
) -> None:
    distances, query, gallery = problem
    genuine, impostor = plain_scores(problem, protocol)
    if protocol.obstacle(query, gallery) or not genuine or not impostor:
        return
    there = {gallery.person[g] for g in protocol.taking_part(gallery)}
    asked = sorted({query.person[q] for q in protocol.taking_part(query)})
    with patch.object(module, "BEST_BYTES", held):
        found = open_set(distances, query, gallery, protocol, fpirs=(0.2, 0.5), ranks=(1, 2), draws=1, seed=seed)
    assert found.draws == (1 if there.issuperset(asked) else 0)
    enrolled = there
    if found.draws:
        everyone = sorted({query.person[q] for q in protocol.taking_part(query)} | there)
        codes = [everyone.index(name) for name in asked]
        left_out = np.random.Generator(np.random.PCG64(seed)).permutation(codes)[: len(asked) // 2]
        enrolled = there - {everyone[code] for code in left_out}
    mated, alarms = loops(problem, protocol, enrolled)
    assert (found.enrolled.mean, found.mated.mean, found.non_mated.mean) == (len(enrolled), len(mated), len(alarms))
    for point in found.points:
        check(point, mated, alarms)


def test_draws_are_averaged_by_seed_and_the_same_whatever_the_blocks() -> None:
    query, gallery, sides = embedded(120, 90, 12)
    texts = []
    for block, held, seed in ((8192, 2**26, 0), (7, 1, 0), (8192, 2**26, 1)):
        with patch.object(module, "BEST_BYTES", held):
            distances = CosineDistances(query, gallery, gallery_block=block)
            found = open_set(distances, *sides, GENERAL, fpirs=(0.1,), draws=8, seed=seed)
        texts.append(json.dumps(found.to_json()))
    assert texts[0] == texts[1] != texts[2]
    assert found.enrolled.mean == 6
    assert found.enrolled.sd == 0
    (point,) = found.points
    assert point.fnir is not None
    assert point.fnir[1].sd is not None
    assert point.fnir[1].sd > 0
    assert point.fnir[1].mean >= point.fnir[20].mean


def test_strangers_among_the_queries_need_no_draw() -> None:
    """Of person a, one query is found and one is below the threshold set by person x's third-highest false alarm."""
    matrix = np.array([[0.1, 0.9], [0.8, 0.9], [0.5, 0.9], [0.6, 0.9], [0.7, 0.9], [0.75, 0.9]])
    asked, there = labels("q", "aaxxxx"), labels("g", "ab")
    found = open_set(DistanceMatrix(matrix), asked, there, GENERAL, fpirs=(0.5, 0.01))
    assert (found.draws, found.mated.mean, found.non_mated.mean) == (0, 2, 4)
    half, hundredth = found.points
    assert half.threshold is not None
    assert half.fnir is not None
    assert half.threshold.mean == np.nextafter(1 - 0.7, 1)
    assert (half.fnir[1].mean, half.threshold.sd) == (0.5, None)
    assert hundredth.reason == "4 non-mated queries are too few for a rate of 0.01; 100 are needed"
    assert hundredth.fnir is None


def test_a_query_whose_person_is_there_as_junk_alone_is_non_mated() -> None:
    matrix = np.array([[0.1, 0.9], [0.2, 0.9], [0.1, 0.3]])
    asked, there = labels("q", "aab", "122"), labels("g", "ab", "13")
    found = open_set(DistanceMatrix(matrix), asked, there, GENERAL, draws=1)
    # q0 sees its person only on its own camera; of q1 and q2 one is not enrolled, whichever persons are drawn.
    assert (found.mated.mean, found.non_mated.mean) == (1, 2)


@pytest.mark.parametrize("fpir", [0.0, 1.0, float("nan")])
def test_a_rate_that_is_none(fpir: float) -> None:
    query, gallery, sides = embedded(20, 30, 5)
    with pytest.raises(InputError, match=f"false positive identification rate {fpir}, expected"):
        open_set(CosineDistances(query, gallery), *sides, GENERAL, fpirs=(fpir,))
