"""Untrusted JSON, YAML and text: bounded in depth, size and time, and in the length of messages."""

from __future__ import annotations

import pickle
import time
from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from data_tools.documents import MOST_YAML_BYTES, parse_json, parse_model, parse_yaml, yaml_lines
from data_tools.errors import LONGEST_LINE, InputError, UnreadableSourceError
from data_tools.wording import LONGEST_VALUE, cut, one_line, printable, shown

LAUGHS = "a: &a [lol, lol]\n" + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 10)}]\n" for p, n in pairwise("abcdefghi"))


class Point(BaseModel):
    x: float
    names: dict[str, int] = {}


def test_json_that_is_none_is_named() -> None:
    assert parse_json(b'{"a": [1, null]}', "f.json") == {"a": [1, None]}
    for content, message in (
        (b"{", "not readable as JSON: Expecting property name"),
        (b"\xff", "not readable as JSON: 'utf-8' codec"),
        (b"[" * 100_000, "not readable as JSON: it is nested too deeply"),
        (b"9" * 5000, "not readable as JSON: Exceeds the limit"),
    ):
        with pytest.raises(InputError, match=f"^f.json: {message}"):
            parse_json(content, "f.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS, "its aliases expand to more than 50000 values"),
        (f"{LAUGHS}<<: {{z: *i}}", "its aliases expand to more than 50000 values"),
        ("&a [*a]", "its aliases expand to more than 50000 values"),
        ("a: &a {b: *a}", "its aliases expand to more than 50000 values"),
        ("[" * 5000, "not readable as YAML: it is nested too deeply"),
        ("x" * (MOST_YAML_BYTES + 1), "has 256 KiB, expected at most 256 KiB of YAML"),
        (f"0x{'f' * 5000}", "not readable as YAML: an integer of 20000 bits, expected at most 63"),
        (":".join(["59"] * 20_000), "not readable as YAML: an integer of"),
        ("2020-99-99", "not readable as YAML: month must be in 1..12"),
        ("!!bool x", "not readable as YAML: 'x'"),
        ("!!int ''", "not readable as YAML: string index out of range"),
        ("!!timestamp x", "not readable as YAML: 'NoneType' object"),
        ("!!python/object/apply:os.mkdir [new]", "not readable as YAML: could not determine a constructor"),
        ("a: [", "not readable as YAML: while parsing a flow node"),
    ],
)
def test_yaml_is_read_within_bounds(content: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        parse_yaml(content.encode(), "f.yaml")
    assert str(caught.value).startswith(f"f.yaml: {message}")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 20


def test_yaml_as_people_write_it_is_read() -> None:
    text = "base: &base {rate: 0.1, steps: [1, 2]}\nrun: {<<: *base, steps: *base}\nlarge: 9223372036854775807\n"
    steps = {"rate": 0.1, "steps": [1, 2]}
    assert parse_yaml(text.encode(), "f") == {
        "base": steps,
        "run": {"rate": 0.1, "steps": steps},
        "large": 2**63 - 1,
    }
    assert parse_yaml(b"", "f") is None


def test_lines_of_keys() -> None:
    text = b"# notes\na:\n  b: 1\n  c:\n  - {d: 2}\n  - 3\n2: x\n? [p, q]\n: y\n"
    found = {("a",): 2, ("a", "b"): 3, ("a", "c", 0, "d"): 4, ("a", "z"): None, ("z", "b"): None, (2,): 7, (): None}
    assert yaml_lines(text, list(found)) == list(found.values())
    assert yaml_lines(b"a: &a {b: *a}", [("a", "b", "b")]) == [1]
    assert yaml_lines(b"", [("a",)]) == [None]


def test_the_first_problem_of_a_model_is_reported_in_one_line() -> None:
    assert parse_model(Point, b'{"x": 1}', "f").x == 1
    for content, message in (
        (b"[]", r"f: top level: Input should be an object, got \[\]"),
        (b"{", "f: top level: Invalid JSON: EOF while parsing"),
        (b"{}", "f: x: Field required$"),
        (b'{"x": "' + b"1" * 9000 + b'y"}', r"f: x: Input should be a valid number, .*, got '1+\.\.\.1+y'$"),
        (b'{"x": 1, "names": {"' + b"n" * 9000 + b'\\u001b": "x"}}', r"f: names.n+…n+\\x1b: Input should be"),
    ):
        with pytest.raises(InputError, match=f"^{message}") as caught:
            parse_model(Point, content, "f")
        assert len(str(caught.value)) < 800


def _bombs() -> list[Any]:
    value: Any = ["lol"]
    for _ in range(40):
        value = [value] * 10
    endless: list[Any] = []
    endless.append(endless)
    return [value, endless, "x" * 10**6, 10**5000, list(range(10**5)), dict.fromkeys(range(100), "y" * 500)]


@pytest.mark.parametrize("value", _bombs(), ids=lambda value: type(value).__name__)
def test_any_value_is_shown_shortly_and_soon(value: object) -> None:
    began = time.monotonic()
    assert 0 < len(shown(value)) <= LONGEST_VALUE
    assert time.monotonic() - began < 5


def test_other_programs_words() -> None:
    assert one_line("  two\n lines\t here ") == "two lines here"
    assert one_line(ValueError()) == "ValueError"
    assert printable("a\x1b[2J\x00\u202e\ud800\nb\u00fc🧥") == "a\\x1b[2J\\x00\\u202e\\ud800\nb\u00fc🧥"
    assert cut("abcdefghij", 10) == "abcdefghij"
    assert cut("abcdefghijk", 10) == "abcdef…ijk"


def test_whatever_stands_in_it_an_input_error_can_be_shown() -> None:
    error = UnreadableSourceError(f"f: \x1b[2J\n{'x' * 10**6}")
    first, second = str(error).split("\n")
    assert first == "f: \\x1b[2J"
    assert len(second) == LONGEST_LINE
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UnreadableSourceError, str(error))
