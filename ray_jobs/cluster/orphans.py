"""Releasing resources of the cluster that finished jobs still hold.

If a driver is killed while its controller reserves resources for workers, the placement group is created after Ray has
removed the job's groups, and nothing removes it: its CPUs and GPUs are lost until the cluster stops.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from data_tools.progress import message

ENDED = ("FAILED", "STOPPED", "SUCCEEDED")
MOST_LISTED = 10_000
HELPERS = frozenset(
    {"PlacementGroupCleaner", "TrainStateActor", "_AutoscalingCoordinatorActor", "AutoscalingRequester", "_StatsActor"}
)
"""Ray's actors that outlive the job that started them but reserve no resources."""
SECONDS = 20


def release_orphans() -> int:
    """Remove the placement groups that nothing can use any more, with a message; returns their number.

    Groups of running jobs, detached groups, and groups of jobs with a running actor (which may have made them) are
    kept. Without a dashboard to query, nothing is removed.
    """
    if all(group["state"] == "REMOVED" for group in placement_group_table().values()):
        return 0
    from ray.util.state import list_actors, list_jobs, list_placement_groups
    from ray.util.state.exception import RayStateApiException

    how: dict[str, Any] = {"limit": MOST_LISTED, "timeout": SECONDS, "raise_on_missing_output": False}
    try:
        orphans = orphaned(
            list_placement_groups(detail=True, **how),
            list_jobs(**how),
            list_actors(filters=[("state", "!=", "DEAD")], **how),
        )
    except (RayStateApiException, ConnectionError):
        return 0
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
    if orphans:
        message(f"removed {len(orphans)} placement group(s) left by killed jobs; their CPUs and GPUs are free again")
    return len(orphans)


def orphaned(groups: Iterable[Any], jobs: Iterable[Any], living_actors: Iterable[Any]) -> list[str]:
    """Ids of the groups whose job has ended without leaving an actor that could use them (from Ray's state API)."""
    ended = {job.job_id for job in jobs if job.status in ENDED}
    alive = {actor.job_id for actor in living_actors if actor.class_name.rpartition(".")[2] not in HELPERS}
    return [
        group.placement_group_id
        for group in groups
        if group.state != "REMOVED" and not group.is_detached and group.creator_job_id in ended - alive
    ]
