"""A whole search on a real Ray cluster: stopped trials, a failing one, a kill of its driver, and its results."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.chance import chance
from tests.jobs.breaking import expect_success, train_workers
from tests.jobs.head import ROOT, Head
from tests.processes import wait_for

pytestmark = pytest.mark.slow

# The second makes training diverge, the last two leave the initial weights as they are.
SPACE = "optim.learning_rate: {choices: [0.003, 1.0e+30, 1.0e-12, 1.0e-11]}"
AT_ONCE = 2
SECONDS_TO_CLEAR = 60  # how long a slow machine may take to clean up a stopped trial


def trials_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "search.json"
    return list(json.loads(file.read_text())["trials"]) if file.exists() else []


def validations(folder: Path) -> int:
    return sum(len(trial["history"]) for trial in trials_of(folder))


class Watch:
    """Record every half second what is alive on the cluster, and how many trials the search reports as running."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.samples, self.running = folder, list[dict[str, Any]](), list[tuple[float, int]]()
        self._ended = threading.Event()

    @contextmanager
    def over(self, head: Head) -> Iterator[Watch]:
        command = [str(head.python), str(ROOT / "tests" / "jobs" / "leftovers.py")]
        process = subprocess.Popen(command, env=head.driver_environment, stdout=subprocess.PIPE, text=True)
        threads = [threading.Thread(target=self._read, args=(process,)), threading.Thread(target=self._count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            process.kill()
            for thread in threads:
                thread.join()
            process.wait()

    def most_running(self, since: float, until: float) -> int:
        """Trials that ran at the same time within a period, and the last number before it."""
        before = [count for moment, count in self.running if moment < since][-1:]
        return max([*before, *(count for moment, count in self.running if since <= moment <= until)], default=0)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                self.samples.append(json.loads(line))

    def _count(self) -> None:
        while not self._ended.wait(0.2):
            running = sum(trial["state"] == "running" for trial in trials_of(self.folder))
            self.running.append((time.time(), running))


def test_a_killed_search_goes_on_stops_trials_without_a_trace_and_its_best_recipe_trains(
    head: Head, tiny_recipe: Path, tmp_path: Path
) -> None:
    space, folder = tmp_path / "space.yaml", tmp_path / "runs" / "night"
    space.write_text(SPACE)
    arguments = ["--recipe", str(tiny_recipe), "--space", str(space), "--searcher", "grid", "--run.name", "night"]
    arguments += [
        "--train.epochs",
        "6",
        "--method.epsilon",
        "1",
        "--grace",
        "2",
        "--reduction",
        "4",
        "--concurrency",
        str(AT_ONCE),
    ]
    first_kill = chance().randint(1, 6)
    print(f"the driver is killed after validation {first_kill}")

    process = head.start("tune.py", *arguments)
    wait_for(lambda: validations(folder) >= first_kill or process.poll() is not None, "validation")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = trials_of(folder)
    wait_for(lambda: not train_workers(head), "end of the orphaned workers")
    assert any(trial["state"] == "running" for trial in before)

    with Watch(folder).over(head) as watch:
        output = expect_success(head.run("tune.py", *arguments))
        time.sleep(2)
    check_course(folder, before, output)
    check_nothing_stayed(watch)
    check_best_recipe(head, folder)
    check_entered_again(head, folder, arguments)


def check_course(folder: Path, before: list[dict[str, Any]], output: str) -> None:
    after = trials_of(folder)
    assert len(after) == 4
    for old, new in zip(before, after, strict=False):
        assert new["values"] == old["values"]
        assert new["history"][: len(old["history"])] == old["history"]
        if old["state"] not in ("running", "waiting"):
            assert new == old  # was not repeated
        epochs = [epoch for epoch, _ in new["history"]]
        assert epochs == sorted(set(epochs)), "no epoch was validated twice"
    states = {trial["number"]: trial["state"] for trial in after}
    for trial in after:
        if trial["values"]["optim.learning_rate"] == 1e30:
            assert trial["state"] == "failed"
            assert "not finite" in trial["reason"]
        elif trial["state"] == "finished":
            assert trial["epoch"] == 6
        else:
            assert trial["state"] == "stopped"
            assert 2 <= trial["epoch"] < 6
    assert "stopped" in states.values(), after
    assert "finished" in states.values()
    of_ray = "\x1b[33m(raylet)"  # warns of many processes for two CPUs
    assert not [line for line in output.splitlines() if "\x1b" in line and not line.startswith(of_ray)]
    for word in (
        "best so far",
        "left",
        "What explains the scores",
        str(folder / "best.yaml"),
    ):
        assert word in output, word
    assert re.search(
        r"unreliable: fewer than \d+ trials|too few trials: \d with a score", output
    )  # one may have failed
    assert "Traceback" not in output
    table = pq.read_table(folder / "trials.parquet")
    assert table["state"].to_pylist() == [trial["state"] for trial in after]
    for trial in after:
        assert not (folder / "trials" / f"trial-{trial['number']:05}" / "metrics.json").exists()  # no test set


def check_nothing_stayed(watch: Watch) -> None:
    """At no time is more alive than the trials of the last seconds need; at the end nothing is."""
    assert len(watch.samples) > 20
    for sample in watch.samples:
        allowed = watch.most_running(sample["time"] - SECONDS_TO_CLEAR, sample["time"])
        for name in ("TrainController", "RayTrainWorker"):
            assert sample["actors"].count(name) <= allowed, sample
        # One of Tune and one of the workers for each trial, including one that is being cleaned up.
        assert sample["groups"] <= 2 * (max(allowed, AT_ONCE) + 1), sample
    last = watch.samples[-1]
    assert last["groups"] == 0, last
    assert not {"TrainController", "RayTrainWorker", "ResourceTrainable", "_QueueActor"} & set(last["actors"]), last
    # Ray's cleaners, which use no CPU, do not end when their controller is killed: those of the killed search remain.
    cleaners = [sample["actors"].count("PlacementGroupCleaner") for sample in (watch.samples[0], last)]
    assert cleaners[1] <= cleaners[0]


def check_best_recipe(head: Head, folder: Path) -> None:
    """It runs unchanged, and ends with exactly the weights of the trial."""
    text = (folder / "best.yaml").read_text()
    best = next(word.rstrip(":") for word in text.split() if word.startswith("trial-"))
    assert "clothes-changing" in expect_success(head.run("train.py", "--recipe", str(folder / "best.yaml")))
    weights = [place / "best" / "model.safetensors" for place in (folder / "trials" / best, Path(f"{folder}-best"))]
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}) == 1


def check_entered_again(head: Head, folder: Path, arguments: list[str]) -> None:
    records = (folder / "search.json").read_bytes()
    again = expect_success(head.run("tune.py", *arguments))
    assert "already finished" in again
    assert "What explains the scores" in again
    assert (folder / "search.json").read_bytes() == records
    other = head.run("tune.py", *arguments, "--reduction", "3", "--method.scale", "8")
    assert other.returncode == 1
    assert "holds a search with other settings" in other.stderr
    assert "reduction: 4.0 there, 3.0 now" in other.stderr
    assert "recipe.method.scale: 16.0 there, 8.0 now" in other.stderr
    assert (folder / "search.json").read_bytes() == records


def test_what_does_not_fit_the_cluster_is_an_error_before_the_start(
    head: Head, tiny_recipe: Path, tmp_path: Path
) -> None:
    done = head.run("tune.py", "--recipe", str(tiny_recipe), "--trials", "9", "--concurrency", "3")
    assert done.returncode == 1
    assert "3 trial(s) at once of 1 worker(s) with 1 CPU(s) each do not fit the cluster" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
