"""Resources that killed jobs left reserved on a cluster are found, and nobody else's."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from ray_jobs.cluster.orphans import orphaned
from tests.jobs.head import Head

RELEASE = """
import ray, ray.util.state
from ray.util.placement_group import placement_group, placement_group_table
from ray_jobs.cluster.orphans import release_orphans

ray.init()
groups = [placement_group([{"CPU": 1}]), placement_group([{"CPU": 0.5}], lifetime="detached")]
ray.get([group.ready() for group in groups])
print("of a living job:", release_orphans(), ray.available_resources()["CPU"])

jobs = ray.util.state.list_jobs
ray.util.state.list_jobs = lambda **how: [job.__class__(**{**vars(job), "status": "FAILED"}) for job in jobs(**how)]
print("as of a killed one:", release_orphans(), [
    placement_group_table(group)["state"] for group in groups
])
ray.util.remove_placement_group(groups[1])
"""


def test_only_what_ended_jobs_left_is_orphaned() -> None:
    statuses = {"01": "RUNNING", "02": "FAILED", "03": "SUCCEEDED", "04": "FAILED"}
    jobs = [SimpleNamespace(job_id=job, status=status) for job, status in statuses.items()]
    actors = [
        SimpleNamespace(job_id="03", class_name="ServeController"),
        SimpleNamespace(job_id="04", class_name="ray.train.PlacementGroupCleaner"),
    ]
    kinds = {"created": ("CREATED", False), "pending": ("PENDING", False)}
    kinds |= {"removed": ("REMOVED", False), "detached": ("CREATED", True)}
    groups = [
        SimpleNamespace(placement_group_id=f"{job} {kind}", creator_job_id=job, state=state, is_detached=detached)
        for job in (*statuses, "of another cluster's time")
        for kind, (state, detached) in kinds.items()
    ]
    assert orphaned(groups, jobs, actors) == ["02 created", "02 pending", "04 created", "04 pending"]


@pytest.mark.slow
def test_groups_of_a_job_that_ended_are_removed(head: Head) -> None:
    """No test can make Ray lose a group at will, so a living job is treated as an ended one."""
    done = subprocess.run(
        [str(head.python), "-c", RELEASE], env=head.driver_environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of a living job: 0 0.5\n" in done.stdout
    assert "as of a killed one: 1 ['REMOVED', 'CREATED']\n" in done.stdout
    assert done.stdout.count("removed 1 placement group(s) left by killed jobs") == 1
