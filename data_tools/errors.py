"""The one error that a user's data can cause."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is complete for a user: it names the file, the line or frame, the value found and what was
    expected. Commands print it without a traceback and exit non-zero.
    """


class UnreadableSourceError(InputError):
    """The frames of one tracklet cannot be read; sharding quarantines the tracklet and goes on."""
