"""Slices of rows as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import ray

from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner
from ray_jobs.cluster.tasks import run_tasks
from ray_jobs.scoring.part_tasks import PAIRS_WORTH_SHARING

Result = TypeVar("Result")


class ClusterSlices:
    """A ``SliceRunner`` whose slices are Ray tasks with one CPU; one that is lost with its worker or node runs again.

    What the work refers to is in each node's object store once, where tasks read it without a copy.
    """

    @property
    def workers(self) -> int:
        return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]

    def __call__(
        self, what: str, work: Callable[[slice], Result], slices: Sequence[slice], *, unit: str = "tracklets"
    ) -> Iterator[Result]:
        results = run_tasks(
            _rows_and_result,
            slices,
            common=(work,),
            what=what,
            unit="tasks",
            counted=unit,
            size=lambda outcome: outcome[0],
        )
        yield from (result for _, result in in_order(results))


def runner_for(rows: int) -> SliceRunner:
    """The cluster where all pairs of this many rows are worth it, else threads of this process."""
    return ClusterSlices() if rows**2 >= PAIRS_WORTH_SHARING else IN_THREADS


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Numbered results in order; those that come too early are kept meanwhile."""
    early: dict[int, Result] = {}
    following = 0
    for number, result in results:
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _rows_and_result(rows: slice, work: Callable[[slice], Result]) -> tuple[int, Result]:
    return rows.stop - rows.start, work(rows)
