"""Exceptions that stop a run before its end."""

from __future__ import annotations

from data_tools.errors import InputError


class StoppedTogetherError(InputError):
    """A problem that stops the run, raised on every rank at the same step, so that no rank waits for another."""


class EndedOnRequestError(Exception):
    """The run was asked to end, and every rank did so after a last checkpoint, from which the run can resume."""
