"""What training tells while it runs: metrics of every step, TensorBoard scalars, progress lines."""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from ccvid.training.update import UpdateResult

STEPS_FILE = "steps.jsonl"


class NonFiniteLossError(ArithmeticError):
    """Training has broken down: ``names`` are the losses of ``step`` that are NaN or infinite."""

    def __init__(self, step: int, names: list[str]) -> None:
        super().__init__(step, names)
        self.step, self.names = step, names


class StepLog:
    """Collects steps without waiting for the device, and writes them out every few seconds.

    Args:
        folder: the run folder; None writes no file (ranks other than 0).
        first_step: steps before this one stand in the file already; later ones, of a killed run, are dropped.
        clips_per_step: of all workers together.
    """

    def __init__(self, folder: Path | None, *, first_step: int, total_steps: int, clips_per_step: int) -> None:
        self._file = None if folder is None else _reopen(folder / STEPS_FILE, first_step)
        self._board = None if folder is None else SummaryWriter(folder / "tensorboard", purge_step=first_step)
        self._pending: list[tuple[int, float, UpdateResult]] = []
        self._first_step, self._total_steps, self._clips_per_step = first_step, total_steps, clips_per_step
        self._started = self._flushed = time.monotonic()
        self._waited = 0.0
        self._training_seconds = 0.0
        self._steps_done = 0

    def add(self, step: int, learning_rate: float, result: UpdateResult) -> None:
        """Note one step; nothing is read from the device yet."""
        self._pending.append((step, learning_rate, result))

    @property
    def seconds_since_flush(self) -> float:
        return time.monotonic() - self._flushed

    def pause(self) -> None:
        """Do not count the time until now (validation, checkpoints) as training."""
        self._flushed = time.monotonic()

    def flush(self, place: str, wait_seconds: float) -> None:
        """Write the pending steps and print one progress line.

        Args:
            place: where the run stands, in words.
            wait_seconds: what the loader has waited in all.

        Raises:
            NonFiniteLossError: of the first step with a loss that is no finite number; nothing is written.
        """
        if not self._pending:
            return
        steps = [_values(step, rate, result) for step, rate, result in self._pending]
        for values in steps:
            if broken := [name for name, value in values.items() if not math.isfinite(value)]:
                raise NonFiniteLossError(int(values["step"]), broken)
        seconds = self.seconds_since_flush
        self._steps_done += len(steps)
        self._training_seconds += seconds
        left = (self._total_steps - self._first_step - self._steps_done) * self._training_seconds / self._steps_done
        speed = {
            "clips_per_second": len(steps) * self._clips_per_step / seconds,
            "data_wait_share": (wait_seconds - self._waited) / seconds,
        }
        self._pending, self._waited, self._flushed = [], wait_seconds, time.monotonic()
        if self._file is None or self._board is None:
            return
        for values in steps:
            self._file.write(json.dumps(values) + "\n")
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, int(values["step"]))
        for name, value in speed.items():
            self._board.add_scalar(f"speed/{name}", value, int(steps[-1]["step"]))
        self._file.flush()
        print(_line(place, steps, speed, left), flush=True)

    def add_validation(self, step: int, scores: dict[str, float]) -> None:
        """Note the scores of a validation."""
        if self._file is not None and self._board is not None:
            self._file.write(json.dumps({"step": step, **scores}) + "\n")
            for name, value in scores.items():
                self._board.add_scalar(f"validation/{name}", value, step)

    def close(self) -> None:
        """Finish the files."""
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


class EmbeddingProgress:
    """Prints how far embedding is, every few seconds; called with the clips of each batch."""

    def __init__(self, total_clips: int, every_seconds: float) -> None:
        self._total, self._every, self._done = total_clips, every_seconds, 0
        self._started = self._printed = time.monotonic()

    def __call__(self, clips: int) -> None:
        self._done += clips
        now = time.monotonic()
        if now - self._printed >= self._every:
            self._printed, speed = now, self._done / (now - self._started)
            left = timedelta(seconds=round((self._total - self._done) / speed))
            print(f"embedding: {self._done}/{self._total} clips  {speed:.0f} clips/s  left {left}", flush=True)


def _reopen(path: Path, first_step: int):  # type: ignore[no-untyped-def]
    """Open for appending, without the lines of steps that will be done again or were cut short by a kill."""
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] < first_step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                break
    path.write_text("".join(kept))
    return path.open("a")


def _values(step: int, learning_rate: float, result: UpdateResult) -> dict[str, float]:
    measured = {
        "identity_loss": result.identity_loss,
        "identity_accuracy": result.identity_accuracy,
        "clothes_loss": result.clothes_loss,
        "adversarial_loss": result.adversarial_loss,
        "pair_loss": result.pair_loss,
    }
    present = {name: value for name, value in measured.items() if value is not None}
    numbers = torch.stack([value.float() for value in present.values()]).tolist()
    return {"step": step, "learning_rate": learning_rate, **dict(zip(present, numbers, strict=True))}


def _line(place: str, steps: list[dict[str, float]], speed: dict[str, float], seconds_left: float) -> str:
    def mean(name: str) -> str:
        values = [step[name] for step in steps if name in step]
        return f"{sum(values) / len(values):.2f}" if values else "–"

    pair = f", pair {mean('pair_loss')}" if "pair_loss" in steps[-1] else ""
    return (
        f"{place}  {speed['clips_per_second']:.0f} clips/s  data wait {speed['data_wait_share']:.0%}  "
        f"loss: identity {mean('identity_loss')}, clothes {mean('clothes_loss')}, "
        f"adversarial {mean('adversarial_loss')}{pair}  identity accuracy {mean('identity_accuracy')}  "
        f"left {timedelta(seconds=round(seconds_left))}"
    )
