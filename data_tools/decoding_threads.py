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
"""A batch yet to be filled, and what fills its b-th place."""


def fill_in_threads(jobs: Iterator[Job[BatchT]], *, threads: int, ahead: int) -> Generator[BatchT]:
    """Give the batches in order and filled, ``threads`` working on the next one and up to ``ahead`` more.

    What a thread raises is raised here. The threads end with the generator, also when it is closed early.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clips", initializer=_one_core_a_thread)
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


def _one_core_a_thread() -> None:
    """Keep torch, in this thread alone, from starting an OpenMP team: many teams fight over the cores."""
    torch.get_num_threads()  # gives the thread torch's default once, so the limit must come after
    _openmp().limit(limits=1, user_api="openmp")


@cache
def _openmp() -> ThreadpoolController:
    """Found once: it looks through every library that is loaded."""
    return ThreadpoolController()
