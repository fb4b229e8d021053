"""Many small Ray tasks, with progress."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import reduce
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

FAN_IN = 8
"""Results that a task merges."""


def run_task(function: Callable[..., Result], *arguments: Any, gpus: float = 0) -> Result:
    """Run ``function(*arguments)`` as a Ray task with one CPU; re-raises its input errors."""
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(with_drivers_console(function))
    result: Result = results_of([task.remote(*arguments)])[0]
    return result


def results_of(references: Sequence[Any]) -> list[Any]:
    """The results of Ray tasks; re-raises their input errors."""
    with _input_errors():
        return list(ray.get(list(references)))


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
    with _input_errors(), closing(_finished(task, jobs, common)) as finished:
        for done, (index, reference) in enumerate(finished, 1):
            result: Result = ray.get(reference)
            if place is not None:
                note_kept("data", f"{done} of {len(jobs)} {unit} under {place}")
            yield index, result
            meter.add(1, **{counted: size(result)})


def merged_tasks(
    function: Callable[..., tuple[int, Result]],
    jobs: Sequence[Job],
    *,
    common: tuple[Any, ...],
    merge: Callable[[Result, Result], Result],
    what: str,
    unit: str,
    counted: str,
) -> Result:
    """Run ``function(job, *common)`` for every job, at least one, as ``run_tasks``, and merge the results.

    Results stay on the nodes where they are made, and are merged by further tasks, ``FAN_IN`` at a time: this process
    holds only the last. They may be merged in any order.

    Args:
        function: returns how many of what is ``counted`` it looked at, and its result.

    Raises:
        InputError, OSError: raised by ``function`` or ``merge``.
    """
    task = ray.remote(num_cpus=1, max_retries=3, num_returns=2)(with_drivers_console(function))
    join: Any = ray.remote(num_cpus=1, max_retries=3)(_merged)
    how, meter = ray.put(merge), Meter(what, len(jobs), unit)
    references: dict[int, list[Any]] = defaultdict(list)
    with _input_errors(), closing(_finished(task, jobs, common)) as finished:
        for _, (size, result) in finished:
            meter.add(1, **{counted: ray.get(size)})
            level = 0
            references[level].append(result)
            while len(references[level]) == FAN_IN:
                references[level + 1].append(join.remote(how, *references.pop(level)))
                level += 1
        last = [reference for level in references.values() for reference in level]
        outcome: Result = ray.get(last[0] if len(last) == 1 else join.remote(how, *last))
        return outcome


def _merged(merge: Callable[[Result, Result], Result], *results: Result) -> Result:
    return reduce(merge, results)


def _finished(task: Any, jobs: Sequence[Job], common: tuple[Any, ...]) -> Generator[tuple[int, Any], None, None]:
    """(job index, reference or references to what the task returns) of every job, as they are done."""
    shared = [ray.put(value) for value in common]
    most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    running: dict[Any, tuple[int, Any]] = {}
    waiting = iter(enumerate(jobs))
    try:
        while True:
            while len(running) < most and (job := next(waiting, None)):
                returned = task.remote(job[1], *shared)
                running[returned[0] if isinstance(returned, list) else returned] = job[0], returned
            if not running:
                return
            finished, _ = ray.wait(list(running), num_returns=1, timeout=5)
            for reference in finished:
                yield running.pop(reference)
    finally:
        for reference in running:
            ray.cancel(reference)


@contextmanager
def _input_errors() -> Iterator[None]:
    """Raises what a task raised, if that is its user's mistake or the system's trouble."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | BackboneError | OSError) else error from None
