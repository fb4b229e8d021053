"""A driver whose tasks send it messages, before and after the actor that receives them is killed.

With `leave` it ends before that actor is up.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time

import ray

from data_tools.progress import Progress, message, show, state
from ray_jobs.cluster import job_console
from ray_jobs.cluster.connection import connect
from ray_jobs.cluster.job_console import NAMESPACE, Mailbox, settle
from ray_jobs.cluster.tasks import run_task

MESSAGES = 300


def tell(where: str) -> int:
    """Send many messages and records; returns this process's id."""
    state(f"telling {where}")
    for number in range(MESSAGES):
        message(f"{where} {number}")
        show(Progress("tick", number, MESSAGES, tick=True))
    show(Progress("sharding", 3, 8, "shards", seconds_left=90.0))
    return os.getpid()


class LateMailbox(Mailbox):
    """One on a busy machine."""

    def __init__(self) -> None:
        time.sleep(60)
        super().__init__()


def leave() -> None:
    """Start to listen, and end; prints which threads are left when Ray shuts down."""
    job_console.Mailbox = LateMailbox  # type: ignore[misc]
    atexit.register(lambda: print("threads:", *[thread.name for thread in threading.enumerate()], flush=True))
    connect()


def main() -> None:
    connect()
    mailbox = ray.get_actor(f"console of job {ray.get_runtime_context().get_job_id()}", namespace=NAMESPACE)
    ray.get(mailbox.post.remote([]))  # it is up, however long that takes
    assert run_task(tell, "first") != os.getpid()
    settle()
    print("heard all", flush=True)
    ray.kill(mailbox)
    print("still working:", run_task(tell, "second") != os.getpid(), flush=True)


if __name__ == "__main__":
    leave() if "leave" in sys.argv else main()
