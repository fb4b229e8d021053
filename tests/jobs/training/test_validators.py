"""Held-out identities scored by an actor while training goes on, which is killed once."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.storage import StorageFolder
from tests.chance import chance
from tests.jobs.breaking import Outcome, expect_success, processes_called
from tests.jobs.head import Head, is_alive
from tests.processes import PATIENCE_SECONDS, wait_for

EPOCHS = 16


def end_of(folder: Path) -> tuple[Outcome, dict[str, bytes]]:
    """The outcome, with the lines of steps in order of content, and the files of the best epoch."""
    outcome = Outcome.of(StorageFolder(str(folder)))
    steps = "\n".join(sorted(outcome.steps.splitlines()))
    return replace(outcome, steps=steps), {path.name: path.read_bytes() for path in (folder / "best").iterdir()}


@pytest.mark.slow
def test_a_validator_that_is_killed_chooses_the_same_weights_as_waiting(
    head: Head, tiny_recipe: Path, tmp_path: Path
) -> None:
    flags = ["--recipe", str(tiny_recipe), "--train.epochs", str(EPOCHS), "--train.log_every_seconds", "0.1"]
    expect_success(head.run("train.py", *flags, "--run.name", "waiting"))
    beside = head.start("train.py", *flags, "--run.name", "beside", "--compute.validators", "1")
    try:
        wait_for(lambda: processes_called(head, "ray::Validator"), "validator")
        pause = chance().uniform(0, 2)
        print(f"the validator is killed after {pause:.1f} s")
        time.sleep(pause)
        (validator,) = processes_called(head, "ray::Validator")
        os.kill(validator, signal.SIGKILL)
        output, _ = beside.communicate(timeout=PATIENCE_SECONDS)
    finally:
        beside.kill()
    assert beside.returncode == 0, output[-5000:]
    assert "is lost and replaced: The actor died" in output
    assert "score epoch" not in output  # the workers had to score none but the last
    assert end_of(tmp_path / "runs" / "beside") == end_of(tmp_path / "runs" / "waiting")
    wait_for(lambda: not any(map(is_alive, processes_called(head, "ray::Validator"))), "end of the validators")
