"""Quoting values and foreign text in messages: short, on one line, without terminal control characters."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable

LONGEST_VALUE = 120
LONGEST_REASON = 300

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 3  # broad and deep nesting would still be long
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(value: object) -> str:
    """The value's repr, shortened in the middle if it is long."""
    try:
        return cut(_SHORT.repr(value), LONGEST_VALUE)
    except ValueError:  # Python does not print integers of more than a few thousand digits
        return f"a value of type {type(value).__name__} that is too long to show"


def one_line(words: object, most: int = LONGEST_REASON) -> str:
    """An exception or a text on one line of at most ``most`` characters; the type's name if the text is empty."""
    text = str(words).strip() or type(words).__name__
    return cut(printable(" ".join(text.split())), most)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, as ``one_line``: the rest is often a traceback or a hint for others."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0]) if lines else type(error).__name__


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped, but not newlines."""
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] == "\n" else ascii(found[0])[1:-1], text)


def cut(text: str, most: int) -> str:
    """The text itself, or its beginning and end if it is longer than ``most``."""
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 3]}…{text[len(text) - kept // 3 :]}"


def listed(words: Iterable[str], last: str = "and") -> str:
    """``a, b and c``."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end
