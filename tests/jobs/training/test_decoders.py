"""Clips decoded by actors on other nodes: the same bytes as in threads, whatever happens to actors and nodes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chance import chance
from tests.jobs.gpu_cluster import GpuCluster
from tests.processes import PATIENCE_SECONDS

pytestmark = pytest.mark.slow


DRIVER = "tests.jobs.decoding_driver"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuCluster]:
    head = GpuCluster(tmp_path_factory.mktemp("decoding"), (2, 1))
    yield head
    head.stop()


def findings(driver: subprocess.Popen[str], text: str = "") -> tuple[list[Any], str]:
    """The driver's findings, and all of its messages."""
    output, _ = driver.communicate(timeout=PATIENCE_SECONDS)
    assert driver.returncode == 0, (text + output)[-5000:]
    return [json.loads(line) for line in re.findall(r"^FOUND (.*)$", text + output, re.MULTILINE)], text + output


def test_an_epoch_has_the_bytes_of_threads_and_the_decoders_stand_beside_the_gpu_node(
    cluster: GpuCluster, tiny_shards: Path
) -> None:
    (gpu, two, three), _ = findings(cluster.start_driver(DRIVER, "epochs", str(tiny_shards)))
    assert len(gpu["gpu_nodes"]) == 1
    for found, number, nodes in ((two, 2, 2), (three, 3, 2)):
        assert found["steps"] > 3
        assert found["equal"]
        assert found["own_clips"] == 0
        assert len(found["nodes"]) == number
        assert len(set(found["nodes"])) == nodes
        assert not set(found["nodes"]) & set(gpu["gpu_nodes"])


def test_a_killed_decoder_a_broken_frame_and_too_few_cpus(cluster: GpuCluster, tiny_shards: Path) -> None:
    (killed, mistakes, too_many), text = findings(cluster.start_driver(DRIVER, "troubles", str(tiny_shards)))
    print(f"one of two decoders was killed at step {killed['moment']} of {killed['steps']}")
    assert killed["equal"]
    assert killed["own_clips"] == 0  # the other one took over
    assert "is lost; its clips are decoded elsewhere" in text
    assert "is running again" in text
    assert re.fullmatch(r"tracklet \S+: stored frame \d \(200 bytes\) is not a complete .*", mistakes["frame"])
    assert re.fullmatch(r"decoder on node [\d.]+: .*/nowhere.*", mistakes["shards"])
    assert too_many["equal"]
    assert too_many["own_clips_at_first"] >= 12  # nothing waits for decoders that are not up yet
    assert too_many["own_clips"] < 400 * 12


def test_nodes_of_decoders_die_until_the_worker_is_alone(cluster: GpuCluster, tiny_shards: Path) -> None:
    """The last test: it leaves no node without a GPU."""
    driver = cluster.start_driver(DRIVER, "losing_nodes", str(tiny_shards))
    assert driver.stdout is not None
    text = ""
    while "three decoders are up" not in text:
        line = driver.stdout.readline()
        assert line, text
        text += line
    order = chance().sample([0, 1], 2)
    pauses = [chance().uniform(0.2, 4) for _ in order]
    print(f"nodes {order} are killed after {pauses} s")
    for node, pause in zip(order, pauses, strict=True):
        time.sleep(pause)
        cluster.cpu_nodes[node].kill()
    (found,), _ = findings(driver, text)
    assert found["equal"]
    assert found["up"][-1] == 0
    assert found["own_clips"] > 200
