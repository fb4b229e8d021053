"""The trainer's own loader during its step: how long the step waits for clips, by number of CPU cores."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from tests.benchmarks.gpu.device import cpu_cores, seconds_of, wait
from tests.benchmarks.gpu.step_ways import recipe_step
from tests.benchmarks.gpu.task import Task, cal_trainer, ready_batch

CORES = (1, 2, 4, 8, 16)
MOST_WAITING = 0.02


def run(task: Task) -> None:
    trainer = cal_trainer(task)
    ready = seconds_of(recipe_step(trainer, ready_batch(trainer)), task.sizes.steps, task.device, warm_up=3)
    task.results.fact("ms a step on a ready batch", 1000 * ready, "{:.2f}")
    enough = []
    for cores in CORES:
        if cores > cpu_cores():
            task.results.note(f"{cores} CPU cores", f"not measured: this machine has {cpu_cores()}")
            continue
        with only_cores(cores):
            share, seconds = fed_step(task, cores)
        what = f"{cores} CPU cores and loader threads"
        task.results.at_most(f"{what}: share of the time waited for data", share, MOST_WAITING, "{:.1%}")
        task.results.fact(f"{what}: time of a step, that on a ready batch 1", seconds / ready, "{:.2f}")
        if share <= MOST_WAITING:
            enough.append(cores)
    task.results.note("the aim is met from", f"{min(enough)} CPU cores on" if enough else "no number measured here")


def fed_step(task: Task, threads: int) -> tuple[float, float]:
    """The share of time that the training loop waits for its loader, and seconds per step."""
    trainer = cal_trainer(task, threads=threads)
    schedule, (clips,) = trainer.sampler.schedule(0, 0), trainer.passes
    warm_up = min(10, len(schedule) // 2)
    steps = min(8 * task.sizes.steps, len(schedule) - warm_up)
    for number, batch in enumerate(islice(clips.loader.batches(schedule), warm_up + steps)):
        clips.update(batch.to(task.device, non_blocking=True), trainer.recipe.method.start_epoch)
        if number + 1 == warm_up:
            wait(task.device)
            waited, started = clips.loader.wait_seconds, time.perf_counter()
    wait(task.device)
    seconds = time.perf_counter() - started
    return (clips.loader.wait_seconds - waited) / seconds, seconds / steps


@contextmanager
def only_cores(number: int) -> Iterator[None]:
    """Pin this process's threads, and those that they start, to that many cores, if the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    _keep_threads_on(set(cores[:number]))
    try:
        yield
    finally:
        _keep_threads_on(set(cores))


def _keep_threads_on(cores: set[int]) -> None:
    """All threads, because the backward pass runs in a separate one."""
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # the thread has ended in the meantime
            os.sched_setaffinity(int(thread.name), cores)
