"""Seconds, CPU seconds and memory of this process and all that it started; from Linux's /proc."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

EVERY_SECONDS = 0.25
TICKS = os.sysconf("SC_CLK_TCK")


class TreeMeter:
    """Measures what runs within: ``seconds``, ``cpu_seconds`` and ``peak_bytes``, sampled four times a second.

    Memory is the sum of proportional set sizes, so that a page which several processes share counts once.
    """

    seconds: float
    cpu_seconds: float

    def __enter__(self) -> TreeMeter:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._before = _cpu_seconds()
        self._started = time.perf_counter()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = _cpu_seconds() - self._before
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, sum(map(_memory, _tree())))
            if self._ended.wait(EVERY_SECONDS):
                return


def _tree() -> list[int]:
    """This process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            children.setdefault(int(_stat(int(path.name))[1]), []).append(int(path.name))
    found, waiting = [], [os.getpid()]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _stat(process: int) -> list[str]:
    """Fields from the state on."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _memory(process: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _cpu_seconds() -> float:
    """Of the processes that are there, and of those that they waited for."""
    total = 0
    for process in _tree():
        with suppress(OSError):
            total += sum(map(int, _stat(process)[11:15]))
    return total / TICKS
