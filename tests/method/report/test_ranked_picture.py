"""The picture of rankings shows the right tracklets, marks and words, for any labels."""

from __future__ import annotations

import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ccvid.retrieval.ranking.distances import DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import Evaluation, evaluate
from ccvid.retrieval.report.figures import save_figure
from ccvid.retrieval.report.film_strip import Picture
from ccvid.retrieval.report.ranked_picture import draw_rankings, spread_queries
from data_tools.errors import InputError

PERSONS = ("$x_1$", "<b>&\"'", "a name that is far too long for the room below a picture", "\x00\x1b[0m")


def scored() -> Evaluation:
    """Twelve queries of four persons with hostile names, a gallery of 40, random distances."""
    random = np.random.default_rng(2)
    sides = []
    for prefix, size in (("q", 12), ("g", 40)):
        person = tuple(PERSONS[row % 4] for row in range(size))
        clothes = tuple(f"u{row % 3}" if row % 5 else None for row in range(size))
        ids = tuple(f"{prefix}{row}" for row in range(size))
        sides.append(RetrievalLabels(ids, person, tuple(f"{prefix}{row % 2}" for row in range(size)), clothes))
    return evaluate(DistanceMatrix(random.random((12, 40))), *sides, top_k=8)


def thumbnails(index: int) -> list[Picture]:
    """Frames of another size for each tracklet, as in source shards."""
    return [np.full((40 + index, 20 + frame, 3), 5 * index, np.uint8) for frame in range(3)]


def draw(evaluation: Evaluation, queries: int = 4, places: int = 5) -> Figure:
    return draw_rankings(
        evaluation,
        "clothes_changing",
        query_thumbnails=thumbnails,
        gallery_thumbnails=thumbnails,
        title="Walkers, $test$",
        queries=queries,
        places=places,
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_marks_and_captions_follow_the_ranking() -> None:
    evaluation = scored()
    shown = texts(draw(evaluation))
    ranked = evaluation.ranked_gallery("clothes_changing")
    result = evaluation.results["clothes_changing"]
    queries = spread_queries(result, 4)
    marks = [
        f"{place} {'✓' if ranked.is_match_QK[query, place - 1] else '✗'}" for query in queries for place in range(1, 6)
    ]
    assert [text for text in shown if text[0].isdigit()] == marks
    assert any("✓" in mark for mark in marks)
    assert any("✗" in mark for mark in marks)
    distances = [f"distance {ranked.distance_QK[query, place]:.3f}" for query in queries for place in range(5)]
    assert [text for text in shown if text.startswith("distance")] == distances
    heads = [text for text in shown if "average precision" in text]
    assert [
        f"{100 * result.average_precision_Q[query]:.1f} %" in head for query, head in zip(queries, heads, strict=True)
    ]
    assert "clothes-changing (a match: same person, different camera, different clothes)" in shown
    assert any("12 queries, 3 without a match" in text for text in shown)


def test_queries_run_from_the_hardest_to_the_easiest() -> None:
    result = scored().results["clothes_changing"]
    chosen = spread_queries(result, 4)
    precision = result.average_precision_Q
    assert precision[chosen].tolist() == sorted(precision[chosen])
    assert precision[chosen[0]] == np.nanmin(precision)
    assert precision[chosen[-1]] == np.nanmax(precision)
    everything = spread_queries(result, 100)
    assert sorted(everything) == np.flatnonzero(result.has_match).tolist()


def test_text_from_data_is_plain_and_cut() -> None:
    figure = draw(scored(), queries=12)
    shown = texts(figure)
    assert "person $x_1$" in shown
    assert "Walkers, $test$" in shown
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)
    assert any(text.startswith("person a name") and text.endswith("…") for text in shown)
    assert all(text.isprintable() for text in shown)


def test_svg_is_well_formed_and_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        save_figure(draw(scored()), tmp_path / name)
    first = (tmp_path / "one.svg").read_bytes()
    assert first == (tmp_path / "two.svg").read_bytes()
    images = [node for node in ElementTree.fromstring(first).iter() if node.tag.endswith("}image")]
    assert len(images) == 4 * (1 + 5)


def test_png_shows_the_frames(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(draw(scored(), queries=1, places=2), tmp_path / "page.png")
    picture = Image.open(tmp_path / "page.png").convert("RGB")
    colors = set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))
    evaluation = scored()
    query = spread_queries(evaluation.results["clothes_changing"], 1)[0]
    gallery = evaluation.ranked_gallery("clothes_changing").gallery_QK[query, :2].tolist()
    assert {(5 * index,) * 3 for index in (query, *gallery)} <= colors


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_figure(draw(scored(), queries=1), tmp_path / "file" / "page.svg")
