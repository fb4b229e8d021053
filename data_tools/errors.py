"""The one error that a user's data can cause."""

from __future__ import annotations

from data_tools.wording import cut, printable

LONGEST_LINE = 2000


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is complete for a user: it names the file, the line or frame, the value found and what was
    expected. Commands print it without a traceback and exit non-zero. Whatever a file has put into it, its lines are of
    bounded length, and a terminal shows them as they are.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(cut(line, LONGEST_LINE) for line in printable(str(message)).split("\n")))


class UnreadableSourceError(InputError):
    """The frames of one tracklet cannot be read; sharding quarantines the tracklet and goes on."""
