"""How a run stops before its end."""

from __future__ import annotations

from data_tools.errors import InputError


class StoppedTogetherError(InputError):
    """What stops the run, raised on every rank at the same place: no rank waits for another."""


class EndedOnRequestError(Exception):
    """The run was asked to end, and did so on every rank with a last checkpoint; it can go on from there."""
