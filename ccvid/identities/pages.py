"""Pages of a gallery's persons: what is in doubt, each person's appearances, each camera's days.

    data/index.js         persons, cameras with their days, and the pictures' widths
    data/person-N.js      ``PERSONS_IN_A_FILE`` persons with their appearances, by number
    data/day-N.js         the appearances of one camera on one day, in order of time
    data/questions-N.js   ``QUESTIONS_IN_A_FILE`` questions, the most valuable first
    pictures/             one JPEG per tracklet

The page loads the index, then only what is viewed. Text from data only ever becomes text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ccvid.identities.corrections import csv_line
from ccvid.identities.persons import Persons, Question
from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.gallery.times import moments, seconds_in_video
from ccvid.retrieval.ranking.distances import Indices
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.filmstrips import clock
from ccvid.retrieval.report.folder import report_folder, write_data, write_page
from ccvid.retrieval.report.pictures import PictureFolder, in_parts

Key = TypeVar("Key")

PERSONS_IN_A_FILE = 50
QUESTIONS_IN_A_FILE = 50
MOST_PICTURED = 50_000
"""Tracklets; of a larger gallery, the pages show only the persons that the run has met."""
NO_DAY = ""
"""Of tracklets whose time of day is unknown."""


class Appearance(NamedTuple):
    """A tracklet as the page shows it; times in seconds of its day, or of its video where ``day`` is unknown."""

    picture: int
    id: str
    person: int
    camera: int
    day: str
    start: float | None
    end: float | None
    shown_time: str
    outfit: int
    confidence: float


@dataclass(frozen=True, slots=True)
class PersonPages:
    """What the pages are made of: N tracklets by id, ``rows`` and ``persons`` alike."""

    rows: EmbeddingRows
    persons: Persons
    questions: Sequence[Question]
    thumbnails: Thumbnails
    """By place in ``rows``."""
    met: Collection[str] = ()
    """Tracklets of the latest run."""

    def shown(self) -> Indices:
        """The tracklets that have pictures: all, or of too many those of persons that were met."""
        if len(self.persons) <= MOST_PICTURED:
            return np.arange(len(self.persons))
        is_met = np.array([id in self.met for id in self.persons.ids])
        return np.flatnonzero(np.isin(self.persons.person_N, self.persons.person_N[is_met]))


def write_person_pages(pages: PersonPages, folder: Path, *, title: str, facts: Mapping[str, object]) -> None:
    """Write ``folder/index.html`` and what it loads, completely or not at all; InputError as ``report_folder``."""
    with report_folder(folder, "persons.js") as new:
        (new / "data").mkdir()
        _write_contents(pages, new)
        write_page(new, "index.html", "persons.html.j2", {"title": title, "facts": facts})


def _write_contents(pages: PersonPages, folder: Path) -> None:
    data, pictures = folder / "data", PictureFolder(folder / "pictures")
    cameras = sorted(set(pages.rows.text("camera").to_pylist()))
    appearances = _appearances(pages, cameras, pictures)
    persons = [of for _, of in sorted(_grouped(appearances, lambda one: one.person).items())]
    for number, part in enumerate(in_parts(persons, PERSONS_IN_A_FILE)):
        write_data(data / f"person-{number}.js", f'PERSONS.parts["person-{number}"]', part)
    days = sorted(_grouped(appearances, lambda one: (one.camera, one.day)).items())
    for number, (_, of) in enumerate(days):
        write_data(data / f"day-{number}.js", f'PERSONS.parts["day-{number}"]', of)
    for number, some in enumerate(in_parts(_questions(pages, appearances), QUESTIONS_IN_A_FILE)):
        write_data(data / f"questions-{number}.js", f'PERSONS.parts["questions-{number}"]', some)
    widths, asked = pictures.write(), _asked(pages.questions)
    index = {
        "cameras": cameras,
        "persons": [_described(of, pages.persons.names) for of in persons],
        "days": [
            (camera, day, len(of), sorted({number for one in of for number in asked.get(one.id, ())}))
            for (camera, day), of in days
        ],
        "questions": len(pages.questions),
        "inAFile": {"person": PERSONS_IN_A_FILE, "questions": QUESTIONS_IN_A_FILE},
        "widths": {"most": widths.most, "others": widths.others},
        "parts": {},
    }
    write_data(data / "index.js", "globalThis.PERSONS", index)


def _appearances(pages: PersonPages, cameras: Sequence[str], pictures: PictureFolder) -> list[Appearance]:
    """In order of time; those without a time of day last, by video and time in it."""
    rows, persons, shown = pages.rows, pages.persons, pages.shown()
    camera_of = {name: place for place, name in enumerate(cameras)}
    ids, camera = rows.text("id").to_pylist(), rows.text("camera").to_pylist()
    videos = rows.attribute("video").to_pylist()
    start_N, end_N = moments(rows, "start"), moments(rows, "end")
    first_N, last_N = seconds_in_video(rows, "start"), seconds_in_video(rows, "end")
    order = sorted(
        shown.tolist(),
        key=lambda row: (
            np.nan_to_num(start_N[row], nan=np.inf),
            videos[row] or "",
            np.nan_to_num(first_N[row], nan=np.inf),
            ids[row],
        ),
    )
    found = []
    for row in order:
        day, start, end, text = _time(start_N[row], end_N[row], first_N[row], last_N[row])
        found.append(
            Appearance(
                pictures.number(pages.thumbnails, row),
                ids[row],
                int(persons.person_N[row]),
                camera_of[camera[row]],
                day,
                start,
                end,
                text,
                int(persons.outfit_N[row]),
                round(float(persons.confidence_N[row]), 4),
            )
        )
    return found


def _time(start: float, end: float, first: float, last: float) -> tuple[str, float | None, float | None, str]:
    """Day, start and end, and how they are shown: UTC, as the tracklets' attributes are."""
    if not np.isnan(start):
        began = datetime.fromtimestamp(start, UTC)
        seconds = began.hour * 3600 + began.minute * 60 + began.second + began.microsecond / 1e6
        length = 0.0 if np.isnan(end) else max(0.0, end - start)
        text = f"{began:%H:%M:%S}–{datetime.fromtimestamp(start + length, UTC):%H:%M:%S}"
        return f"{began:%Y-%m-%d}", round(seconds, 3), round(seconds + length, 3), text
    if np.isnan(first):
        return NO_DAY, None, None, ""
    text = clock(first) if np.isnan(last) else f"{clock(first)}–{clock(last)}"
    return NO_DAY, round(first, 3), round(first if np.isnan(last) else last, 3), f"{text} in the video"


def _grouped(appearances: Sequence[Appearance], key: Callable[[Appearance], Key]) -> dict[Key, list[Appearance]]:
    found: dict[Key, list[Appearance]] = {}
    for one in appearances:
        found.setdefault(key(one), []).append(one)
    return found


def _described(of: Sequence[Appearance], names: Mapping[int, str]) -> tuple[object, ...]:
    """Number, name, tracklets, cameras, outfits, days, least confidence."""
    number = of[0].person
    days = sorted({one.day for one in of} - {NO_DAY})
    return (
        number,
        names.get(number),
        len(of),
        sorted({one.camera for one in of}),
        len({one.outfit for one in of}),
        days,
        min(one.confidence for one in of),
    )


def _asked(questions: Sequence[Question]) -> dict[str, list[int]]:
    """By tracklet the numbers of the questions about it."""
    found: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        for id in (question.first, question.second):
            found.setdefault(id, []).append(number)
    return found


def _questions(pages: PersonPages, appearances: Sequence[Appearance]) -> Iterator[tuple[object, ...]]:
    """Both appearances, the probability, what was decided, and the lines that answer it."""
    by_id = {one.id: one for one in appearances}
    for question in pages.questions:
        lines = [csv_line(verdict, question.first, question.second) for verdict in ("same", "different")]
        both = by_id.get(question.first), by_id.get(question.second)
        yield (*both, round(question.probability, 4), question.together, *lines)
