"""The pages' files: what they hold, and that foreign text stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccvid.identities import pages as module
from ccvid.identities.pages import PersonPages, write_person_pages
from ccvid.identities.persons import Persons, Question
from data_tools.errors import InputError
from tests.method.identities.made_people import people, with_attributes
from tests.method.report_walkers import HOSTILE, walking


def made(hostile: bool = False) -> PersonPages:
    """Four persons in two outfits on two days; one tracklet whose time of day is not known."""
    table = people(4, 2, 2)
    unknown = {"start_time": "", "end_time": "", "video": "yard", "start_seconds": "65", "end_seconds": "70"}
    table = with_attributes(table, {"p003/o1/1": unknown})
    rows = table.rows
    ids = rows.text("id").to_pylist()
    person_N = np.array([1 + int(id[3]) for id in ids])
    outfit_N = np.array([1 + int(id[6]) for id in ids])
    names = {2: HOSTILE if hostile else "Bea"}
    persons = Persons(tuple(ids), person_N, outfit_N, np.linspace(1, 0.5, len(ids)), names, 5)
    questions = [Question(ids[0], ids[5], 0.41, False, 0.4), Question(ids[8], ids[11], 0.7, True, 0.3)]
    look_N = np.arange(len(ids))
    return PersonPages(rows, persons, questions, walking(look_N // 2, look_N % 3))


def read(file: Path) -> Any:
    text = file.read_text()
    assert "<" not in text
    return json.loads(text[text.index("=") + 1 :].rstrip(";\n"))


def test_the_files_hold_every_appearance_once(tmp_path: Path) -> None:
    write_person_pages(made(), tmp_path / "persons", title="Who", facts={"gallery": "g"})
    data = tmp_path / "persons" / "data"
    index = read(data / "index.js")
    assert [person[:3] for person in index["persons"]] == [[1, None, 4], [2, "Bea", 4], [3, None, 4], [4, None, 4]]
    assert index["persons"][0][3:6] == [[0, 1], 2, ["2026-11-02", "2026-11-03"]]
    by_person = read(data / "person-0.js")
    shown = [one[1] for appearances in by_person for one in appearances]
    assert sorted(shown) == list(made().persons.ids)
    by_day = [read(data / f"day-{number}.js") for number in range(len(index["days"]))]
    assert sorted(one[1] for day in by_day for one in day) == sorted(shown)
    assert [len(day) for day in by_day] == [count for _, _, count, _ in index["days"]]
    assert [day for _, day, _, _ in index["days"]] == ["2026-11-02", "2026-11-03", "", "2026-11-02", "2026-11-03"]
    undated = next(one for day in by_day for one in day if one[1] == "p003/o1/1")
    assert undated[4:8] == ["", 65.0, 70.0, "1:05–1:10 in the video"]
    dated = by_person[1][0]
    assert dated[4:8] == ["2026-11-02", 8 * 3600 + 60, 8 * 3600 + 60, "08:01:00–08:01:00"]
    questions = read(data / "questions-0.js")
    assert questions[0][0][1] == "p000/o0/0"
    assert questions[0][2:] == [0.41, False, "same,p000/o0/0,p001/o0/1", "different,p000/o0/0,p001/o0/1"]
    assert len(list((tmp_path / "persons" / "pictures").rglob("*.jpg"))) == len(shown)


def test_foreign_text_is_escaped(tmp_path: Path) -> None:
    write_person_pages(made(hostile=True), tmp_path / "persons", title=HOSTILE, facts={HOSTILE: HOSTILE})
    assert "<script>alert" not in (tmp_path / "persons" / "index.html").read_text()
    assert read(tmp_path / "persons" / "data" / "index.js")["persons"][1][1] == HOSTILE


def test_of_too_many_only_those_met_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made()
    monkeypatch.setattr(module, "MOST_PICTURED", 10)
    some = PersonPages(whole.rows, whole.persons, whole.questions, whole.thumbnails, {"p002/o0/0"})
    write_person_pages(some, tmp_path / "persons", title="Who", facts={})
    data = tmp_path / "persons" / "data"
    assert [person[0] for person in read(data / "index.js")["persons"]] == [3]
    assert read(data / "questions-0.js")[0][:2] == [None, None]


def test_earlier_pages_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "persons"
    for _ in range(2):
        write_person_pages(made(), folder, title="Who", facts={})
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt"):
        write_person_pages(made(), folder, title="Who", facts={})
