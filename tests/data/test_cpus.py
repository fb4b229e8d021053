"""CPUs that a process may use, by affinity and by cgroups, and the threads of its libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools import cpus


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """64 CPUs and no cgroup; returns the root under which tests create some."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cpus, "CGROUP_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def make_cgroup(machine: Path, own: str, files: dict[str, str]) -> None:
    (machine / "own").write_text(own)
    for name, text in files.items():
        path = machine / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_affinity_counts(count: int, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.exists()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
    assert cpus.available_cpus() == count


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 64),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("250000 100000", 2),
        ("800000 100000", 8),
        ("99999999 100000", 64),
        ("rubbish", 64),
        ("", 64),
        ("100000 0", 64),
    ],
)
def test_a_cgroup_of_version_2(quota: str, expected: int, machine: Path) -> None:
    make_cgroup(machine, "0::/job\n", {"job/cpu.max": f"{quota}\n"})
    assert cpus.available_cpus() == expected


def test_the_tightest_of_nested_cgroups_holds(machine: Path) -> None:
    files = {"pod/cpu.max": "200000 100000", "pod/job/cpu.max": "max 100000", "other/cpu.max": "100000 100000"}
    make_cgroup(machine, "0::/pod/job\n", files)
    assert cpus.available_cpus() == 2


def test_a_container_sees_its_own_root(machine: Path) -> None:
    make_cgroup(machine, "0::/\n", {"cpu.max": "300000 100000"})
    assert cpus.available_cpus() == 3


@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("50000", 1), ("400000", 4)])
def test_a_cgroup_of_version_1(quota: str, expected: int, machine: Path) -> None:
    files = {"cpu/job/cpu.cfs_quota_us": f"{quota}\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    make_cgroup(machine, "5:memory:/elsewhere\n3:cpuacct,cpu:/job\n0::/\n", files)
    assert cpus.available_cpus() == expected


def test_without_cgroups(machine: Path) -> None:
    assert not (machine / "own").exists()
    assert cpus.available_cpus() == 64


PROGRAM = """
import numpy, torch, pyarrow
from threadpoolctl import threadpool_info
from data_tools.cpus import available_cpus, limit_threads
asked = {asked}
threads = limit_threads(asked)
assert threads == min(asked, available_cpus()), threads
numpy.ones((4, 4)) @ numpy.ones((4, 4))
pools = [pool["num_threads"] for pool in threadpool_info()]
assert pools and max(pools) <= threads, threadpool_info()
assert torch.get_num_threads() == threads and pyarrow.cpu_count() == threads
print("threads", threads)
"""


@pytest.mark.parametrize("asked", [1, 2, 64])
def test_no_library_has_more_threads(asked: int) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(asked=asked)],
        env=environment | {"OMP_NUM_THREADS": "32"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("threads ")
