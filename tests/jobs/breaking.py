"""Break a run in the ways that happen on clusters, and check whether it survived unharmed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.storage import StorageFolder
from tests.jobs.head import ROOT, Head, Node, is_alive
from tests.processes import PATIENCE_SECONDS, wait_for

KILLED = ("worker", "node", "driver", "head")
PACKAGES = ("ccvid", "data_tools", "ray_jobs", "video_backbones")


def expect_success(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def metrics(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def steps_of(place: StorageFolder) -> list[dict[str, float]]:
    """The lines of training steps, without validations and the line that is being written."""
    try:
        text = place.read("steps.jsonl").decode()
    except FileNotFoundError:
        return []
    lines = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return [line for line in lines if "identity_loss" in line]


def steps_done(place: StorageFolder) -> int:
    steps = steps_of(place)
    return int(steps[-1]["step"]) + 1 if steps else 0


def last_checkpoint(place: StorageFolder) -> StorageFolder:
    return place / max(name for name in place.names() if name.startswith("checkpoint_20"))


def train_workers(of: Head | Node) -> list[int]:
    """Process ids of a cluster's or a node's Ray Train workers."""
    return processes_called(of, "RayTrainWorker")


def processes_called(of: Head | Node, name: str) -> list[int]:
    """Process ids of a cluster's or a node's processes with this in their command line."""
    return [pid for pid in of.processes() if name.encode() in _command_line(pid)]


def checkout(folder: Path) -> Path:
    """What `ray job submit --working-dir` uploads: only the packages."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a finished run: equal if it was trained bit-identically."""

    model: str
    """Fingerprint of the scored weights."""
    checkpoint: str
    """SHA-256 of the last checkpoint's weights, including the clothes classifier's."""
    protocols: str
    steps: str

    @classmethod
    def of(cls, place: StorageFolder) -> Outcome:
        scores = json.loads(place.read("metrics.json"))
        last = last_checkpoint(place)
        weights = b"".join(last.read(f"{part}.safetensors") for part in ("model", "clothes"))
        return cls(
            model=scores["model"],
            checkpoint=hashlib.sha256(weights).hexdigest(),
            protocols=json.dumps(scores["protocols"], sort_keys=True),
            steps=place.read("steps.jsonl").decode(),
        )


@dataclass(frozen=True, slots=True)
class Broken:
    """The cost of one fault."""

    kind: str
    step: int
    """Steps done when it happened."""
    lost: int
    """How many of these were repeated."""
    seconds: float
    """Seconds from the fault to the end of the next new step."""


class Run:
    """A run whose driver is a process on the head's node; `hit` breaks something and repairs what people would repair.

    Args:
        nodes: how many nodes of one CPU the cluster shall have beside its head.
    """

    def __init__(self, head: Head, place: StorageFolder, arguments: Sequence[str], *, nodes: int, log: Path) -> None:
        self.head, self.place = head, place
        self._arguments, self._nodes, self._log = arguments, nodes, log
        self._begin()

    def reach(self, step: int) -> None:
        """Wait until that many steps are done."""
        self.wait_for(lambda: steps_done(self.place) >= step, f"step {step}")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that happens before the run ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            at = f"after step {steps_done(self.place)}, without {what}"
            assert self.process.poll() is None, f"the run ended {at}:\n{self.output_end()}"
            assert time.monotonic() < deadline, f"{PATIENCE_SECONDS} s passed {at}:\n{self.output_end()}"
            time.sleep(0.02)

    def hit(self, kind: str, chance: random.Random) -> Broken:
        """Kill one of ``KILLED``; returns once training continues."""
        workers, began = train_workers(self.head), time.monotonic()
        blows: dict[str, Callable[[], None]] = {
            "worker": lambda: os.kill(chance.choice(workers), signal.SIGKILL),
            "node": self._kill_node,
            "driver": self._kill_driver,
            "head": self._kill_head,
        }
        blows[kind]()
        wait_for(lambda: not any(map(is_alive, workers)), f"end of the old workers after a killed {kind}")
        step = steps_done(self.place)
        if kind == "node":
            self._mend_nodes()
        elif kind == "head":
            self.head.restart()
            self._mend_nodes()
        if self.process.poll() is not None:
            self._begin()
        lowest = self._next_step(step)
        return Broken(kind, step, step - lowest, time.monotonic() - began)

    def finish(self, seconds: float = 240) -> Outcome:
        """Wait until the run ends successfully."""
        try:
            code: int | None = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        assert code == 0, f"exit code {code}: {self.output_end()}"
        return Outcome.of(self.place)

    def end(self) -> None:
        """Kill any remaining driver."""
        self.process.kill()
        self.process.wait()

    def output_end(self) -> str:
        """The end of the drivers' output."""
        return self._log.read_text()[-6000:]

    def _begin(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self.head.command("train.py", *self._arguments),
                env=self.head.driver_environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def _kill_driver(self) -> None:
        self.process.kill()
        self.process.wait()

    def _kill_node(self) -> None:
        self.head.nodes[-1].kill()

    def _kill_head(self) -> None:
        self._kill_driver()  # it runs on the head's node
        self.head.kill()
        for node in self.head.nodes:  # they would not find the new head
            node.kill()

    def _mend_nodes(self) -> None:
        for _ in range(self._nodes - len(self.head.living_nodes())):
            self.head.add_node()

    def _next_step(self, step: int) -> int:
        """Wait for a step of the new workers; returns the step from which they resumed."""
        lowest = step

        def goes_on() -> bool:
            nonlocal lowest
            done = steps_done(self.place)
            lowest, before = min(lowest, done), lowest
            return done > before

        if self.process.poll() is None:
            self.wait_for(goes_on, f"step after {step}")
        return lowest


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
