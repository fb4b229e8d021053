"""Reading untrusted annotation files: lines, tables, numbers and paths.

Whatever a file contains, these functions return a checked value, report a problem with file and line, or raise
``InputError`` with a message to which the caller adds file and line.
"""

from __future__ import annotations

import codecs
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, AnyStr, BinaryIO

from data_tools.datasets.problems import ProblemLog
from data_tools.errors import InputError
from data_tools.wording import shown

LONGEST_LINE = 2**20
LARGEST_WHOLE_NUMBER = 2**53 - 1
"""The largest integer up to which float64 represents every integer exactly."""

_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_WIDE_ENCODINGS = (  # UTF-32 first, because its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DIGITS = re.compile(r"(\d+)", re.ASCII)


def reason_of(error: OSError | ValueError) -> str:
    """The reason of an error, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def require_folder(folder: Path, what: str) -> None:
    """Raise ``InputError`` if a data set's folder does not exist."""
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder, expected {what}")


def read_lines(path: Path, log: ProblemLog) -> Iterator[str]:
    """Every line of a text file, including blank ones, without byte order mark and line end.

    The text is UTF-8, or UTF-16 or UTF-32 if a byte order mark says so. A line that is not text is reported as an
    error and returned as empty; a file that cannot be read is reported and yields no (more) lines.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            wide = next((encoding for mark, encoding in _WIDE_ENCODINGS if start.startswith(mark)), None)
            if wide is not None:
                yield from _wide_lines(file, wide, path, log)
                return
            for line, raw in enumerate(_bounded(file, path, log), start=1):
                text = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
                yield _decoded(text.rstrip(b"\r\n"), path, line, log)
    except (OSError, ValueError) as error:
        log.error(path, None, f"cannot be read: {reason_of(error)}")


def _bounded(file: IO[AnyStr], path: Path, log: ProblemLog) -> Iterator[AnyStr]:
    """The lines, up to the first that is too long."""
    line = 0
    while text := file.readline(LONGEST_LINE + 1):
        line += 1
        if len(text) > LONGEST_LINE:
            log.error(
                path, line, f"has more than {LONGEST_LINE} characters, expected lines of text; the rest is not read"
            )
            return
        yield text


def _wide_lines(file: BinaryIO, encoding: str, path: Path, log: ProblemLog) -> Iterator[str]:
    lines = io.TextIOWrapper(file, encoding, newline="\n")
    line = 0
    try:
        for line, text in enumerate(_bounded(lines, path, log), start=1):
            yield _checked(text.rstrip("\r\n"), path, line, log)
    except UnicodeError:
        log.error(path, line + 1, f"is not {encoding.upper()} text, despite its byte order mark, from about here on")


def _decoded(raw: bytes, path: Path, line: int, log: ProblemLog) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        log.error(path, line, f"byte {error.start + 1} is not UTF-8 text: {shown(raw)}")
        return ""
    return _checked(text, path, line, log)


def _checked(text: str, path: Path, line: int, log: ProblemLog) -> str:
    if _CONTROL_CHARACTER.search(text):
        log.error(path, line, f"has control characters, expected plain text: {shown(text)}")
        return ""
    return text


def numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Line number and text of every line that is not blank."""
    for line, text in enumerate(lines, start=1):
        if text and not text.isspace():
            yield line, text


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
    """The integer in column ``name`` (also written as ``3.0`` or ``3e0``), at least ``least``."""
    found = number(row, name)
    if not found.is_integer() or not least <= found <= LARGEST_WHOLE_NUMBER:
        raise InputError(f"{name} is {shown(row[name])}, expected an integer of at least {least}")
    return int(found)


def path_inside(text: str) -> PurePosixPath:
    """A relative path, with either kind of slash, that stays in its folder; raises ``InputError`` otherwise."""
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts or not path.parts:
        raise InputError(f"path {shown(text)}, expected a relative path that stays in the data set's folder")
    return path


def natural_order(name: str) -> tuple[list[int | str], str]:
    """Sort key that puts ``2.jpg`` before ``10.jpg``."""
    parts = _DIGITS.split(name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
