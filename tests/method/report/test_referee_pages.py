"""The referee's page and the page of where models stand: what they say, that data is escaped, and in a browser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ccvid.model_cost import ModelCost
from ccvid.retrieval.ranking.attribute_costs import label_observations, value_costs
from ccvid.retrieval.ranking.bootstrap import Interval
from ccvid.retrieval.ranking.comparison import QueryScores, read_query_scores
from ccvid.retrieval.report.changes import RankedResult
from ccvid.retrieval.report.film_strip import Picture
from ccvid.retrieval.report.filmstrips import Caption, Tracklets
from ccvid.retrieval.report.referee import (
    Figures,
    ProtocolFacts,
    RefereeTable,
    Scored,
    ScoredSet,
    referee_text,
    write_referee,
)
from ccvid.retrieval.report.report_input import ReportInput
from ccvid.retrieval.report.standing import Standing, missed_by_all, standing_text, write_standing
from ccvid.retrieval.report.tables import write_query_table
from tests.method.report_walkers import HOSTILE, walkers

HASH = "3abf25a968120b73dc68a3d91f2aab0d88b4c50c234121ac2989d3d6ec4f1bd6"
MACHINE = "Example CPU @ 2.00GHz, AVX512, 2 threads, float32"


def around(value: float, width: float = 0.03) -> Interval:
    return Interval(value, max(0, value - width), min(1, value + width))


def cost(milliseconds: float, parameters: int | None, flops: int | None) -> ModelCost:
    return ModelCost(
        milliseconds=milliseconds, batch=4, parameters=parameters, flops=flops, clip=(8, 256, 128), machine=MACHINE
    )


def scored(name: str, same: float, changing: float, spent: ModelCost | None = None, kind: str = "model") -> Scored:
    figures = {
        protocol: Figures(around(value, 0.0 if kind == "oracle" else 0.03), around(min(1, value + 0.05)), 834, 75, HASH)
        for protocol, value in (("same_clothes", same), ("clothes_changing", changing))
    }
    gap = Interval(same - changing, same - changing - 0.02, same - changing + 0.02)
    return Scored(name, kind, figures, gap, spent)  # type: ignore[arg-type]


def table(name: str = "CCVID") -> RefereeTable:
    facts = {
        "same_clothes": ProtocolFacts("same person, same clothes, different camera", 834, 75, HASH, 0.021),
        "clothes_changing": ProtocolFacts("same person, different camera, different clothes", 834, 75, HASH, 0.019),
    }
    models = [
        scored("c2d_resnet50", 0.871, 0.703, cost(412.4, 23_508_032, 65_500_000_000)),
        scored("csci_eva02_large", 0.934, 0.861, cost(5120.2, 303_000_000, 1_240_000_000_000)),
        scored(f"onnx {HOSTILE}", 0.803, 0.488, cost(95.1, None, None)),
    ]
    controls = [scored("oracle", 1, 1, kind="oracle"), scored("random", 0.03, 0.025, kind="random")]
    licence = "faces must be unrecognisable in what is shown; its other terms are not stated here"
    return RefereeTable([ScoredSet(name, licence, facts, [*controls, *models], [])], {})


def test_the_page_tells_every_figure_and_escapes_data(tmp_path: Path) -> None:
    write_referee(table(f"set {HOSTILE}"), tmp_path / "page", "Referee & friends")
    html = (tmp_path / "page" / "index.html").read_text()
    assert HOSTILE not in html
    assert "set &lt;script&gt;" in html
    for shown in (
        "70.3",
        "67.3 … 73.3",
        "+16.8",
        "+14.8 … +18.8",
        "412.4",
        "23.5",
        "65.5",
        HASH[:10],
        "834 queries of 75 persons",
    ):
        assert shown in html, shown
    assert "Do not trust" not in html
    names = re.findall(r'<tr(?: class="control")?><th scope="row">(.*?)</th>', html)[:5]
    assert [name.split()[0] for name in names] == ["oracle", "csci_eva02_large", "c2d_resnet50", "onnx", "random"]


def test_problems_are_said_in_text_and_page(tmp_path: Path) -> None:
    good = table()
    other = good.sets[0].scored[2]
    figures = dict(other.protocols)
    figures["same_clothes"] = replace(figures["same_clothes"], hash="0" * 64)
    models = [*good.sets[0].scored[:2], replace(other, protocols=figures)]
    bad = RefereeTable(
        [replace(good.sets[0], scored=models, problems=["general: the perfect oracle has mAP 99 %"])],
        {f"model {HOSTILE} on MEVID": "no shards"},
    )
    write_referee(bad, tmp_path / "page", "Referee")
    html, text = (tmp_path / "page" / "index.html").read_text(), referee_text(bad)
    for shown in ("general: the perfect oracle has mAP 99 %", "no shards"):
        assert shown in html
        assert shown in text
    assert "c2d_resnet50 ≠" in html
    assert "0000000000 ≠" in text
    assert text.startswith("!!! DO NOT TRUST THESE FIGURES: CCVID: general")
    assert bad.incomparable == [
        "c2d_resnet50 on CCVID, same-clothes: other queries or another gallery than the data set's (hash 0000000000, "
        "expected 3abf25a968), so it is not compared with the others"
    ]
    assert bad.to_json()["not_compared"] == bad.incomparable


def standing(report: ReportInput, folder: Path) -> tuple[Standing, Tracklets, dict[str, int]]:
    """Two models: the report's, and one that errs where that one does, and oftener."""
    write_query_table(report.evaluation, folder / "queries.parquet")
    first = read_query_scores(folder / "queries.parquet")["clothes_changing"]
    random = np.random.default_rng(0)
    figures = {
        "map": first.figures["map"] * random.uniform(0.6, 1, len(first.ids)),
        "minp": first.figures["minp"],
        "top-1": first.figures["top-1"] * (random.random(len(first.ids)) < 0.8),
    }
    second = QueryScores(first.ids, first.person, figures, first.ranked)
    results = [RankedResult("c2d_resnet50", first), RankedResult(f"slim {HOSTILE}", second)]
    query = report.evaluation.query
    place = {id: number for number, id in enumerate(query.ids)}
    labels = query.take([place[id] for id in first.ids])
    precision = (first.figures["map"] + second.figures["map"]) / 2
    observed = label_observations(precision, labels, {}, ("start_seconds", "end_seconds"))
    costs, left_out = value_costs(observed, draws=200)
    models = {
        result.name: (
            Figures(around(float(result.scores.figures["map"].mean())), around(0.5), len(first.ids), 30, HASH),
            cost(milliseconds, parameters, 65_500_000_000),
        )
        for result, milliseconds, parameters in zip(results, (412.0, 95.0), (23_508_032, 1_200_000), strict=True)
    }
    group = Standing("walkers", "clothes_changing", HASH, models, costs, left_out, results, missed_by_all(results))
    return group, *shown_tracklets(report)


def shown_tracklets(report: ReportInput) -> tuple[Tracklets, dict[str, int]]:
    """Queries and gallery together, as stored results have them."""
    query, gallery = (
        Tracklets.of_labels(labels, thumbnails)
        for labels, thumbnails in (
            (report.evaluation.query, report.query_thumbnails),
            (report.evaluation.gallery, report.gallery_thumbnails),
        )
    )
    ids = [*report.evaluation.query.ids, *report.evaluation.gallery.ids]
    queries = len(report.evaluation.query)

    def captions(indices: Sequence[int]) -> list[Caption]:
        side = [(query, index) if index < queries else (gallery, index - queries) for index in indices]
        return [of.captions([index])[0] for of, index in side]

    def thumbnails(index: int) -> Sequence[Picture]:
        return query.thumbnails(index) if index < queries else gallery.thumbnails(index - queries)

    return Tracklets(captions, thumbnails), {id: number for number, id in enumerate(ids)}


def test_queries_that_all_miss_are_those_without_a_right_first_rank(tmp_path: Path) -> None:
    group, _, _ = standing(walkers(60, 150, top_k=6), tmp_path)
    first, second = (result.scores for result in group.results)
    wrong = [q for q in range(len(first.ids)) if not first.figures["top-1"][q] and not second.figures["top-1"][q]]
    mean = (first.figures["map"] + second.figures["map"]) / 2
    assert list(group.missed) == sorted(wrong, key=lambda query: (mean[query], query))
    assert 0 < len(wrong) < len(first.ids)


def test_the_page_of_standing_escapes_data_and_names_what_costs(tmp_path: Path) -> None:
    group, tracklets, number_of = standing(walkers(60, 150, top_k=6), tmp_path)
    other = replace(group, protocol="general", missed=[], costs=[], left_out={"attributes": "no labels"})
    write_standing([group, other], tracklets, number_of, tmp_path / "page", f"Standing {HOSTILE}")
    html = (tmp_path / "page" / "index.html").read_text()
    assert HOSTILE not in html.replace("</script>", "")
    assert "<script" not in html
    assert "These results answer 2 different questions" in html
    assert html.count('class="chart"') == 4
    assert "attributes (no labels)" in html
    assert "&lt;b&gt;gate&lt;/b&gt;" in html, "a camera's name"
    assert f"2 models all miss {len(group.missed)} of " in html
    text = standing_text([group])
    assert "clothes-changing on walkers: what costs most" in text
    assert "camera" in text


def test_pages_without_misses_have_no_filmstrips(tmp_path: Path) -> None:
    group, tracklets, number_of = standing(walkers(60, 150, top_k=6), tmp_path)
    write_standing([replace(group, missed=[])], tracklets, number_of, tmp_path / "page", "Standing")
    assert not (tmp_path / "page" / "filmstrips.html").exists()
    assert "filmstrips.html" not in (tmp_path / "page" / "index.html").read_text()
