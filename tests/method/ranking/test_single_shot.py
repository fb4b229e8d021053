"""Galleries of one tracklet per person: drawn by the stated rule, and the spread of their scores."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest

from ccvid.config import ScoreOptions
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol
from ccvid.retrieval.ranking.scoring import score
from ccvid.retrieval.ranking.single_shot import Spread, draw_gallery, score_single_shot
from ccvid.retrieval.report.tables import metrics_table
from tests.method.retrieval_oracle import loop_over_queries, mean


def made(prefix: str, size: int, seed: int) -> RetrievalLabels:
    random = np.random.default_rng(seed)
    person, camera, clothes = (tuple(map(str, random.integers(0, most, size).tolist())) for most in (5, 9, 2))
    return RetrievalLabels(tuple(f"{prefix}{row}" for row in range(size)), person, camera, clothes)


QUERY, GALLERY = made("q", 20, 1), made("g", 60, 2)
MATRIX = np.random.default_rng(3).random((20, 60))


def drawn_by_the_rule(gallery: RetrievalLabels, draw: int) -> list[int]:
    """The rule of the module, written differently."""
    generator = np.random.Generator(np.random.PCG64(draw))
    chosen = []
    for person in sorted(set(gallery.person)):
        own = [row for row in range(len(gallery)) if gallery.person[row] == person]
        chosen.append(own[int(generator.random() * len(own))])
    return sorted(chosen)


def test_each_draw_has_one_tracklet_a_person_by_the_stated_rule() -> None:
    draws = [draw_gallery(GALLERY, draw).tolist() for draw in range(20)]
    assert draws == [drawn_by_the_rule(GALLERY, draw) for draw in range(20)]
    assert all(sorted(GALLERY.person[row] for row in rows) == sorted(set(GALLERY.person)) for rows in draws)
    assert len(set(map(tuple, draws))) > 15
    assert draws[:3] == [[4, 9, 17, 38, 48], [6, 14, 23, 52, 56], [11, 13, 18, 34, 53]]  # on every machine


def test_equals_plain_loops_over_the_drawn_galleries() -> None:
    protocols = [PROTOCOLS["general"], Protocol("anywhere", differ=())]
    single_shot = score_single_shot(DistanceMatrix(MATRIX), QUERY, GALLERY, protocols, draws=10)
    assert (single_shot.draws, single_shot.left_out) == (10, {})
    for protocol in protocols:
        precisions, penalties, top_5 = [], [], []
        for draw in range(10):
            rows = drawn_by_the_rule(GALLERY, draw)
            found = loop_over_queries(MATRIX[:, rows].tolist(), QUERY, GALLERY.take(rows), protocol)
            matched = [figure for figure in found if figure]
            precisions.append(mean([figure.average_precision for figure in matched]))
            penalties.append(mean([figure.inverse_negative_penalty for figure in matched]))
            top_5.append(sum(figure.first_match_rank <= 5 for figure in matched) / len(matched))
        result = single_shot.protocols[protocol.name]
        for spread, values in (
            (result.mean_average_precision, precisions),
            (result.mean_inverse_negative_penalty, penalties),
            (result.cmc[5], top_5),
        ):
            assert spread == Spread(statistics.fmean(values), statistics.stdev(values))


def test_embeddings_give_the_figures_of_their_matrix() -> None:
    random = np.random.default_rng(0)
    distances = CosineDistances(random.standard_normal((20, 8)), random.standard_normal((60, 8)), gallery_block=7)
    matrix = np.concatenate([block.values for block in distances.blocks()], axis=1)
    protocols = list(PROTOCOLS.values())[:3]
    found, expected = (
        score_single_shot(given, QUERY, GALLERY, protocols, draws=3) for given in (distances, DistanceMatrix(matrix))
    )
    assert found == expected


def test_in_metrics_json_and_in_the_table() -> None:
    scores = score(DistanceMatrix(MATRIX), QUERY, GALLERY, ScoreOptions(single_shot_draws=4))
    written = json.loads(json.dumps(scores.to_json()))
    assert written["single_shot"]["draws"] == 4
    general = written["single_shot"]["protocols"]["general"]
    assert set(general) == {"map", "minp", "cmc"}
    assert list(general["cmc"]) == ["1", "5", "10", "20"]
    assert list(general["cmc"]["1"]) == list(general["map"]) == ["mean", "sd"]
    table = metrics_table(scores.evaluation, scores.single_shot)
    assert "One gallery tracklet per person, 4 draws (%)" in table
    shown = f"{100 * general['map']['mean']:.1f} ± {100 * general['map']['sd']:.1f}"
    assert shown in table.split("One gallery")[1]

    one = score(DistanceMatrix(MATRIX), QUERY, GALLERY, ScoreOptions(single_shot_draws=1))
    assert one.single_shot is not None
    assert one.single_shot.protocols["general"].mean_average_precision.sd is None
    assert "±" not in metrics_table(one.evaluation, one.single_shot)

    none = score(DistanceMatrix(MATRIX), QUERY, GALLERY, ScoreOptions())
    assert "single_shot" not in none.to_json()


def test_a_protocol_that_some_draw_cannot_serve_is_left_out() -> None:
    """One of two gallery entries is junk: a draw of it leaves nothing to match."""
    query = RetrievalLabels(("q",), ("A",), ("1",), (None,))
    gallery = RetrievalLabels(("g0", "g1", "g2"), ("A", "A", "B"), ("1", "2", "2"), (None,) * 3)
    misses = [draw for draw in range(10) if draw_gallery(gallery, draw)[0] == 0]
    scores = score(DistanceMatrix(np.zeros((1, 3))), query, gallery, ScoreOptions(single_shot_draws=10))
    assert scores.single_shot is not None
    assert scores.single_shot.protocols == {}
    assert scores.single_shot.left_out == {"general": f"draw {misses[0]}: no query has a match in the gallery"}
    assert scores.to_json()["single_shot"] == {"draws": 10, "protocols": {}, "left_out": scores.single_shot.left_out}


@pytest.mark.parametrize("name", ["general", "clothes_changing"])
def test_the_whole_gallery_is_scored_as_without_draws(name: str) -> None:
    with_draws = score(DistanceMatrix(MATRIX), QUERY, GALLERY, ScoreOptions(single_shot_draws=2)).evaluation
    without = score(DistanceMatrix(MATRIX), QUERY, GALLERY, ScoreOptions()).evaluation
    assert with_draws.results[name].to_json() == without.results[name].to_json()
