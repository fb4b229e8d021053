"""Text tables separated by commas, semicolons, tabs or spaces, with or without a header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from data_tools.datasets.annotation_lines import read_lines
from data_tools.datasets.problems import ProblemLog
from data_tools.wording import shown

Cells = tuple[int, list[str]]
"""A row: its line number and its cells, without surrounding spaces."""

SPACES = " "
_EXCEL_HINT = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")


def read_cells(path: Path, log: ProblemLog) -> tuple[str, Iterator[Cells]]:
    """The separator, inferred from the first line that is not blank, and every row that is not blank.

    Invalid quoting is reported as an error and ends the rows. A first line ``sep=;``, as in Excel, sets the separator.
    """
    lines = read_lines(path, log)
    leading: list[str] = []
    separator = ","
    for text in lines:
        hint = _EXCEL_HINT.fullmatch(text.strip()) if len(text) < 20 else None
        if hint is not None:
            leading.append("")
            return hint[1], _rows(chain(leading, lines), hint[1], path, log)
        leading.append(text)
        if text and not text.isspace():
            separator = find_separator(text)
            break
    return separator, _rows(chain(leading, lines), separator, path, log)


def _rows(lines: Iterator[str], separator: str, path: Path, log: ProblemLog) -> Iterator[Cells]:
    if separator == SPACES:
        yield from ((line, text.split()) for line, text in enumerate(lines, start=1) if text and not text.isspace())
        return
    rows = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for cells in rows:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield rows.line_num, stripped
    except csv.Error as error:
        log.error(path, rows.line_num, f"is not CSV: {error}")


def find_separator(line: str) -> str:
    """Comma, semicolon or tab, whichever yields the most cells; spaces if the line has none of them.

    If a line consists only of numbers separated by spaces, its commas are decimal commas.
    """
    marks = {mark: line.count(mark) for mark in ",;\t"}
    best = max(marks, key=lambda mark: marks[mark])
    words = line.split()
    if not marks[best]:
        return SPACES if len(words) > 1 else ","
    decimal_commas = len(words) > marks[","] and all(_is_number(word) for word in words)
    return SPACES if best == "," and decimal_commas else best


def with_points(cells: Sequence[str]) -> list[str]:
    """Replace decimal commas by points, for tables whose separator is not a comma."""
    return [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return _DECIMAL_COMMA.fullmatch(text) is not None
    return True


def read_csv_table(path: Path, required: Sequence[str], log: ProblemLog) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column name, for every row of a text table with a header.

    The separator is inferred; a first column without a name (pandas' index) is ignored. Reported as errors: a header
    that lacks a required column or has a duplicate name, a row with more or fewer cells than the header, and invalid
    quoting.
    """
    header: list[str] | None = None
    for line, cells in read_cells(path, log)[1]:
        if header is None:
            header = cells
            if not is_header(header, required, path, line, log):
                return
        elif has_width(cells, header, path, line, log):
            row = dict(zip(header, cells, strict=True))
            row.pop("", None)
            yield line, row
    if header is None:
        log.error(path, None, f"has no header, expected {','.join(required)}")


def has_width(cells: Sequence[str], header: Sequence[str], path: Path, line: int, log: ProblemLog) -> bool:
    """Whether the row has as many cells as the header; otherwise it is reported."""
    if len(cells) != len(header):
        log.error(path, line, f"has {len(cells)} columns, expected {len(header)} as in the header")
    return len(cells) == len(header)


def is_header(header: Sequence[str], required: Sequence[str], path: Path, line: int, log: ProblemLog) -> bool:
    """Whether all required columns are present and names are unique; otherwise it is reported."""
    missing = [name for name in required if name not in header]
    if missing:
        log.error(path, line, f"the header lacks {', '.join(missing)}: {shown(','.join(header))}")
    elif len(set(header)) < len(header) or "" in header[1:]:
        log.error(path, line, f"the header has an empty or duplicate column name: {shown(','.join(header))}")
    else:
        return True
    return False
