"""What is alive on a Ray cluster, as one JSON line per second: run by tests while a search is running.

Prints ``{"time": seconds since the epoch, "groups": placement groups not removed, "actors": [class names]}``.
"""

from __future__ import annotations

import json
import logging
import time

import ray
from ray.util.state import list_actors


def main() -> None:
    ray.init(logging_level=logging.ERROR)
    while True:
        groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
        actors = list_actors(filters=[("state", "!=", "DEAD")], limit=1000)
        names = sorted(actor.class_name.rpartition(".")[2] for actor in actors)
        print(json.dumps({"time": time.time(), "groups": len(groups), "actors": names}), flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
