"""The register: numbers that last, what is recorded, kills, and damaged files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccvid.identities.corrections import Corrections
from ccvid.identities.persons import Event, Grouped, Persons, Question, open_questions, renewed
from ccvid.identities.register import (
    CORRECTIONS_FILE,
    EVIDENCE_FILE,
    PERSONS_FILE,
    QUESTIONS_FILE,
    RECORD_FILE,
    Register,
)
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from tests.method.identities.made_people import learnt


def grouped(**groups: Sequence[str]) -> Grouped:
    """Groups by name, each with the ids of its tracklets, mostly single letters."""
    rows = sorted((id, number) for number, ids in enumerate(groups.values()) for id in ids)
    count = len(rows)
    return Grouped(
        tuple(id for id, _ in rows),
        np.array([number for _, number in rows]),
        np.ones(count, np.int64),
        np.full(count, 0.9),
        np.full(count, np.inf),
    )


def numbers(persons: Persons) -> dict[int, str]:
    found: dict[int, str] = {}
    for id, number in zip(persons.ids, persons.person_N.tolist(), strict=True):
        found[number] = found.get(number, "") + id
    return found


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    return [(event.event, event.person, *filter(None, (event.into, event.origin, event.name))) for event in events]


def after(
    before: Persons, names: dict[str, str] | None = None, **groups: Sequence[str]
) -> tuple[Persons, list[tuple[Any, ...]]]:
    persons, events = renewed(before, grouped(**groups), names or {})
    return persons, told(events)


def test_numbers_last() -> None:
    first, events = after(Persons(), x="ad", y="bc")
    assert numbers(first) == {1: "ad", 2: "bc"}
    assert events == [("opened", 1), ("opened", 2)]
    second, events = after(first, z="e", x="bfc", y="g")
    assert numbers(second) == {1: "ad", 2: "bcf", 3: "e", 4: "g"}
    assert events == [("opened", 3), ("opened", 4)]
    third, events = after(second, x="adbcf")
    assert numbers(third) == {1: "abcdf", 3: "e", 4: "g"}
    assert events == [("merged", 2, 1)]
    fourth, events = after(third, x="dfc", y="ab")
    assert numbers(fourth) == {1: "cdf", 3: "e", 4: "g", 5: "ab"}
    assert events == [("split", 5, 1)]
    assert fourth.next_person == 6


def test_of_equal_parts_that_with_the_first_id_keeps_the_number() -> None:
    before, _ = after(Persons(), x="abcd")
    assert numbers(after(before, x="bc", y="ad")[0]) == {1: "ad", 2: "bc"}


def test_confidence_stays_where_a_run_says_nothing_of_it() -> None:
    before, _ = after(Persons(), x="ab")
    found = grouped(x="abc")
    silent = Grouped(found.ids, found.group_R, found.outfit_R, np.array([np.nan, 0.6, np.nan]), found.order_R)
    assert renewed(before, silent, {})[0].confidence_N.tolist() == [0.9, 0.6, 1.0]


def test_a_number_is_not_used_again() -> None:
    before, _ = after(Persons(), x="a", y="b")
    without, events = renewed(before, grouped(), {}, removed={"b"})
    assert told(events) == [("removed", 2)]
    assert numbers(without) == {1: "a"}
    assert numbers(after(without, z="c")[0]) == {1: "a", 3: "c"}


def test_names_go_with_the_person() -> None:
    named, events = after(Persons(), {"b": "Bea"}, x="ab", y="c")
    assert named.names == {1: "Bea"}
    assert events[-1] == ("named", 1, "Bea")
    merged, events = after(named, x="abc")
    assert merged.names == {1: "Bea"}
    assert events == [("merged", 2, 1)]
    assert after(merged, {"a": "Bee"}, x="abc")[1] == [("named", 1, "Bee")]


def test_new_persons_are_numbered_by_time_then_id() -> None:
    found = grouped(x="a", y="b", z="c")
    timed = Grouped(found.ids, found.group_R, found.outfit_R, found.confidence_R, np.array([5.0, 3.0, 5.0]))
    assert numbers(renewed(Persons(), timed, {})[0]) == {1: "b", 2: "a", 3: "c"}


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(StorageFolder(str(tmp_path / "gallery")))


def write(register: Register, before: Persons, names: dict[str, str] | None = None, **groups: Sequence[str]) -> Persons:
    persons, events = renewed(before, grouped(**groups), names or {}, time="2026-11-20T08:00:00+00:00")
    first, *others = sorted(id for ids in groups.values() for id in ids)
    second, last = (others[0], others[-1]) if others else ("b", "c")
    decided = Corrections().with_rows([("same", first, second, "f:1")])
    with register.writing():
        register.write(persons, events, [Question(first, last, 0.4, False, 0.4)], decided, learnt())
    return persons


def test_what_is_written_is_read(register: Register) -> None:
    assert len(register.persons()) == 0
    assert register.events() == []
    assert register.evidence() is None
    assert register.corrections() == Corrections()
    first = write(register, Persons(), {"a": "Anna, 人"}, x="ab", y="c")
    second = write(register, register.persons(), x="abc")
    assert register.persons().table().equals(second.table())
    assert register.persons().names == first.names
    assert told(register.events()) == [("opened", 1), ("opened", 2), ("named", 1, "Anna, 人"), ("merged", 2, 1)]
    assert [event.tracklets for event in register.events()] == [2, 1, 2, 3]
    assert {event.time for event in register.events()} == {"2026-11-20T08:00:00+00:00"}
    assert register.corrections().pairs == {("a", "b"): True}
    assert register.questions() == [Question("a", "c", 0.4, False, 0.4)]
    evidence = register.evidence()
    assert evidence is not None
    assert evidence.curves == learnt().curves


def test_what_is_forgotten_is_in_no_file_and_its_number_is_not_used_again(register: Register) -> None:
    write(register, Persons(), {"tracklet-a": "Anna"}, x=["tracklet-a", "tracklet-b"], y=["tracklet-c"])
    assert register.mentions({"tracklet-a", "tracklet-b"}, {"Anna"}) == {
        PERSONS_FILE: 3, RECORD_FILE: 1, CORRECTIONS_FILE: 1, QUESTIONS_FILE: 1
    }  # fmt: skip
    assert register.mentions({"tracklet-c"}, set()) == {PERSONS_FILE: 1, QUESTIONS_FILE: 1}
    register.forget({"tracklet-a", "tracklet-b"}, {"Anna"})
    assert register.mentions({"tracklet-a", "tracklet-b"}, {"Anna"}) == {}
    every = b"".join(path.read_bytes() for path in Path(str(register.folder)).iterdir())
    assert not any(word in every for word in (b"Anna", b"tracklet-a", b"tracklet-b"))
    assert numbers(register.persons()) == {2: "tracklet-c"}
    assert told(register.events()) == [("opened", 1), ("opened", 2), ("named", 1)]
    after_that = write(register, register.persons(), y=["tracklet-c"], z=["tracklet-d"])
    assert numbers(after_that) == {2: "tracklet-c", 3: "tracklet-d"}


def test_a_name_is_forgotten_without_its_tracklets(register: Register) -> None:
    write(register, Persons(), {"tracklet-a": "Anna"}, x=["tracklet-a"])
    register.forget(set(), {"Anna"})
    assert numbers(register.persons()) == {1: "tracklet-a"}
    assert register.persons().names == {}


def test_a_gallery_without_a_register_has_nothing_to_forget(register: Register) -> None:
    assert register.mentions({"a"}, {"Anna"}) == {}
    register.forget({"a"}, {"Anna"})
    assert not register.folder.exists(PERSONS_FILE)


def test_questions_stay_open_until_they_are_answered_or_overtaken() -> None:
    persons, _ = after(Persons(), x="ab", y="c", z="d")
    earlier = [
        Question("a", "b", 0.6, True, 0.4),
        Question("a", "c", 0.4, False, 0.5),
        Question("b", "c", 0.6, True, 0.4),  # they are no longer together
        Question("c", "d", 0.3, False, 0.3),  # answered
        Question("a", "d", 0.2, False, 0.2),  # looked at again
        Question("a", "x", 0.4, False, 0.4),  # removed
    ]
    decided = Corrections().with_rows([("same", "d", "c", "f:1")])
    new = [Question("b", "d", 0.45, False, 0.45)]
    found = open_questions(earlier, new, persons, {"a", "d"}, decided)
    assert [(question.first, question.second) for question in found] == [("a", "c"), ("b", "d"), ("a", "b")]


@pytest.mark.parametrize("killed_at", [EVIDENCE_FILE, CORRECTIONS_FILE, QUESTIONS_FILE, RECORD_FILE, PERSONS_FILE])
def test_a_kill_leaves_the_persons_as_they_were(
    killed_at: str, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(register, Persons(), x="ab", y="c")
    replace = os.replace

    def kill(source: str, target: str) -> None:
        if Path(target).name == killed_at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            write(register, register.persons(), x="abc", y="d")
    assert numbers(register.persons()) == {1: "ab", 2: "c"}
    assert told(register.events()) == [("opened", 1), ("opened", 2)]
    write(register, register.persons(), x="abc", y="d")
    assert told(register.events()) == [("opened", 1), ("opened", 2), ("merged", 2, 1), ("opened", 3)]


def test_damaged_files_are_named(register: Register) -> None:
    write(register, Persons(), x="ab", y="c")
    folder = Path(str(register.folder))
    table = pq.read_table(folder / PERSONS_FILE)
    record = (folder / RECORD_FILE).read_text()

    def changed(name: str, column: pa.Array) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, column)

    for damaged, complaint in (
        (changed("person", pa.array([1, 1, 3])), "a person's number is not from 1 to 2"),
        (changed("id", pa.array(["a", "c", "b"])), "ids are not sorted"),
        (changed("confidence", pa.array([1.0, None, 1.0])), "a row is not complete"),
        (table.drop_columns(["outfit"]), "expected the columns id, person, outfit"),
        (table.replace_schema_metadata({}), "persons.parquet"),
    ):
        pq.write_table(damaged, folder / PERSONS_FILE)
        with pytest.raises(InputError, match=complaint):
            register.persons()
    (folder / QUESTIONS_FILE).write_text('[{"first": "a"}]')
    with pytest.raises(InputError, match=r"questions\.json: 0\.second"):
        register.questions()
    (folder / PERSONS_FILE).write_bytes(b"no table")
    with pytest.raises(InputError, match=r"persons\.parquet: not a readable Parquet file"):
        register.persons()
    pq.write_table(table, folder / PERSONS_FILE)
    (folder / RECORD_FILE).write_text(record.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="has 1 lines, expected at least 2"):
        register.events()
    (folder / RECORD_FILE).write_text("{}\n" + record)
    with pytest.raises(InputError, match=r"record\.jsonl:1: event"):
        register.events()
