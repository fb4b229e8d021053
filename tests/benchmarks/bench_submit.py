"""Seconds from `ray job submit` to the first training step, and from a command to it, against what Ray itself takes.

    python -m tests.benchmarks.bench_submit [--rounds 3]

The baseline is a Ray Train run of one worker whose function only notes that it runs, submitted in the same way to the
same cluster in turn: what lies above it is ours.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

from tests.conftest import make_tiny_shards
from tests.jobs.breaking import checkout, expect_success
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import Head

BARE = """
import sys, torch
from pathlib import Path
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

def work(config):
    Path(config["file"]).write_text("started")

TorchTrainer(work, train_loop_config={"file": sys.argv[1]}, scaling_config=ScalingConfig(num_workers=1)).fit()
"""


def seconds_until(head: Head, working_dir: Path, command: list[str], written: Path) -> float:
    """Seconds from the submission until ``written`` has content; then waits for the job to end."""
    name = f"job-{time.monotonic_ns()}"
    began = time.monotonic()
    submit = ["--submission-id", name, "--no-wait", "--working-dir", str(working_dir), "--", *command]
    expect_success(head.jobs("submit", *submit))
    while not (written.exists() and written.stat().st_size):
        if time.monotonic() - began > 300:
            raise RuntimeError(head.jobs("logs", name).stdout[-3000:])
        time.sleep(0.02)
    seconds = time.monotonic() - began
    while not (state := re.search(r"succeeded|failed|stopped", str(head.jobs("status", name)).lower())):
        time.sleep(1)
    if state.group() != "succeeded":
        raise RuntimeError(head.jobs("logs", name).stdout[-3000:])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        recipe = write_tiny_recipe(root, make_tiny_shards(root))
        working_dir = checkout(root / "checkout")
        (working_dir / "bare.py").write_text(BARE)
        (root / "head").mkdir()
        head = Head(root / "head")
        try:
            seconds: dict[str, list[float]] = {"bare": [], "train.py": []}
            for number in range(rounds):
                file = root / f"bare-{number}"
                command = ["python", "bare.py", str(file)]
                seconds["bare"].append(seconds_until(head, working_dir, command, file))
                command = ["python", "ray_jobs/train.py", "--recipe", str(recipe), "--run.name", f"run-{number}"]
                command += ["--train.log_every_seconds", "0.001"]
                steps = root / "runs" / f"run-{number}" / "steps.jsonl"
                seconds["train.py"].append(seconds_until(head, working_dir, command, steps))
        finally:
            head.stop()
    bare, ours = (statistics.median(each) for each in seconds.values())
    print(f"\nload {os.getloadavg()[0]:.1f}, {rounds} rounds, median (lowest … highest)\n")
    print("| from `ray job submit` to | seconds | |\n|---|---|---|")
    for what, each in zip(("a bare Ray Train worker's function", "our first step"), seconds.values(), strict=True):
        print(f"| {what} | {statistics.median(each):.1f} | {min(each):.1f} … {max(each):.1f} |")
    print(f"\nours ÷ bare: {ours / bare:.2f}")


if __name__ == "__main__":
    main()
