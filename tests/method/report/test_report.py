"""The report shows what was scored, escapes all values, and is written completely or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows
from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.retrieval.ranking.distances import DistanceMatrix
from ccvid.retrieval.ranking.metrics import CMC_RANKS, Evaluation
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol
from ccvid.retrieval.report import pictures
from ccvid.retrieval.report.film_strip import HEIGHT, Picture, Thumbnails, film_strip
from ccvid.retrieval.report.filmstrips import Mark, clock
from ccvid.retrieval.report.report import write_report
from ccvid.retrieval.report.unlabelled import Group, group_view, search_view, write_views
from data_tools.errors import InputError
from tests.method.report_walkers import HOSTILE, KEPT, LONG, frames, one_query, small, walkers


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "walkers"
    write_report(walkers(60, 120, persons=12), folder)
    return folder


def read_data(path: Path) -> Any:
    """The value that a data script assigns."""
    return json.loads(path.read_text().split("=", 1)[1].rstrip(";\n"))


def rows_of(folder: Path, view: int) -> list[tuple[str, dict[str, Any]]]:
    """A view's rows in order: the name from the index, and the row with its chunk's captions filled in."""
    index = read_data(folder / "data" / "index.js")
    rows = []
    for number, subject in enumerate(index["views"][view]["subjects"]):
        chunk = read_data(folder / "data" / f"{view}-{number // index['chunkRows']}.js")
        notes, query, entries = chunk["rows"][number % index["chunkRows"]]
        ids = [(chunk["tracklets"][place][1], *rest) for place, *rest in entries]
        row = {"notes": notes, "query": None if query is None else chunk["tracklets"][query][1], "entries": ids}
        rows.append((index["subjects"][subject][0], row))
    return rows


def expected_entries(evaluation: Evaluation, distances: DistanceMatrix, name: str, query: int) -> list[tuple[Any, ...]]:
    """By a full sort: id, rank, score, mark; junk up to the last place shown, then the first match if later."""
    protocol, asked, there = evaluation.results[name].protocol, evaluation.query, evaluation.gallery
    values = distances.pairs(np.full(len(there), query), np.arange(len(there)))
    shown: list[tuple[Any, ...]] = []
    rank, matched = 0, False
    takes_part = set(protocol.taking_part(there).tolist())
    for row in np.argsort(values, kind="stable").tolist():
        if row not in takes_part:
            continue
        pairs = {
            column: (asked.column(column)[query], there.column(column)[row])
            for column in (*protocol.agree, *protocol.differ)
        }
        fits = all(None not in pair for pair in pairs.values())
        fits = fits and all(pairs[column][0] == pairs[column][1] for column in protocol.agree)
        fits = fits and all(pairs[column][0] != pairs[column][1] for column in protocol.differ)
        same = asked.person[query] == there.person[row]
        mark = Mark.WRONG if not same else Mark.RIGHT if fits else Mark.JUNK
        rank += mark != Mark.JUNK
        if (rank < KEPT or (rank == KEPT and mark != Mark.JUNK)) or (mark == Mark.RIGHT and not matched):
            place = None if mark == Mark.JUNK else rank
            shown.append((there.ids[row], place, round(1 - float(values[row]), 4), None, int(mark)))
        matched |= mark == Mark.RIGHT
    junk = [entry for entry in shown if entry[1] is None][:KEPT]
    return [entry for entry in shown if entry[1] is not None or entry in junk]


@pytest.mark.parametrize("seed", [0, 1])
def test_filmstrips_show_what_a_full_sort_finds(tmp_path: Path, seed: int) -> None:
    two_cameras = Protocol("two_cameras", within={"camera": ("cam8", "cam10")})
    report = small(seed, protocols=[*PROTOCOLS.values(), two_cameras])
    assert len(report.evaluation.results["two_cameras"].takes_part_Q) > report.evaluation.results["two_cameras"].queries
    assert isinstance(report.distances, DistanceMatrix)
    write_report(report, tmp_path / "report")
    beyond = 0
    for view, (name, result) in enumerate(report.evaluation.results.items()):
        rows = rows_of(tmp_path / "report", view)
        taking_part = result.protocol.taking_part(report.evaluation.query).tolist()
        assert sorted(query for query, _ in rows) == sorted(report.evaluation.query.ids[row] for row in taking_part)
        for query, row in rows:
            number = report.evaluation.query.ids.index(query)
            assert row["entries"] == expected_entries(report.evaluation, report.distances, name, number)
            beyond += int(result.first_match_rank_Q[number] > KEPT)
            assert ("no match in the gallery" in row["notes"]) == (not result.has_match[number])
    assert beyond > 3


def test_the_hardest_queries_come_first_and_those_without_a_match_last(tmp_path: Path) -> None:
    report = small()
    write_report(report, tmp_path / "report")
    views = read_data(tmp_path / "report" / "data" / "index.js")["views"]
    for view, result in enumerate(report.evaluation.results.values()):
        order = [report.evaluation.query.ids.index(name) for name, _ in rows_of(tmp_path / "report", view)]
        keys = [
            (precision, -rank) if rank else (2, 0)
            for precision, rank in zip(
                result.average_precision_Q[order], result.first_match_rank_Q[order].tolist(), strict=True
            )
        ]
        assert keys == sorted(keys)
        ranks = result.first_match_rank_Q[order].tolist()
        assert views[view]["states"] == "".join("3" if not rank else "1" if rank == 1 else "2" for rank in ranks)
    assert "3" in views[1]["states"]


class Page(HTMLParser):
    """The rows of all tables, the text, the tags and their attributes of an HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_cell = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += f" {data.strip()}"


def test_the_overview_tells_the_figures(tmp_path: Path) -> None:
    report = walkers(60, 120, persons=12)
    write_report(report, tmp_path / "report")
    page = Page(tmp_path / "report" / "index.html")
    protocols = len(report.evaluation.results)
    rows = {row[0].split()[0]: [cell.split() for cell in row[1:]] for row in page.rows[1 : protocols + 1]}
    by_precision = {
        row[0].strip(): [cell.strip() for cell in row[1:]] for row in page.rows[protocols + 2 : 2 * protocols + 2]
    }
    for name, result in report.evaluation.results.items():
        cells = rows[name.replace("_", "-")]
        interval = report.intervals[name].mean_average_precision
        between = f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"
        assert cells[0] == [f"{100 * result.mean_average_precision:.1f}", between]
        assert [cell[0] for cell in cells[2:6]] == [f"{100 * result.cmc(rank):.1f}" for rank in CMC_RANKS]
        assert cells[6:] == [[f"{100 * result.chance:.1f}"], ["60"], [str(result.queries_without_match)]]
        shown = np.round(100 * result.average_precision_Q[result.has_match], 1)
        spread = by_precision[name.replace("_", "-")]
        assert spread == [str(int(np.sum((shown // 10).clip(max=9) == tenth)) or "·") for tenth in range(10)]
        assert sum(int(count.replace("·", "0")) for count in spread) == np.sum(result.has_match)
    for expected in ("score ≥ 0.450", "0.410 – 0.500", *report.evaluation.left_out.values(), HOSTILE):
        assert expected in page.text


def test_nothing_from_data_is_markup_or_a_file_name(written: Path) -> None:
    names = [path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()]
    own = r"(data/(\d+-\d+|index)\.js|pictures/\d+/\d+\.jpg|figures/\d+\.svg|[a-z]+\.(html|css|js|json))"
    assert [name for name in names if not re.fullmatch(own, name)] == []
    for script in (written / "data").iterdir():
        assert "<" not in script.read_text()
        assert script.read_bytes().isascii()
    index = read_data(written / "data" / "index.js")
    assert {f"q {HOSTILE}", f"q {LONG}"} <= {name for name, *_ in index["subjects"]}
    for name in ("index.html", "filmstrips.html"):
        page = Page(written / name)
        sources = [attributes.get("src") for tag, attributes in page.tags if tag == "script"]
        assert sources == ([] if name == "index.html" else ["data/index.js", "filmstrips.js"])
        assert "<b>gate</b>" not in (written / name).read_text()
        links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
        assert [link for link in links if link and re.match(r"[a-z]+:|//", link)] == []
        policies = [attributes.get("content") for _, attributes in page.tags if "http-equiv" in attributes]
        assert len(policies) == 1
        assert str(policies[0]).startswith("default-src 'none'; script-src 'self' file:;")


def test_a_picture_a_tracklet_shared_between_rows(written: Path) -> None:
    numbers_of: dict[str, set[int]] = {}
    widths = read_data(written / "data" / "index.js")["widths"]
    for chunk in (written / "data").glob("*-*.js"):
        for number, name, *_ in read_data(chunk)["tracklets"]:
            numbers_of.setdefault(name, set()).add(number)
            width = widths["others"].get(str(number), widths["most"])
            jpeg = (written / "pictures" / str(number // 1000) / f"{number % 1000}.jpg").read_bytes()
            assert simplejpeg.decode_jpeg_header(jpeg)[:2] == (HEIGHT, width)
    assert {len(numbers) for numbers in numbers_of.values()} == {1}
    assert len(list((written / "pictures").rglob("*.jpg"))) == len(numbers_of)


def test_any_number_of_threads_makes_each_picture_once(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, made = walkers(60, 120, persons=12), list[tuple[str, int]]()

    def counted(side: str, thumbnails: Thumbnails) -> Thumbnails:
        def count(index: int) -> Sequence[Picture]:
            made.append((side, index))
            return thumbnails(index)

        return count

    query, gallery = counted("query", report.query_thumbnails), counted("gallery", report.gallery_thumbnails)
    monkeypatch.setattr(pictures, "available_cpus", lambda: 5)
    monkeypatch.setattr(pictures, "PICTURES_AT_A_TIME", 3)
    write_report(replace(report, query_thumbnails=query, gallery_thumbnails=gallery), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(written)
    assert len(set(made)) == len(made) == len(list((written / "pictures").rglob("*.jpg")))


def test_tracklets_without_frames_have_no_picture(tmp_path: Path) -> None:
    def some(index: int) -> list[Picture]:
        return frames(index) if index % 2 else []

    write_report(replace(small(), query_thumbnails=some, gallery_thumbnails=some), tmp_path / "r")
    widths = read_data(tmp_path / "r" / "data" / "index.js")["widths"]
    seen = set()
    for chunk in (tmp_path / "r" / "data").glob("*-*.js"):
        for number, name, *_ in read_data(chunk)["tracklets"]:
            width = widths["others"].get(str(number), widths["most"])
            assert bool(width) == (tmp_path / "r" / "pictures" / "0" / f"{number}.jpg").exists() == int(name[1:]) % 2
            seen.add(width)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("sizes", "width"), [([(320, 160)], 64), ([(80, 40), (80, 40)], 130), ([(3, 900)], 256), ([(900, 1)], 1)]
)
def test_frames_of_any_size_make_a_strip(sizes: list[tuple[int, int]], width: int) -> None:
    shades = [np.full((*size, 3), 100 + 50 * number, np.uint8) for number, size in enumerate(sizes)]
    strip = film_strip(shades)
    assert strip.shape == (HEIGHT, width, 3)
    assert strip[0, 0].tolist() == [100] * 3
    assert strip[-1, -1].tolist() == [100 + 50 * (len(sizes) - 1)] * 3


def test_the_same_input_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_report(walkers(60, 120, persons=12), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(written)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unlabelled(count: int, person: str | None = None) -> list[EmbeddingRow]:
    times = {"start_seconds": "3723.4", "end_seconds": "3729"}
    return [EmbeddingRow(f"t{n}", person, None, f"cam{n % 2}", "gallery", times, 1, "s") for n in range(count)]


def test_unlabelled_matches_are_shown_unmarked(tmp_path: Path) -> None:
    score = np.array([[0.5, 0.25, -np.inf], [0.75, 0.5, 0.25], [-np.inf] * 3])
    gallery = np.array([[3, 0, -1], [1, 2, 3], [-1] * 3])
    embedded = EmbeddingRows.of(unlabelled(4))
    matches = RankedMatches(embedded[:3], embedded, gallery, score, np.clip(score, 0, 1))
    write_views([search_view(matches, frames, frames)], tmp_path / "r", title="t", facts={"k": 3}, threshold=0.4)
    rows = rows_of(tmp_path / "r", 0)
    assert [name for name, _ in rows] == ["t1", "t0", "t2"]
    assert rows[0][1]["entries"] == [("t1", 1, 0.75, 0.75, 0), ("t2", 2, 0.5, 0.5, 0), ("t3", 3, 0.25, 0.25, 0)]
    assert rows[1][1]["entries"] == [("t3", 1, 0.5, 0.5, 0), ("t0", 2, 0.25, 0.25, 0)]
    assert rows[2][1] == {"notes": ["no gallery tracklet passes the filter"], "query": "t2", "entries": []}
    captions = read_data(tmp_path / "r" / "data" / "0-0.js")["tracklets"]
    assert captions[1][1:] == ["t1", None, "cam1", None, "1:02:03–1:02:09"]
    index = read_data(tmp_path / "r" / "data" / "index.js")
    assert (index["threshold"], index["views"][0]["values"]) == (0.4, [0.75, 0.5, None])


def test_groups_are_shown_largest_first_without_a_query(tmp_path: Path) -> None:
    groups = [Group("one", [2]), Group("two", [3, 1, 0], ("purity 67 %",))]
    write_views([group_view(groups, unlabelled(4, "p"), frames)], tmp_path / "r", title="t", facts={})
    rows = rows_of(tmp_path / "r", 0)
    assert [name for name, _ in rows] == ["two", "one"]
    assert rows[0][1]["notes"] == ["3 tracklets", "purity 67 %"]
    assert [entry[0] for entry in rows[0][1]["entries"]] == ["t3", "t1", "t0"]
    assert read_data(tmp_path / "r" / "data" / "index.js")["views"][0]["values"] == [3, 1]
    assert read_data(tmp_path / "r" / "data" / "index.js")["subjects"][0] == ["two", "p", ["cam0", "cam1"]]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (604_800, "168:00:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_one_query_and_one_match(tmp_path: Path) -> None:
    write_report(one_query(), tmp_path / "r")
    assert rows_of(tmp_path / "r", 0)[0][1]["entries"] == [("g", 1, 0.75, None, 1)]


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    write_report(small(), tmp_path / "r")
    write_report(one_query(), tmp_path / "r")
    assert len(list((tmp_path / "r" / "pictures").rglob("*.jpg"))) == 1  # both sides use the same function for frames
    assert "One" in (tmp_path / "r" / "index.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_what_a_killed_report_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".r.tmp" / "new" / "pictures"
    left.mkdir(parents=True)
    (left / "0.jpg").write_bytes(b"a face")
    write_report(one_query(), tmp_path / "r")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def a_file(folder: Path) -> Path:
    (folder / "r").write_text("mine")
    return folder / "r"


def something_else(folder: Path) -> Path:
    (folder / "r").mkdir()
    (folder / "r" / "thesis.tex").write_text("mine")
    return folder / "r"


def a_report_with_notes(folder: Path) -> Path:
    write_report(one_query(), folder / "r")
    (folder / "r" / "notes.txt").write_text("mine")
    return folder / "r"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "deeper"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (a_file, "is a file, but the report needs a folder"),
        (something_else, "holds 'thesis.tex', which is not part of a report"),
        (a_report_with_notes, "holds 'notes.txt', which is not part of a report"),
        (below_a_file, "the report cannot be written"),
    ],
)
def test_a_folder_that_cannot_be_written(tmp_path: Path, spoil: Callable[[Path], Path], message: str) -> None:
    destination = spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as raised:
        write_report(one_query(), destination)
    assert str(tmp_path / "r") in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_leaves_the_earlier_report_and_nothing_else(tmp_path: Path) -> None:
    write_report(one_query(), tmp_path / "r")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def unreadable(index: int) -> list[Picture]:
        raise InputError(f"tracklet {index}: frames cannot be read")

    with pytest.raises(InputError, match="tracklet 0: frames cannot be read"):
        write_report(replace(one_query(), gallery_thumbnails=unreadable), tmp_path / "r")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
