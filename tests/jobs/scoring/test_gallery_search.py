"""A gallery searched and scored by a Ray cluster of several nodes, one of which is killed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.head import QUICK_HEARTBEATS, ROOT, Head
from tests.processes import PATIENCE_SECONDS, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Head]:
    """A head and a node."""
    head = Head(tmp_path / "head", 1, dashboard=False, settings=QUICK_HEARTBEATS)
    try:
        head.add_node()
        yield head
    finally:
        head.stop()


@pytest.mark.parametrize(("driver", "tasks"), [("searching_driver", 24), ("scoring_driver", 48)])
def test_a_killed_node_loses_only_its_tasks(cluster: Head, tmp_path: Path, driver: str, tasks: int) -> None:
    node = cluster.nodes[0]
    command = [str(cluster.python), "-m", f"tests.jobs.{driver}", str(tmp_path)]
    process = subprocess.Popen(command, env=cluster.driver_environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def tasks_of_the_node() -> bool:
        begun = {int(path.name.partition("-")[0]) for path in tmp_path.glob("tasks/*")}
        return not begun.isdisjoint(node.processes()) or process.poll() is not None

    try:
        wait_for(tasks_of_the_node, "a task on the node")
        node.kill()
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    (found,) = re.findall(r"FOUND \[(.*)\]", output)
    assert set(found.split(", ")) == {"True"}
    assert len(list(tmp_path.glob("tasks/*"))) > tasks, "no task ran again"
