"""The error raised when a user's input cannot be used."""

from __future__ import annotations

from data_tools.wording import cut, printable

LONGEST_LINE = 2000


class InputError(ValueError):
    """The user's input cannot be used.

    The message is complete for a user: it names the file, the line or frame, the value found and what was
    expected. Commands print it without a traceback and exit non-zero. Lines are cut to a bounded length and control
    characters are escaped, because the message may quote any file.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(cut(line, LONGEST_LINE) for line in printable(str(message)).split("\n")))


class UnreadableSourceError(InputError):
    """The frames of one tracklet cannot be read; sharding quarantines the tracklet and continues."""
