"""What training reports while it runs: metrics of every step to files and other sinks, progress lines, log records."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, TextIO

import torch

from ccvid.run_files import STEPS_FILE, TENSORBOARD_FOLDER
from ccvid.training.update_result import UpdateResult
from data_tools.documents import parse_json
from data_tools.errors import InputError
from data_tools.progress import TICK_SECONDS, Progress, seconds_left, show

TRAINING = "training"
"""Title of its progress lines."""
_LOSS = "_loss"
"""Ends the name of each loss among a step's values."""
_RATE = "learning_rate"
"""A value of every step, and of no validation."""
MetricGroup = Literal["train", "speed", "validation", "test"]

logger = logging.getLogger(__name__)


class MetricSink(Protocol):
    """Where metrics go besides the run folder. A sink never raises: it logs a warning and retries."""

    def add(self, group: MetricGroup, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step (counted from 0) without blocking training."""


class NonFiniteLossError(ArithmeticError):
    """Training has broken down: ``names`` are the losses of ``step`` that are NaN or infinite."""

    def __init__(self, step: int, names: list[str]) -> None:
        super().__init__(step, names)
        self.step, self.names = step, names


class StepLog:
    """Collects steps without waiting for the device, and writes them out every few seconds.

    Args:
        folder: the run folder; None writes no file and shows nothing (ranks other than 0).
        first_step: steps before this one are already in the file; later ones, from a killed run, are dropped.
        first_unscored: the same of validations, if some from before ``first_step`` are done again.
        clips_per_step: of all workers together.
        sinks: receive every value, on every rank; the caller closes them.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        first_step: int,
        first_unscored: int | None = None,
        total_steps: int,
        clips_per_step: int,
        sinks: Sequence[MetricSink] = (),
    ) -> None:
        self._files: list[_StepsFile | _Board] = []
        if folder is not None:
            self._files = [_StepsFile(folder, first_step, first_unscored), _Board(folder, first_step)]
        self._sinks: list[MetricSink] = [*self._files, *sinks]
        self._pending: list[tuple[int, float, UpdateResult]] = []
        self._first_step, self._total_steps, self._clips_per_step = first_step, total_steps, clips_per_step
        self._started = self._flushed = self._shown = time.monotonic()
        self._waited = 0.0
        self._progress: Progress | None = None
        self._validated = ""

    def add(self, step: int, learning_rate: float, result: UpdateResult, place: str = "") -> None:
        """Queue one step; nothing is read from the device yet.

        Args:
            place: how far the run is after this step, for a live display.
        """
        self._pending.append((step, learning_rate, result))
        if self._progress is not None and time.monotonic() - self._shown >= TICK_SECONDS:
            self._show(replace(self._progress, done=step + 1, place=place, tick=True))

    @property
    def seconds_since_flush(self) -> float:
        return time.monotonic() - self._flushed

    def pause(self) -> None:
        """Do not count the time since the last flush (validation, checkpoints) as training."""
        self._flushed = time.monotonic()

    def flush(self, place: str, wait_seconds: float, *, epoch: float | None = None) -> None:
        """Write the pending steps and show progress.

        Args:
            place: how far the run is, in words.
            wait_seconds: total time that training has waited for the loader.
            epoch: how far the run is, in epochs.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; it names the first such step, and nothing is written.
        """
        if not self._pending:
            return
        steps = [(step, _values(rate, result)) for step, rate, result in self._pending]
        for step, values in steps:
            if broken := [name for name, value in values.items() if not math.isfinite(value)]:
                raise NonFiniteLossError(step, broken)
        seconds, device = self.seconds_since_flush, self._pending[-1][2].identity_accuracy.device
        speed = {
            "clips_per_second": len(steps) * self._clips_per_step / seconds,
            "data_wait_share": (wait_seconds - self._waited) / seconds,
            **({} if epoch is None else {"epoch": epoch}),
            **_gpu_memory(device),
        }
        self._pending, self._waited, self._flushed = [], wait_seconds, time.monotonic()
        for step, values in steps:
            self._add("train", step, values)
        self._add("speed", steps[-1][0], speed)
        logger.info(place, extra={"event": "progress", "step": steps[-1][0], **speed})
        if self._files:
            self._show(
                Progress(
                    TRAINING,
                    steps[-1][0] + 1,
                    self._total_steps,
                    "steps",
                    place=place,
                    rates=((speed["clips_per_second"], "clips"),),
                    figures=_figures([values for _, values in steps], speed),
                )
            )

    def add_validation(self, step: int, scores: dict[str, float], summary: str = "") -> None:
        """Log the scores of a validation; a live display shows ``summary`` until the next one."""
        self._add("validation", step, scores)
        self._validated = summary

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _show(self, progress: Progress) -> None:
        """Show progress; the time left assumes the pace so far, validations and checkpoints included."""
        self._shown = time.monotonic()
        done, total = progress.done - self._first_step, progress.total - self._first_step
        seconds = self._shown - self._started
        left = seconds_left(done, total, seconds)
        self._progress = replace(progress, seconds=seconds, seconds_left=left, note=self._validated)
        show(self._progress)

    def _add(self, group: MetricGroup, step: int, values: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.add(group, step, values)


def log_event(event: str, *, epoch: int, step: int, world_size: int, **facts: float) -> None:
    """Log an event with the epochs and steps done before it."""
    logger.info(event, extra={"event": event, "epoch": epoch, "step": step, "world_size": world_size, **facts})


def add_test_scores(sinks: Sequence[MetricSink], step: int, metrics: Mapping[str, object]) -> None:
    """Send every protocol's figures in ``metrics.json`` to ``sinks``, as ``general/map`` or ``general/cmc/1``."""
    figures = {
        name: float(value)
        for name, value in flatten(metrics.get("protocols", {}), "/").items()
        if isinstance(value, int | float)
    }
    for sink in sinks:
        sink.add("test", step, figures)


def flatten(values: object, separator: str, prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings into one, with names joined by ``separator``."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in flatten(inner, separator, f"{prefix}{separator if prefix else ''}{key}").items()
    }


class _StepsFile:
    """``steps.jsonl``: one line per step and per validation, written immediately."""

    def __init__(self, folder: Path, first_step: int, first_unscored: int | None) -> None:
        self._file = _reopen(folder / STEPS_FILE, first_step, first_step if first_unscored is None else first_unscored)

    def add(self, group: MetricGroup, step: int, values: Mapping[str, float]) -> None:
        if group in ("train", "validation"):
            self._file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        self._file.close()


class _Board:
    """``tensorboard/``."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # only rank 0 pays for it

        self._writer = SummaryWriter(folder / TENSORBOARD_FOLDER, purge_step=first_step)

    def add(self, group: MetricGroup, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


def _reopen(path: Path, first_step: int, first_unscored: int) -> TextIO:
    """Open for appending, without the lines of what will be repeated or that a kill cut short."""
    kept = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                values = parse_json(line, path)
                if values["step"] < (first_step if _RATE in values else first_unscored):
                    kept.append(line.decode() + "\n")
            except (InputError, KeyError, TypeError):
                break
    path.write_text("".join(kept))
    return path.open("a", buffering=1)


def _values(learning_rate: float, result: UpdateResult) -> dict[str, float]:
    measured = {f"{name}{_LOSS}": value for name, value in result.losses.items()}
    measured["identity_accuracy"] = result.identity_accuracy
    numbers = torch.stack([value.float() for value in measured.values()]).tolist()
    return {_RATE: learning_rate, **dict(zip(measured, numbers, strict=True))}


def _gpu_memory(device: torch.device) -> dict[str, float]:
    """Peaks of this process in bytes; {} without a GPU."""
    if device.type != "cuda":
        return {}
    return {
        "gpu_memory_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "gpu_memory_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


def _figures(steps: list[dict[str, float]], speed: dict[str, float]) -> tuple[str, ...]:
    def mean(name: str) -> str:
        values = [step[name] for step in steps if name in step]
        return f"{sum(values) / len(values):.2f}"

    losses = dict.fromkeys(name for step in steps for name in step if name.endswith(_LOSS))
    return (
        f"data wait {speed['data_wait_share']:.0%}",
        f"loss: {', '.join(f'{name.removesuffix(_LOSS)} {mean(name)}' for name in losses)}",
        f"identity accuracy {mean('identity_accuracy')}",
    )
