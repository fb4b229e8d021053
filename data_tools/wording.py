"""Values and other programs' words within messages: short, in one line, with nothing that a terminal would obey."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable

LONGEST_VALUE = 120
LONGEST_REASON = 300

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 3  # what is nested wide and deep would be long all the same
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(value: object) -> str:
    """The value as Python writes it, cut in the middle where it is long."""
    try:
        return cut(_SHORT.repr(value), LONGEST_VALUE)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return f"a value of type {type(value).__name__} that is too long to be shown"


def one_line(words: object, most: int = LONGEST_REASON) -> str:
    """What an exception or a file says, in one line of at most ``most`` characters; an exception's name where it says
    nothing."""
    text = str(words).strip() or type(words).__name__
    return cut(printable(" ".join(text.split())), most)


def printable(text: str) -> str:
    """The text with its control characters and lone surrogates escaped, but not its line ends."""
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] == "\n" else ascii(found[0])[1:-1], text)


def cut(text: str, most: int) -> str:
    """The text itself, or its beginning and its end where it is longer than ``most``."""
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 3]}…{text[len(text) - kept // 3 :]}"


def listed(words: Iterable[str], last: str = "and") -> str:
    """``a, b and c``."""
    *others, end = words
    return f"{', '.join(others)} {last} {end}" if others else end
