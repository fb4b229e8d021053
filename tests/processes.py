"""Killing what a test started."""

from __future__ import annotations

import random
import subprocess
import time


def kill_within(process: subprocess.Popen[str], seconds: float, what: str) -> None:
    """SIGKILL after a random time below ``seconds``, which the test's output names; waits for the end."""
    wait = random.uniform(0, seconds)
    print(f"{what}: killed {wait:.3f} s later")
    time.sleep(wait)
    process.kill()
    process.communicate()
