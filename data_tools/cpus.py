"""Which CPUs a process runs on, how many it may use, and limiting its libraries' threads to them."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROCESSOR_FACTS = Path("/proc/cpuinfo")
CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """CPUs that this process may keep busy: its affinity, or less if a cgroup's quota is smaller; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(int(quota) for quota in _quotas())]))


def processor() -> str:
    """The processor's name and widest instructions, and the threads that torch uses."""
    import torch

    found = re.search(r"model name\s*: (.*)", PROCESSOR_FACTS.read_text()) if PROCESSOR_FACTS.exists() else None
    name = found[1] if found else platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def limit_threads(cpus: int) -> int:
    """Limit torch, OpenMP, BLAS, Arrow and OpenCV to ``cpus`` threads, and to the CPUs available; returns the limit.

    The limit is permanent for this process, and covers only libraries that are already loaded.
    """
    import pyarrow as pa  # callers of available_cpus need none of these libraries
    import torch
    from threadpoolctl import ThreadpoolController

    threads = max(1, min(cpus, available_cpus()))
    torch.set_num_threads(threads)
    ThreadpoolController().limit(limits=threads)
    pa.set_cpu_count(threads)
    if (cv2 := sys.modules.get("cv2")) is not None:
        cv2.setNumThreads(threads)
    return threads


def _quotas() -> Iterator[float]:
    """CPU quotas of the cgroups that contain this process, versions 1 and 2."""
    try:
        memberships = [line.split(":", 2) for line in OWN_CGROUPS.read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, place in memberships:
        if not controllers:
            root = CGROUP_ROOT
        elif "cpu" in controllers.split(","):
            root = CGROUP_ROOT / "cpu"
        else:
            continue
        own = root / place.lstrip("/")
        for folder in [own, *own.parents]:
            if folder.is_relative_to(root) and (quota := _quota(folder)) is not None:
                yield quota


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
