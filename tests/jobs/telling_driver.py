"""A driver whose tasks send it messages, before and after the actor that receives them is killed."""

from __future__ import annotations

import os

import ray

from data_tools.progress import Progress, message, show, state
from ray_jobs.cluster.connection import connect
from ray_jobs.cluster.job_console import NAMESPACE, settle
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
    main()
