"""Killing a process that hangs."""

from __future__ import annotations

import faulthandler
import sys
import time

REARM_SECONDS = 1.0
"""More frequent signs of life are ignored: each costs a thread."""


class Watchdog:
    """Kills this process, with every thread's traceback in its log, unless ``alive`` is called every ``seconds``.

    It starts with the first call. Its thread does not need the interpreter lock, so a library that hangs while holding
    the lock is detected as well; a suspended process is not.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._armed = seconds, 0.0

    def alive(self) -> None:
        """Signal that work continues."""
        now = time.monotonic()
        if now - self._armed > min(REARM_SECONDS, self._seconds / 4):
            self._armed = now
            assert sys.__stderr__ is not None
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=sys.__stderr__)

    def rest(self) -> None:
        """Pause until the next call of ``alive``."""
        self._armed = 0.0
        faulthandler.cancel_dump_traceback_later()
