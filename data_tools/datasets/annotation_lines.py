"""Reading annotation files that nobody vouches for: lines, tables, numbers and paths.

Whatever stands in a file, these functions either give a checked value, report a problem with file and line,
or raise ``InputError`` with a message to which the caller adds file and line.
"""

from __future__ import annotations

import codecs
import csv
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from data_tools.datasets.problems import ProblemLog
from data_tools.errors import InputError

LARGEST_WHOLE_NUMBER = 2**53 - 1
"""The last whole number up to which every one can be told from its neighbours as a float64."""

_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_DIGITS = re.compile(r"(\d+)", re.ASCII)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def shown(value: object) -> str:
    """The value as Python writes it, cut in the middle where it is long."""
    return _SHORT.repr(value)


def reason_of(error: OSError | ValueError) -> str:
    """Why the system refused a path, without repeating the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def require_folder(folder: Path, what: str) -> None:
    """Raise ``InputError`` where a data set's folder is not there at all."""
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: is no folder, expected {what}")


def read_lines(path: Path, log: ProblemLog) -> Iterator[str]:
    """Every line of a UTF-8 text file, blank ones too, without byte order mark and line end.

    A line that is not text is reported as an error and comes out empty; a file that cannot be read is
    reported and has no (more) lines.
    """
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
                yield _decoded(text.rstrip(b"\r\n"), path, line, log)
    except (OSError, ValueError) as error:
        log.error(path, None, f"cannot be read: {reason_of(error)}")


def _decoded(raw: bytes, path: Path, line: int, log: ProblemLog) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        log.error(path, line, f"byte {error.start + 1} is not UTF-8 text: {shown(raw)}")
        return ""
    if _CONTROL_CHARACTER.search(text):
        log.error(path, line, f"has control characters, expected plain text: {shown(text)}")
        return ""
    return text


def numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Line number and text of every line that is not blank."""
    for line, text in enumerate(lines, start=1):
        if text and not text.isspace():
            yield line, text


def read_csv_table(path: Path, required: Sequence[str], log: ProblemLog) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column name of every row of a CSV file with a header.

    Cells are stripped of surrounding blanks. Reported as errors: a header without a required column or with a
    name twice, a row with more or fewer cells than the header, quoting that cannot be read.
    """
    rows = csv.reader(read_lines(path, log), strict=True)
    header: list[str] | None = None
    try:
        for cells in rows:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if header is None:
                header = stripped
                if not _is_header(header, required, path, rows.line_num, log):
                    return
            elif len(stripped) != len(header):
                log.error(
                    path,
                    rows.line_num,
                    f"has {len(stripped)} columns, expected {len(header)} as in the header",
                )
            else:
                yield rows.line_num, dict(zip(header, stripped, strict=True))
    except csv.Error as error:
        log.error(path, rows.line_num, f"is not CSV: {error}")
    if header is None:
        log.error(path, None, f"has no header, expected {','.join(required)}")


def _is_header(header: list[str], required: Sequence[str], path: Path, line: int, log: ProblemLog) -> bool:
    missing = [name for name in required if name not in header]
    if missing:
        log.error(path, line, f"the header lacks {', '.join(missing)}: {shown(','.join(header))}")
    elif len(set(header)) < len(header) or "" in header:
        log.error(path, line, f"the header has a column without a name or a name twice: {shown(','.join(header))}")
    else:
        return True
    return False


def number(row: Mapping[str, object], name: str) -> float:
    """The finite number in column ``name``; raises ``InputError`` for anything else."""
    value = row.get(name)
    found = math.nan
    if isinstance(value, int | float) or (isinstance(value, str) and "_" not in value):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{name} is {shown(value)}, expected a finite number")
    return found


def whole_number(row: Mapping[str, object], name: str, least: int = 0) -> int:
    """The whole number in column ``name`` (also written as ``3.0`` or ``3e0``), at least ``least``."""
    found = number(row, name)
    if not found.is_integer() or not least <= found <= LARGEST_WHOLE_NUMBER:
        raise InputError(f"{name} is {shown(row[name])}, expected a whole number from {least}")
    return int(found)


def path_inside(text: str) -> PurePosixPath:
    """A relative path that stays in its folder, with either kind of slash; else raises ``InputError``."""
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts or not path.parts:
        raise InputError(f"path {shown(text)}, expected a relative path that stays in the data set's folder")
    return path


def natural_order(name: str) -> tuple[list[int | str], str]:
    """Sort key that puts ``2.jpg`` before ``10.jpg``."""
    parts = _DIGITS.split(name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
