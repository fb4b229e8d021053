"""What people decide: read, laid over what was decided before, checked, and obeyed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccvid.identities.corrections import Corrections, csv_line, read_corrections
from ccvid.identities.identify import identify
from data_tools.errors import InputError
from tests.method.identities.made_people import all_pairs, learnt, pairs_of, people

HEAD = "verdict,tracklet,other\n"


def read(tmp_path: Path, rows: str, before: Corrections | None = None) -> Corrections:
    path = tmp_path / "corrections.csv"
    path.write_text(HEAD + rows)
    return read_corrections(path, before)


def test_later_rows_count(tmp_path: Path) -> None:
    first = read(tmp_path, "same,b,a\ndifferent,a,c\nname,a,Anna\n")
    assert first.pairs == {("a", "b"): True, ("a", "c"): False}
    later = read(tmp_path, "different,a,b\nundecided,c,a\nname,a,Ann\n", first)
    assert later.pairs == {("a", "b"): False}
    assert later.names == {"a": "Ann"}
    assert read(tmp_path, later.to_csv().decode().removeprefix(HEAD)).pairs == later.pairs


def test_names_join_and_part() -> None:
    rows = [("name", id, name, f"f:{line}") for line, (id, name) in enumerate([("a", "A"), ("b", "A"), ("c", "C")])]
    found = Corrections().with_rows(rows)
    assert found.same() == [("a", "b")]
    assert found.different() == [("a", "c")]
    assert found.among({"b", "c"}).different() == [("b", "c")]
    assert found.ids() == {"a", "b", "c"}


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    found = read(tmp_path, "same,a,b\nname,b,Bob\nname,c,Bob\nsame,c,d\ndifferent,d,a\n")
    with pytest.raises(InputError) as error:
        found.check()
    assert [f"corrections.csv:{line}" in str(error.value) for line in (2, 3, 4, 5, 6)] == [True] * 5
    read(tmp_path, "same,a,b\ndifferent,b,c\n").check()


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("same,a,a", "'a' twice, expected two tracklets"),
        ("maybe,a,b", "verdict is 'maybe', expected same, different, name, undecided"),
        ("same,a,", "must not be empty"),
        (f"name,a,{'x' * 201}", "a name of 201 characters, expected at most 200"),
        ("same,a", "has 2 columns, expected 3"),
    ],
)
def test_a_wrong_row_is_named(row: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corrections\.csv:3: ") as error:
        read(tmp_path, f"same,a,b\n{row}\n")
    assert complaint in str(error.value)


def test_lines_for_the_file_are_quoted(tmp_path: Path) -> None:
    names = ("a, b", 'the "old" gate/3', "ümläut 人")
    found = read(tmp_path, "\n".join(csv_line("name", name, "Anna, the first") for name in names))
    assert found.names == dict.fromkeys(names, "Anna, the first")


def test_decisions_are_obeyed_and_not_asked_again() -> None:
    table = people(10, 3, 2, noise=1.1, seed=5)
    ids, evidence = table.rows.text("id").to_pylist(), learnt()
    pairs = pairs_of(table, evidence)
    before, questions = identify(ids, pairs, all_pairs(len(ids)), Corrections(), known={})
    assert {question.together for question in questions} == {True, False}
    values = [question.value for question in questions]
    assert values == sorted(values, reverse=True)
    answers = [("different" if q.together else "same", q.first, q.second, "f:1") for q in questions[:6]]
    decided = Corrections().with_rows(answers)
    decided.check()
    after, left = identify(ids, pairs, all_pairs(len(ids)), decided, known={})
    group_of = dict(zip(after.ids, after.group_R.tolist(), strict=True))
    for verdict, one, other, _ in answers:
        assert (group_of[one] == group_of[other]) == (verdict == "same")
    asked = {(question.first, question.second) for question in left}
    assert asked.isdisjoint((one, other) for _, one, other, _ in answers)
    assert not np.array_equal(before.group_R, after.group_R)
