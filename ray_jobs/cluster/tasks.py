"""Many small Ray tasks, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from data_tools.errors import InputError
from data_tools.progress import Meter, note_kept
from ray_jobs.cluster.job_console import with_drivers_console
from video_backbones import BackboneError

Job = TypeVar("Job")
Result = TypeVar("Result")

TASKS_PER_CPU = 2
"""Tasks submitted to Ray at a time: enough to keep every CPU busy, few enough to stop quickly."""


def run_task(function: Callable[..., Result], *arguments: Any, gpus: float = 0) -> Result:
    """Run ``function(*arguments)`` as a Ray task with one CPU; re-raises its input errors."""
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(with_drivers_console(function))
    result: Result = results_of([task.remote(*arguments)])[0]
    return result


def results_of(references: Sequence[Any]) -> list[Any]:
    """The results of Ray tasks; re-raises their input errors."""
    try:
        return list(ray.get(list(references)))
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | BackboneError | OSError) else error from None


def run_tasks(
    function: Callable[..., Result],
    jobs: Sequence[Job],
    *,
    common: tuple[Any, ...],
    what: str,
    unit: str,
    place: object = None,
    counted: str = "frames",
    size: Callable[[Result], int],
) -> Iterator[tuple[int, Result]]:
    """Run ``function(job, *common)`` for every job as Ray tasks with one CPU; yields (job index, result) when done.

    Reports every few seconds: jobs done, frames/s (or what is ``counted``), time left, and what is kept after an
    interruption.

    Args:
        what: the work, for progress lines.
        unit: the name of the jobs, such as "shards".
        place: where finished results are kept after an interruption; None: nowhere.
        counted: a word for what ``size`` counts.
        size: the number of frames, or other things, of a result.

    Raises:
        InputError, OSError: raised by the function.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(with_drivers_console(function))
    meter = Meter(what, len(jobs), unit)
    shared = [ray.put(value) for value in common]
    most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    running: dict[Any, int] = {}
    waiting = iter(enumerate(jobs))
    done = 0
    try:
        while done < len(jobs):
            while len(running) < most and (job := next(waiting, None)):
                running[task.remote(job[1], *shared)] = job[0]
            finished, _ = ray.wait(list(running), num_returns=1, timeout=5)
            for reference in finished:
                index = running.pop(reference)
                result: Result = ray.get(reference)
                done += 1
                if place is not None:
                    note_kept("data", f"{done} of {len(jobs)} {unit} under {place}")
                yield index, result
                meter.add(1, **{counted: size(result)})
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | OSError) else error from None
    finally:
        for reference in running:
            ray.cancel(reference)
