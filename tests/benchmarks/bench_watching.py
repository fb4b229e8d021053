"""What logging costs the training loop: run-folder files alone, MLflow beside them, MLflow whose server is gone.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_watching [--steps 400] [--rounds 5]

Compared is the CPU time of the whole process, MLflow's thread included: the most that training can lose to it, and the
same on a busy machine. A step is a product of matrices of some 20 ms; the log is flushed every 50 steps, as the trainer
does every few seconds. MLflow writes a SQLite file, in this process, and so takes more of it than a server would.
"""

from __future__ import annotations

import argparse
import logging
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
from ccvid.training.mlflow_sink import MLFLOW_FILE, MlflowSink
from ccvid.training.step_log import StepLog
from ccvid.training.update_result import UpdateResult

FLUSH_STEPS = 50


def run_seconds(folder: Path, sinks: Sequence[MlflowSink], steps: int) -> tuple[float, float]:
    """CPU seconds per step, and seconds that a flush blocks training."""
    folder.mkdir()
    matrix, value = torch.rand(900, 900), torch.tensor(0.5)
    result = UpdateResult({"identity": value, "clothes": value, "adversarial": value}, identity_accuracy=value)
    log = StepLog(folder, first_step=0, total_steps=steps, clips_per_step=32, sinks=sinks)
    flushing = 0.0
    started = time.process_time()
    for step in range(steps):
        matrix @ matrix
        log.add(step, 0.1, result)
        if (step + 1) % FLUSH_STEPS == 0:
            begun = time.perf_counter()
            log.flush("", 0.0, epoch=0.0)
            flushing += time.perf_counter() - begun
    for sink in sinks:
        sink.close()
    seconds = time.process_time() - started
    log.close()
    return seconds / steps, flushing * FLUSH_STEPS / steps


def one_round(root: Path, steps: int) -> dict[str, tuple[float, float]]:
    """Run each variant once."""
    times = {"files": run_seconds(root / "files", (), steps)}
    for name, uri in {"MLflow": f"sqlite:///{root}/m.db", "MLflow, no server": "http://127.0.0.1:9"}.items():
        home = root / name.replace(", ", "-").replace(" ", "-")
        home.mkdir()
        sink = MlflowSink(uri, home, experiment="bench", name="bench", parameters={}, tags={})
        deadline = time.monotonic() + 20  # creating the tables, once per run
        while uri.startswith("sqlite") and not (home / MLFLOW_FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        times[name] = run_seconds(home / "run", [sink], steps)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mlflow_sink.SEND_SECONDS = 1.0  # five times as often as in a run, so that a short one shows the effect
    logging.disable()
    rounds = []
    with redirect_stdout(StringIO()):
        for _ in range(arguments.rounds + 1):
            with tempfile.TemporaryDirectory() as root:
                rounds.append(one_round(Path(root), arguments.steps))
    rounds = rounds[1:]  # the first imports
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"\n{machine}, {arguments.rounds} rounds of {arguments.steps} steps\n")
    print("| logging to | CPU ms a step | of files alone | lowest … highest | ms a flush of 50 steps |")
    print("|---|---|---|---|---|")
    for name in rounds[0]:
        ratios = [times[name][0] / times["files"][0] for times in rounds]
        step, flush = (1000 * statistics.median(times[name][part] for times in rounds) for part in (0, 1))
        spread = f"{statistics.median(ratios):.3f} | {min(ratios):.3f} … {max(ratios):.3f}"
        print(f"| {name} | {step:.2f} | {spread} | {flush:.2f} |")


if __name__ == "__main__":
    main()
