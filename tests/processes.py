"""Killing processes that a test started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tests.chance import chance

PATIENCE_SECONDS = 1500.0
"""How long a test waits for something that must happen: a generous limit, because machines may be slow."""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_SECONDS} s"
        time.sleep(0.02)


def kill_within(process: subprocess.Popen[str], seconds: float, what: str) -> None:
    """SIGKILL after a random time below ``seconds``, which the test prints; waits for the process to end."""
    wait = chance().uniform(0, seconds)
    print(f"{what}: killed {wait:.3f} s later")
    time.sleep(wait)
    process.kill()
    process.communicate()
