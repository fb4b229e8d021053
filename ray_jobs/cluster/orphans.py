"""Room on the cluster that ended jobs still hold.

When a driver is killed while its controller reserves room for workers, the placement group is made after Ray has
cleared away the job's groups, and nothing removes it: its CPUs and GPUs are lost until the cluster ends.
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
"""Ray's own actors that outlive the job that started them and reserve nothing themselves."""
SECONDS = 20


def release_orphans() -> int:
    """Remove the placement groups that nothing can use any more, and say so; returns their number.

    Groups of living jobs, detached ones, and those of jobs that left a living actor (which may have made them) stay.
    Where the cluster has no dashboard to ask, nothing is removed.
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
        message(f"removed {len(orphans)} placement group(s) that killed jobs left: their CPUs and GPUs are free again")
    return len(orphans)


def orphaned(groups: Iterable[Any], jobs: Iterable[Any], living_actors: Iterable[Any]) -> list[str]:
    """Ids of the groups whose job has ended and left nothing alive that could use them; of Ray's state API."""
    ended = {job.job_id for job in jobs if job.status in ENDED}
    alive = {actor.job_id for actor in living_actors if actor.class_name.rpartition(".")[2] not in HELPERS}
    return [
        group.placement_group_id
        for group in groups
        if group.state != "REMOVED" and not group.is_detached and group.creator_job_id in ended - alive
    ]
