"""Work on the parts of a stored gallery: as Ray tasks, each with a share of the parts, or in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, Protocol, TypeVar

import ray

from ccvid.retrieval.embedding.part_file import Part
from ccvid.retrieval.embedding.part_folder import PartFolder
from data_tools.errors import InputError
from ray_jobs.cluster.tasks import merged_tasks

Group = TypeVar("Group")
Result = TypeVar("Result")

PAIRS_WORTH_SHARING = 10**9
"""Pairs of queries and gallery entries; with fewer, one machine needs only seconds."""
TASKS_PER_CPU = 2
"""Few, because what each has found is merged; more than one, so that no CPU waits long for the last."""


class PartRunner(Protocol):
    """Runs ``work(groups, *common)`` for all groups of parts in one call, or for shares of them in several.

    ``work`` returns how many tracklets it looked at, and a result. Results are merged in any order.
    """

    def __call__(
        self,
        work: Callable[..., tuple[int, Result]],
        groups: Sequence[Any],
        common: tuple[Any, ...],
        merge: Callable[[Result, Result], Result],
        what: str,
    ) -> Result: ...


def here(
    work: Callable[..., tuple[int, Result]],
    groups: Sequence[Any],
    common: tuple[Any, ...],
    merge: Callable[[Result, Result], Result],
    what: str,
) -> Result:
    """A ``PartRunner`` in this process."""
    del merge, what
    return work(groups, *common)[1]


def on_cluster(
    work: Callable[..., tuple[int, Result]],
    groups: Sequence[Any],
    common: tuple[Any, ...],
    merge: Callable[[Result, Result], Result],
    what: str,
) -> Result:
    """A ``PartRunner`` whose calls are Ray tasks; one that is lost with its worker or node runs again."""
    return merged_tasks(
        work, shares(groups) or [groups], common=common, merge=merge, what=what, unit="tasks", counted="tracklets"
    )


def shares(groups: Sequence[Group]) -> list[Sequence[Group]]:
    """The groups in a few shares for each of the cluster's CPUs."""
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    share = max(1, ceil(len(groups) / (TASKS_PER_CPU * cpus)))
    return [groups[start : start + share] for start in range(0, len(groups), share)]


@contextmanager
def opened_parts(parts: PartFolder, names: Sequence[str], doing: str) -> Iterator[list[Part]]:
    """Parts for reading within the block, whose input errors say what was being done to which parts.

    Raises:
        InputError: a part is damaged.
        PartsChangedError: a part is gone because another command replaced it.
    """
    try:
        with parts.opened(names) as opened:
            yield opened
    except InputError as error:
        raise InputError(f"{doing} {', '.join(names)}: {error}") from None
