"""Files of lines: whole after any kill, and read from any line on."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools import line_file
from data_tools.line_file import LineFile


def test_lines_are_added_and_read_from_any_of_them(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    assert (file.size, list(file.lines()), file.repair()) == (0, [], 0)
    middle = file.append(["one", "zwölf"])
    assert file.append(["three"]) == file.size == middle + 6
    assert list(file.lines()) == ["one", "zwölf", "three"]
    assert list(file.lines(middle)) == ["three"]
    assert list(file.lines(file.size)) == []


@pytest.mark.parametrize("start", [2, 5, 1000])
def test_a_file_that_was_replaced_is_read_from_its_beginning(start: int, tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    file.append(["one", "three"])
    assert list(file.lines(start)) == ["one", "three"]


@pytest.mark.parametrize("torn", [1, 3, 4, 70_000])
def test_a_torn_line_is_removed_wherever_it_was_torn(
    torn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LineFile(tmp_path / "lines")
    whole = file.append(["first", "second"])
    with file.path.open("ab") as stream:
        stream.write(b"x" * torn)
    monkeypatch.setattr(line_file, "LOOK_BACK_BYTES", 4)
    assert (file.repair(), file.repair()) == (torn, 0)
    assert file.size == whole
    file.append(["third"])
    assert list(file.lines()) == ["first", "second", "third"]


def test_a_file_of_only_a_torn_line(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    file.path.write_bytes(b"never ended")
    assert file.repair() == 11
    assert file.size == 0
