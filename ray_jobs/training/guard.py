"""One actor per active run: it prevents a second run of the same name and forwards requests to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_tools.errors import InputError
from data_tools.progress import state
from ray_jobs.cluster.job_console import NAMESPACE

CLAIM_SECONDS = 15
"""How long a claim waits for the guard of a run that was just killed to disappear."""

Result = TypeVar("Result")


class RunGuard:
    """Lives as long as the driver that made it."""

    def __init__(self, owner: str) -> None:
        self._owner, self._end = owner, asyncio.Event()

    async def owner(self) -> str:
        """A description of the job that owns the run."""
        return self._owner

    async def request_end(self) -> None:
        """Ask the run to save a last checkpoint and stop."""
        self._end.set()

    async def wait_for_end(self) -> None:
        """Return once the run is asked to stop."""
        await self._end.wait()


def claim(place: str) -> Any:
    """The guard of the run at ``place``; dropping it, or ending the driver, releases the run.

    Raises:
        InputError: another driver on this cluster owns the run.
    """
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            return _make_guard(place)
        except ValueError:
            owner = _owner_of(place)
        if owner is not None or time.monotonic() > deadline:
            raise InputError(
                f"{place}: a run of this name is active: {owner or 'its owner does not answer'}; wait until it ends, "
                "stop it (ray job stop ID), or choose another --run.name"
            )
        time.sleep(0.5)


def stop_check(guard: Any) -> Callable[[], bool]:
    """In a worker: a cheap function that says whether the run was asked to stop; always False if ``guard`` is None."""
    asked = threading.Event()

    def wait() -> None:
        with suppress(RayActorError):  # the driver is gone, and this worker will be soon
            ray.get(guard.wait_for_end.remote())
            asked.set()

    if guard is not None:
        threading.Thread(target=wait, daemon=True, name="stop-request").start()
    return asked.is_set


def run_stoppable(action: Callable[[], Result], request_end: Callable[[], object], after: str) -> Result:
    """Run ``action`` in a thread; the first SIGINT or SIGTERM asks it to stop, a second exits at once.

    Args:
        request_end: asks; returns at once.
        after: what it still does before it stops, for a message.

    Raises:
        KeyboardInterrupt: at the second signal; otherwise whatever ``action`` raises.
    """
    outcome: list[Result | BaseException] = []
    signals = 0

    def work() -> None:
        try:
            outcome.append(action())
        except BaseException as error:  # re-raised in the main thread
            outcome.append(error)

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal signals
        signals += 1

    thread = threading.Thread(target=work, daemon=True, name="run")
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    asked = False
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
            if signals > 1:
                raise KeyboardInterrupt
            if signals and not asked:
                asked = True
                state(f"stopping after {after}; a second signal exits at once", lasting=True)
                request_end()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _make_guard(place: str) -> Any:
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    job = submitted.get("job_submission_id") or ray.get_runtime_context().get_job_id()
    owner = f"job {job} on {socket.gethostname()}, process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"
    make: Any = ray.remote(RunGuard).options(
        name=f"run {place}",
        namespace=NAMESPACE,
        num_cpus=0,
        max_concurrency=10_000,
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
    )
    return make.remote(owner)


def _owner_of(place: str) -> str | None:
    try:
        guard: Any = ray.get_actor(f"run {place}", namespace=NAMESPACE)
        return str(ray.get(guard.owner.remote(), timeout=5))
    except (ValueError, RayActorError, GetTimeoutError):
        return None
