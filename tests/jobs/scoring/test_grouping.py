"""Groups and re-ranking of a stored gallery as Ray tasks, while a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ccvid.retrieval.gallery.clusters import Clusters
from ray_jobs.scoring import gallery_groups
from ray_jobs.scoring.gallery_groups import shown_groups
from ray_jobs.scoring.slice_tasks import in_order
from tests.jobs.grouping_driver import PARTS
from tests.jobs.head import ROOT, Head
from tests.processes import PATIENCE_SECONDS, wait_for
from tests.s3_server import S3Server

TASKS = PARTS + 4 * 4 + 2 + 4 * 4
"""Reading the parts; four stages of groups; indexes; neighbours, recall, weights and averages, all of four slices."""


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True])
def test_a_killed_worker_loses_only_its_slice(head: Head, s3_process: S3Server, tmp_path: Path, remote: bool) -> None:
    """On object storage all tasks of the node, and the driver, share one copy of each part."""
    command = [str(head.python), "-m", "tests.jobs.grouping_driver", str(tmp_path)]
    command += [f"{s3_process.bucket()}/gallery"] if remote else []
    read_before = len(s3_process.reads())
    process = subprocess.Popen(command, env=head.driver_environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    waiting = tmp_path / "waiting"
    try:
        wait_for(lambda: waiting.exists() and waiting.read_text().endswith("\n"), "a task that waits")
        os.kill(int(waiting.read_text()), signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert "FOUND [True, True, True, True, True, True, True]" in output
    assert len(list(tmp_path.glob("tasks/*"))) == TASKS + 1, "another task than the killed one ran again"
    reads = [path for path in s3_process.reads()[read_before:] if path.endswith(".arrow")]
    assert (len(reads), len({*reads})) == ((PARTS, PARTS) if remote else (0, 0))


def test_results_that_come_too_early_wait() -> None:
    assert list(in_order(iter([(2, "c"), (0, "a"), (1, "b"), (3, "d")]))) == ["a", "b", "c", "d"]


def test_the_largest_groups_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_groups, "SHOWN_TRACKLETS", 6)
    monkeypatch.setattr(gallery_groups, "SHOWN_MEMBERS", 3)
    group = np.array([0, 0, 0, 0, 0, 1, 1, 1, -1, 2, 2])
    groups = shown_groups(Clusters(group, np.array([4, 5, 10])))
    assert [(shown.name, list(shown.members), shown.hidden) for shown in groups] == [
        ("group 1", [4, 0, 1], 2),
        ("group 2", [5, 6, 7], 0),
    ]
