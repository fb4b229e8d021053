"""A run that is asked to end, that another would enter, that hangs, or whose storage refuses writes for a while."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.storage import StorageFolder
from tests.chance import chance
from tests.jobs.breaking import Outcome, Run, checkout, expect_success, steps_done, train_workers
from tests.jobs.head import ROOT, Head, is_alive
from tests.processes import PATIENCE_SECONDS, wait_for

LONG = ["--train.epochs", "40", "--train.log_every_seconds", "0.1"]
ENDLESS = ["--train.epochs", "4000", "--train.log_every_seconds", "0.1", "--train.validate_every", "4000"]


def random_step(most: int) -> int:
    step = chance().randint(3, most)
    print(f"after step {step}")
    return step


@pytest.fixture
def undisturbed(head: Head, tiny_recipe: Path, tmp_path: Path) -> Outcome:
    expect_success(head.run("train.py", "--recipe", str(tiny_recipe), *LONG, "--run.name", "whole"))
    return Outcome.of(StorageFolder(str(tmp_path / "runs" / "whole")))


@pytest.mark.slow
def test_a_stopped_job_leaves_a_last_checkpoint_and_keeps_others_out(
    head: Head, tiny_recipe: Path, tmp_path: Path
) -> None:
    """`ray job stop`; while the run is alive, a second submission of its name is refused and changes nothing."""
    place = StorageFolder(str(tmp_path / "runs" / "stopped"))
    working_dir = checkout(tmp_path / "checkout")
    flags = ["--recipe", str(tiny_recipe), "--run.name", "stopped", "--train.checkpoint_every_epochs", "4000"]
    command = ["python", "ray_jobs/train.py", *flags, *ENDLESS]
    submit = ["--submission-id", "first", "--no-wait", "--working-dir", str(working_dir), "--", *command]
    expect_success(head.jobs("submit", *submit))
    wait_for(lambda: steps_done(place) >= 5, "step")

    second = head.run("train.py", *flags, *ENDLESS)
    assert second.returncode == 1, second.stdout + second.stderr
    assert "a run of this name is active: job first on" in second.stderr
    assert "Traceback" not in second.stderr

    workers = train_workers(head)
    moment = random_step(200)
    wait_for(lambda: steps_done(place) >= moment, "step")
    expect_success(head.jobs("stop", "first"))
    output = head.jobs("logs", "first").stdout
    assert re.search(r"stopped on request in epoch \d+ after step \d+, with a checkpoint", output), output
    wait_for(lambda: not any(map(is_alive, workers)), "end of the workers")
    done = steps_done(place)
    assert len([name for name in place.names() if name.startswith("checkpoint_20")]) == 1

    more = head.start("train.py", *flags, *ENDLESS)
    wait_for(lambda: steps_done(place) > done, "step after the stop")
    more.send_signal(signal.SIGINT)
    output, _ = more.communicate(timeout=PATIENCE_SECONDS)
    assert more.returncode == 130, output
    assert "run the same command to resume" in output
    numbers = [
        int(match) for match in re.findall(r'"step": (\d+), "learning_rate"', place.read("steps.jsonl").decode())
    ]
    assert numbers == list(range(len(numbers))), "a step is missing or stands there twice"


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_the_run_goes_on(
    head: Head, tiny_recipe: Path, tmp_path: Path, undisturbed: Outcome
) -> None:
    """A worker is stopped as a whole (SIGSTOP), as if a disk does not answer; an actor decodes for it."""
    place = StorageFolder(str(tmp_path / "runs" / "hung"))
    arguments = ["--recipe", str(tiny_recipe), *LONG, "--run.name", "hung"]
    arguments += ["--compute.hang_seconds", "6", "--run.patience_seconds", "3", "--compute.decoders", "1"]
    run = Run(head, place, arguments, nodes=0, log=tmp_path / "driver.log")
    try:
        run.reach(random_step(25))
        (worker,) = train_workers(head)
        os.kill(worker, signal.SIGSTOP)
        began = time.monotonic()
        wait_for(lambda: not is_alive(worker), "end of the worker that hangs")
        print(f"ended after {time.monotonic() - began:.1f} s")
        assert run.finish() == undisturbed
    finally:
        run.end()


@pytest.mark.parametrize("hang", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"])
def test_a_process_without_signs_of_life_ends_with_a_traceback(hang: str) -> None:
    """Also if a library hangs while holding the interpreter lock."""
    script = (
        "import ctypes, time\nfrom ray_jobs.training.watchdog import Watchdog\ndog = Watchdog(1)\ntime.sleep(1.5)\n"
        "dog.alive(); dog.rest(); time.sleep(1.5)\nfor _ in range(8): dog.alive(); time.sleep(0.2)\n"
        f"print('alive', flush=True)\ndef hung(): {hang}\nhung()\nprint('not reached')"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout == "alive\n", done.stdout + done.stderr
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
    assert "in hung" in done.stderr
    assert time.monotonic() - began < 20
