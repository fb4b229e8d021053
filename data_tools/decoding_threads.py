"""Threads that fill batches ahead of their consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

BatchT = TypeVar("BatchT", bound=Sized)
Job = tuple[BatchT, Callable[[int], None]]
"""A batch to fill, and a function that fills its b-th place."""


def fill_in_threads(jobs: Iterator[Job[BatchT]], *, threads: int, ahead: int) -> Generator[BatchT]:
    """Yield the filled batches in order; ``threads`` threads work on the next one and up to ``ahead`` more.

    An exception in a thread is raised here. The threads end with the generator, even if it is closed early.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clips", initializer=one_core_a_thread)
    pending: deque[tuple[BatchT, list[Future[None]]]] = deque()
    try:
        while True:
            for batch, fill in islice(jobs, ahead + 1 - len(pending)):
                shares = [range(first, len(batch), threads) for first in range(threads)]
                pending.append((batch, [pool.submit(_fill_share, fill, share) for share in shares]))
            if not pending:
                return
            batch, futures = pending.popleft()
            for future in futures:
                future.result()
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _fill_share(fill: Callable[[int], None], share: range) -> None:
    for place in share:
        fill(place)


def one_core_a_thread() -> None:
    """Keep torch from starting an OpenMP team in this thread: many teams would compete for the cores."""
    torch.get_num_threads()  # sets torch's default for the thread once, so the limit must come after
    _openmp().limit(limits=1, user_api="openmp")


@cache
def _openmp() -> ThreadpoolController:
    """Cached, because it scans every loaded library."""
    return ThreadpoolController()
