"""Ends a process that hangs."""

from __future__ import annotations

import faulthandler
import sys
import time

REARM_SECONDS = 1.0
"""Signs of life that come faster are not passed on: each costs a thread."""


class Watchdog:
    """Ends this process, with every thread's traceback in its log, unless ``alive`` is called every ``seconds``.

    It waits for the first call. Its thread needs no interpreter lock, so a library that hangs while it holds the lock
    is found as well; a process that is stopped as a whole is not.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._armed = seconds, 0.0

    def alive(self) -> None:
        """Tell that work goes on."""
        now = time.monotonic()
        if now - self._armed > min(REARM_SECONDS, self._seconds / 4):
            self._armed = now
            assert sys.__stderr__ is not None
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=sys.__stderr__)

    def rest(self) -> None:
        """Wait for the next sign of life, however long."""
        self._armed = 0.0
        faulthandler.cancel_dump_traceback_later()
