"""The report in Debian's Chromium, from disk: what a person sees, clicks and types."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from ccvid.retrieval.report.referee import write_referee
from ccvid.retrieval.report.report import write_report
from ccvid.retrieval.report.report_input import ReportInput
from ccvid.retrieval.report.standing import write_standing
from ccvid.retrieval.report.unlabelled import Group, group_view, write_views
from tests.method.report.test_referee_pages import standing
from tests.method.report.test_referee_pages import table as referee_table
from tests.method.report_walkers import HOSTILE, LONG, unlabelled_walkers, walkers

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.chrome.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"),
]
QUERIES = 120


@pytest.fixture(scope="module")
def report() -> ReportInput:
    return walkers(QUERIES, 300, top_k=6)


@pytest.fixture(scope="module")
def folder(report: ReportInput, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("report with space & ü") / "walkers #1"
    write_report(report, written)
    return written


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1300,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def _no_complaint(browser: WebDriver) -> Iterator[None]:
    """No page may log an error: a blocked file, a broken policy, an exception."""
    browser.get("about:blank")
    complaints(browser)
    yield
    assert complaints(browser) == []


def complaints(browser: WebDriver) -> list[str]:
    """Messages that the pages logged since the last call."""
    return [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]


def open_page(browser: WebDriver, page: Path, fragment: str = "") -> None:
    browser.get("about:blank")
    browser.get(page.as_uri() + fragment)
    if page.name == "filmstrips.html":
        wait(browser, lambda: bool(rows(browser)) or "match these filters" in text(browser, "#rows"))


def wait(browser: WebDriver, condition: Callable[[], bool]) -> None:
    WebDriverWait(browser, 20).until(lambda _: condition())


def rows(browser: WebDriver) -> list[str]:
    return list(run(browser, "return [...document.querySelectorAll('article.row')].map(row => row.dataset.name)"))


def run(browser: WebDriver, script: str) -> Any:
    return browser.execute_script(script)


def one(browser: WebDriver, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def text(browser: WebDriver, selector: str) -> str:
    return str(one(browser, selector).text)


def hardest(report: ReportInput, protocol: str) -> list[str]:
    """Ids in the order of the page, sorted naively; every query here takes part."""
    result, ids = report.evaluation.results[protocol], report.evaluation.query.ids
    precision, rank = result.average_precision_Q, result.first_match_rank_Q
    order = sorted(range(QUERIES), key=lambda q: (not rank[q], precision[q] if rank[q] else 0, -rank[q], q))
    return [ids[query] for query in order]


def failures(report: ReportInput, protocol: str) -> list[str]:
    rank = dict(
        zip(report.evaluation.query.ids, report.evaluation.results[protocol].first_match_rank_Q.tolist(), strict=True)
    )
    return [name for name in hardest(report, protocol) if rank[name] > 1]


def test_the_overview_shows_charts_and_runs_nothing(browser: WebDriver, folder: Path) -> None:
    open_page(browser, folder / "index.html")
    assert HOSTILE in browser.title
    for selector in (".chart svg", "img.given", "table.figures", "table.matrix"):
        assert one(browser, selector).size["height"] > 80
    assert run(browser, "return document.querySelector('img.given').naturalWidth") > 0
    one(browser, "table.figures a[href*=clothes_changing]").click()
    wait(browser, lambda: bool(rows(browser)))
    assert Select(one(browser, "#view")).first_selected_option.text == "clothes-changing"


def test_the_hardest_first_by_pages(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    open_page(browser, folder / "filmstrips.html")
    expected = hardest(report, "general")
    assert rows(browser) == expected[:50]
    one(browser, ".next").click()
    wait(browser, lambda: rows(browser) == expected[50:100])
    assert (one(browser, ".page").get_attribute("value"), text(browser, ".pages")) == ("2", "of 3")
    browser.back()
    wait(browser, lambda: rows(browser) == expected[:50])
    assert not one(browser, ".previous").is_enabled()


def test_a_page_is_opened_by_its_number(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    open_page(browser, folder / "filmstrips.html")
    expected = hardest(report, "general")
    for number, shown in (("3", expected[100:]), ("99", expected[100:]), ("1", expected[:50])):
        field = one(browser, ".page")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(number, Keys.ENTER)
        wait(browser, partial(lambda shown: rows(browser) == shown, shown))
    one(browser, ".page").send_keys("n")
    assert rows(browser) == expected[:50], "keys typed into the field turn no page"


def test_filters_by_average_precision(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    result, ids = report.evaluation.results["same_location"], report.evaluation.query.ids
    shown = dict(zip(ids, np.round(100 * result.average_precision_Q, 1).tolist(), strict=True))
    ordered = [name for name in hardest(report, "same_location") if not np.isnan(shown[name])]
    open_page(browser, folder / "filmstrips.html", "#view=same_location&from=20")
    least = [name for name in ordered if shown[name] >= 20]
    wait(browser, lambda: rows(browser) == least[:50])
    assert text(browser, "#measure") == "average precision in per cent"
    one(browser, "#to").send_keys("35.5")
    between = [name for name in least if shown[name] <= 35.5]
    assert 0 < len(between) < min(50, len(least))
    wait(browser, lambda: rows(browser) == between)
    assert text(browser, "#count") == f"{len(between)} of {QUERIES} queries"
    one(browser, "#all").click()
    wait(browser, lambda: rows(browser) == hardest(report, "same_location")[:50])
    assert one(browser, "#from").get_attribute("value") == ""


def test_a_number_on_the_first_page_opens_its_queries(browser: WebDriver, folder: Path) -> None:
    open_page(browser, folder / "index.html")
    links = "a[href*='view=clothes_changing'][href*='from=']"
    counts = [int(link.text) for link in browser.find_elements(By.CSS_SELECTOR, links)]
    assert len(counts) > 3
    for place, count in enumerate(counts):
        open_page(browser, folder / "index.html")
        browser.find_elements(By.CSS_SELECTOR, links)[place].click()
        wait(browser, lambda: bool(rows(browser)))
        assert text(browser, "#count") == f"{count} of {QUERIES} queries"


def test_marks_scores_and_pictures(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    open_page(browser, folder / "filmstrips.html")
    name = rows(browser)[0]
    query = report.evaluation.query.ids.index(name)
    ranked = report.evaluation.ranked_gallery("general")
    shown = browser.find_elements(By.CSS_SELECTOR, "article.row:first-child .ranking .tracklet:not(.junk)")[:6]
    for place, figure in enumerate(shown):
        right = bool(ranked.is_match_QK[query, place])
        assert ("right" if right else "wrong") in str(figure.get_attribute("class")).split()
        head = str(figure.find_element(By.CSS_SELECTOR, ".head").get_attribute("textContent"))
        assert head.startswith(f"{place + 1} {'✓' if right else '✗'}{1 - ranked.distance_QK[query, place]:.3f}")
        assert head.endswith(" %")
        expected = report.evaluation.gallery.ids[ranked.gallery_QK[query, place]]
        assert figure.find_element(By.CSS_SELECTOR, ".id").get_attribute("title") == expected
    picture = one(browser, "article.row .query img")
    wait(browser, lambda: int(str(picture.get_attribute("naturalWidth"))) > 0)
    assert picture.get_attribute("loading") == "lazy"


def test_pictures_far_below_are_not_loaded(browser: WebDriver, folder: Path) -> None:
    open_page(browser, folder / "filmstrips.html")
    loaded = "return [...document.querySelectorAll('img')].filter(image => image.naturalWidth > 0).length"
    images = len(browser.find_elements(By.CSS_SELECTOR, "img"))
    wait(browser, lambda: run(browser, loaded) > 0)
    assert run(browser, loaded) < images / 2


def test_a_first_match_far_down_stands_behind_a_gap(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    result = report.evaluation.results["clothes_changing"]
    open_page(browser, folder / "filmstrips.html", "#view=clothes_changing")
    name = rows(browser)[0]
    rank = int(result.first_match_rank_Q[report.evaluation.query.ids.index(name)])
    assert rank > 7
    line = one(browser, "article.row:first-child .ranking")
    last = line.find_elements(By.CSS_SELECTOR, ".gap + .tracklet.right .place")
    assert [place.get_attribute("textContent") for place in last] == [f"{rank} ✓"]


def test_filters_by_camera_and_failure(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    open_page(browser, folder / "filmstrips.html")
    Select(one(browser, "#view")).select_by_visible_text("clothes-changing")
    wait(browser, lambda: rows(browser) == hardest(report, "clothes_changing")[:50])
    one(browser, "#failures").click()
    wait(browser, lambda: rows(browser) == failures(report, "clothes_changing")[:50])
    Select(one(browser, "#camera")).select_by_visible_text("<b>gate</b>")
    camera = dict(zip(report.evaluation.query.ids, report.evaluation.query.camera, strict=True))
    expected = [name for name in failures(report, "clothes_changing") if camera[name] == "<b>gate</b>"]
    assert 0 < len(expected) < 50
    wait(browser, lambda: rows(browser) == expected)
    assert text(browser, "#count") == f"{len(expected)} of {QUERIES} queries"
    one(browser, "#all").click()
    wait(browser, lambda: rows(browser) == hardest(report, "clothes_changing")[:50])


def test_orders(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    open_page(browser, folder / "filmstrips.html", "#view=same_location")
    rank = report.evaluation.results["same_location"].first_match_rank_Q
    unmatched = {name for name, first in zip(report.evaluation.query.ids, rank, strict=True) if not first}
    Select(one(browser, "#order")).select_by_visible_text("easiest first")
    easiest = [name for name in hardest(report, "same_location")[::-1] if name not in unmatched]
    wait(browser, lambda: rows(browser) == easiest[:50])
    Select(one(browser, "#order")).select_by_visible_text("by id")
    expected = sorted(report.evaluation.query.ids[2:])[:48]
    wait(browser, lambda: rows(browser)[2:] == expected)
    assert expected[:2] != easiest[:2], "the orders differ, or nothing was asked"


def test_search_by_person_and_hostile_id(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    open_page(browser, folder / "filmstrips.html")
    person = dict(zip(report.evaluation.query.ids, report.evaluation.query.person, strict=True))
    one(browser, "body").send_keys("/")

    def found_by(typed: str) -> bool:
        fitting = [name for name in hardest(report, "general") if typed in f"{name} {person[name]}".lower()]
        assert 0 < len(fitting) < 50
        return rows(browser) == fitting

    for typed in ("p17", HOSTILE):
        one(browser, "#search").send_keys(Keys.CONTROL, "a")
        one(browser, "#search").send_keys(typed)
        wait(browser, partial(found_by, typed))
    one(browser, "#search").send_keys("no such person")
    wait(browser, lambda: rows(browser) == [])
    assert "No rows match these filters" in text(browser, "#rows")


@pytest.mark.parametrize("name", [f"q {HOSTILE}", f"q {LONG}"])
def test_every_query_has_a_link_that_opens_it(browser: WebDriver, folder: Path, name: str) -> None:
    open_page(browser, folder / "filmstrips.html", f"#view=clothes_changing&search={quote(name)}")
    wait(browser, lambda: name in rows(browser))
    link = next(link for link in browser.find_elements(By.CSS_SELECTOR, ".name") if link.get_attribute("title") == name)
    address = str(link.get_attribute("href"))
    link.click()
    wait(browser, lambda: rows(browser) == [name])
    browser.get("about:blank")
    browser.get(address)
    wait(browser, lambda: rows(browser) == [name])
    assert "search=" not in str(browser.current_url), "the link names the query, not how it was found"
    one(browser, "#all").click()
    wait(browser, lambda: len(rows(browser)) == 50)
    assert name not in text(browser, "#count")


def test_junk_can_be_switched_off(browser: WebDriver, folder: Path) -> None:
    open_page(browser, folder / "filmstrips.html")
    junk = one(browser, ".tracklet.junk")
    assert junk.is_displayed()
    one(browser, "#junk").click()
    wait(browser, lambda: not junk.is_displayed())
    assert browser.find_elements(By.CSS_SELECTOR, ".tracklet.wrong")[0].is_displayed()


def test_keys_move_between_rows_and_pages(browser: WebDriver, folder: Path, report: ReportInput) -> None:
    open_page(browser, folder / "filmstrips.html")
    expected = hardest(report, "general")
    focused = "return document.activeElement.dataset.name"
    for keys, name in (("j", expected[0]), ("jj", expected[2]), ("k", expected[1])):
        browser.switch_to.active_element.send_keys(keys)
        assert run(browser, focused) == name
    browser.switch_to.active_element.send_keys("n")
    wait(browser, lambda: rows(browser) == expected[50:100])


@pytest.mark.parametrize("page", ["index.html", "filmstrips.html"])
def test_a_narrow_window_needs_no_sideways_scrolling(browser: WebDriver, folder: Path, page: str) -> None:
    browser.set_window_size(500, 900)
    try:
        open_page(browser, folder / page)
        root = "document.documentElement"
        assert run(browser, f"return {root}.scrollWidth <= {root}.clientWidth")
    finally:
        browser.set_window_size(1300, 1000)


def test_groups_open_from_disk(browser: WebDriver, tmp_path: Path) -> None:
    tracklets, thumbnails = unlabelled_walkers(12)
    groups = [Group("group 1", [0, 1, 2, 3, 4]), Group(HOSTILE, [5, 6], ("purity 50 %",))]
    write_views([group_view(groups, tracklets, thumbnails)], tmp_path / "groups", title="Groups", facts={"model": "m"})
    open_page(browser, tmp_path / "groups" / "index.html")
    wait(browser, lambda: rows(browser) == ["group 1", HOSTILE])
    assert "purity 50 %" in text(browser, "#rows")
    assert not one(browser, "#junk-label").is_displayed()
    assert not one(browser, "#view-label").is_displayed()
    assert text(browser, "#count") == "2 of 2 groups"


def test_a_report_with_a_missing_part_says_so(browser: WebDriver, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "data" / "0-0.js").unlink()
    browser.get((tmp_path / "copy" / "filmstrips.html").as_uri())
    wait(browser, lambda: "incomplete: data/0-0.js cannot be read" in text(browser, "#rows"))
    assert "ERR_FILE_NOT_FOUND" in complaints(browser)[0]


def test_the_referees_page_fits_and_opens_reports(browser: WebDriver, tmp_path: Path) -> None:
    found = referee_table(f"set {HOSTILE}")
    write_referee(found, tmp_path / "referee", f"Referee {HOSTILE}")
    open_page(browser, tmp_path / "referee" / "index.html")
    assert text(browser, "h1") == f"Referee {HOSTILE}"
    shown = [row.text.splitlines()[0] for row in browser.find_elements(By.CSS_SELECTOR, "tbody:nth-of-type(2) th")]
    assert shown == ["clothes-changing", "oracle", "csci_eva02_large", "c2d_resnet50", f"onnx {HOSTILE}", "random"]
    assert run(browser, "return document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_where_models_stand_opens_the_queries_that_all_miss(
    browser: WebDriver, report: ReportInput, tmp_path: Path
) -> None:
    group, tracklets, number_of = standing(report, tmp_path)
    write_standing([group], tracklets, number_of, tmp_path / "standing", "Standing")
    open_page(browser, tmp_path / "standing" / "index.html")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".chart svg")) == 2
    assert f"slim {HOSTILE}" in text(browser, ".chart"), "points are named"
    one(browser, "p a").click()
    ids = group.results[0].scores.ids
    expected = [ids[query] for query in group.missed for _ in group.results]
    wait(browser, lambda: rows(browser) == expected[:50])
    assert "2 models all miss" in text(browser, "#description")
    wait(browser, lambda: run(browser, "return document.images[0].naturalWidth > 0"))
