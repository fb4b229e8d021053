"""The pages of persons in Debian's Chromium, from disk: what a person sees and clicks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ccvid.identities.pages import write_person_pages
from tests.method.identities.test_pages import made
from tests.method.report_walkers import HOSTILE

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.webdriver import WebDriver

from tests.method.report.test_report_in_browser import (
    CHROMIUM,
    DRIVER,
    browser,
    complaints,
    one,
    run,
    text,
    wait,
)

__all__ = ["browser"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("persons with space & ü") / "persons"
    write_person_pages(made(hostile=True), folder, title=f"Who {HOSTILE}", facts={"gallery": HOSTILE})
    return folder / "index.html"


@pytest.fixture(autouse=True)
def _no_complaint(browser: WebDriver) -> Iterator[None]:
    browser.get("about:blank")
    complaints(browser)
    yield
    assert complaints(browser) == []


def open_view(browser: WebDriver, page: Path, fragment: str = "") -> None:
    browser.get("about:blank")
    browser.get(page.as_uri() + fragment)
    wait(browser, lambda: bool(run(browser, "return document.getElementById('rows').dataset.shown")))


def shown(browser: WebDriver, view: str) -> Callable[[], bool]:
    return lambda: f'"view":"{view}"' in str(run(browser, "return document.getElementById('rows').dataset.shown"))


def ids(browser: WebDriver, within: str) -> list[str]:
    found = run(browser, f"return [...document.querySelectorAll('{within} figure.tracklet')].map(f => f.dataset.id)")
    return list(found)


def test_questions_come_first_and_a_click_copies_the_line(browser: WebDriver, page: Path) -> None:
    open_view(browser, page)
    assert text(browser, "#heading") == "Questions"
    assert run(browser, "return document.querySelectorAll('article.question').length") == 2
    assert ids(browser, "article.question") == ["p000/o0/0", "p001/o0/1", "p002/o0/0", "p002/o1/1"]
    assert "41 % one person" in text(browser, "article.question")
    run(browser, "window.copied = []; navigator.clipboard.writeText = async (text) => { window.copied.push(text); };")
    one(browser, "article.question .answer").click()
    wait(browser, lambda: run(browser, "return window.copied") == ["same,p000/o0/0,p001/o0/1"])
    run(browser, "document.querySelectorAll('article.question')[1].querySelectorAll('.answer')[1].click()")
    wait(browser, lambda: len(run(browser, "return window.copied")) == 2)
    assert one(browser, "#lines").get_attribute("value") == ("same,p000/o0/0,p001/o0/1\ndifferent,p002/o0/0,p002/o1/1")
    one(browser, "#copy-all").click()
    wait(browser, lambda: len(run(browser, "return window.copied")) == 3)
    assert run(browser, "return window.copied[2]").startswith("verdict,tracklet,other\nsame,")


def test_a_person_on_the_time_line_of_all_cameras(browser: WebDriver, page: Path) -> None:
    open_view(browser, page, "#view=persons&order=number")
    wait(browser, shown(browser, "persons"))
    assert run(browser, "return [...document.querySelectorAll('article.row')].map(r => r.dataset.name)") == list("1234")
    run(browser, "document.querySelectorAll('article.row a.who')[1].click()")
    wait(browser, shown(browser, "person"))
    assert text(browser, "#heading") == f"{HOSTILE} (person 2)"
    assert run(browser, "return document.querySelectorAll('article.row').length") == 2, "two days"
    assert run(browser, "return document.querySelectorAll('article.row .lane-line').length") == 4, "two cameras each"
    assert len(ids(browser, "article.row")) == 4
    assert all(run(browser, "return [...document.images].map(i => i.complete && i.naturalWidth > 0)"))
    run(browser, "document.querySelectorAll('.moment')[3].click()")
    assert run(browser, "return document.querySelector('figure.chosen').dataset.id") == "p001/o1/1"
    browser.back()
    wait(browser, shown(browser, "persons"))


def test_naming_a_person_copies_a_quoted_line(browser: WebDriver, page: Path) -> None:
    open_view(browser, page, "#view=person&person=1")
    run(browser, "window.copied = []; navigator.clipboard.writeText = async (text) => { window.copied.push(text); };")
    one(browser, ".name-form input").send_keys('Anna "A", first')
    one(browser, ".name-form button").click()
    wait(browser, lambda: bool(run(browser, "return window.copied")))
    assert run(browser, "return window.copied") == ['name,p000/o0/0,"Anna ""A"", first"']


def test_a_cameras_day_begins_with_its_questions(browser: WebDriver, page: Path) -> None:
    open_view(browser, page, "#view=days")
    assert run(browser, "return document.querySelectorAll('article.row').length") == 5
    run(browser, "document.querySelector('article.row a.name').click()")
    wait(browser, shown(browser, "day"))
    assert text(browser, "#heading") == "c0, 2026-11-02"
    kinds = run(browser, "return [...document.querySelectorAll('article.row')].map(r => r.className)")
    assert kinds == ["row question", "row question", "row"]
    assert ids(browser, "article.row:not(.question)") == [f"p00{number}/o0/0" for number in range(4)]


def test_what_is_not_there_is_said(browser: WebDriver, page: Path) -> None:
    open_view(browser, page, "#view=person&person=99")
    assert text(browser, "#heading") == "No person 99 on these pages"
    open_view(browser, page, "#view=persons&search=nobody")
    assert "Nothing to show" in text(browser, "#rows")
