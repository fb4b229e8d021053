"""What logging costs the training loop: run-folder files alone, MLflow beside them, MLflow whose server is gone.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_watching [--steps 400] [--rounds 5]

A step is a product of matrices of some 20 ms; the log is flushed every 50 steps, as the trainer does every few seconds.
MLflow writes a SQLite file, in this process, and so takes more of it than a server would.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from ccvid.training import mlflow_sink
from ccvid.training.mlflow_sink import MlflowSink
from ccvid.training.step_log import MetricSink, StepLog
from ccvid.training.update import UpdateResult

TARGET = 1.02
FLUSH_STEPS = 50


def run_seconds(folder: Path, sinks: Sequence[MetricSink], steps: int) -> tuple[float, float]:
    """Seconds a step, and seconds a flush."""
    folder.mkdir()
    matrix, value = torch.rand(900, 900), torch.tensor(0.5)
    result = UpdateResult(
        identity_loss=value, identity_accuracy=value, clothes_loss=value, adversarial_loss=value, pair_loss=None
    )
    log = StepLog(folder, first_step=0, total_steps=steps, clips_per_step=32, sinks=sinks)
    flushing = 0.0
    started = time.perf_counter()
    for step in range(steps):
        matrix @ matrix
        log.add(step, 0.1, result)
        if (step + 1) % FLUSH_STEPS == 0:
            begun = time.perf_counter()
            log.flush("", 0.0, epoch=0.0)
            flushing += time.perf_counter() - begun
    seconds = time.perf_counter() - started
    log.close()
    return seconds / steps, flushing * FLUSH_STEPS / steps


def one_round(root: Path, steps: int) -> dict[str, tuple[float, float]]:
    """Each way once."""
    times = {"files": run_seconds(root / "files", (), steps)}
    for name, uri in {"MLflow": f"sqlite:///{root}/m.db", "MLflow, no server": "http://127.0.0.1:9"}.items():
        home = root / name.replace(", ", "-").replace(" ", "-")
        home.mkdir()
        sink = MlflowSink(uri, home, experiment="bench", name="bench", parameters={}, tags={})
        time.sleep(4)  # imports and the tables' making, once a run
        times[name] = run_seconds(home / "run", [sink], steps)
        sink.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mlflow_sink.SEND_SECONDS = 1.0  # five times as often as in a run, so that a short one shows it
    rounds = []
    with redirect_stdout(StringIO()):
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as root:
                rounds.append(one_round(Path(root), arguments.steps))
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"\n{machine}, {arguments.rounds} rounds of {arguments.steps} steps\n")
    print(
        "| logging to | ms a step | of files alone | lowest … highest | ms a flush of 50 steps | |\n|---|---|---|---|---|---|"
    )
    for name in rounds[0]:
        ratios = [times[name][0] / times["files"][0] for times in rounds]
        step, flush = (1000 * statistics.median(times[name][part] for times in rounds) for part in (0, 1))
        ratio = statistics.median(ratios)
        verdict = "" if name == "files" else "met" if ratio <= TARGET else f"MISSED {TARGET}"
        print(
            f"| {name} | {step:.2f} | {ratio:.3f} | {min(ratios):.3f} … {max(ratios):.3f} | {flush:.2f} | {verdict} |"
        )


if __name__ == "__main__":
    main()
