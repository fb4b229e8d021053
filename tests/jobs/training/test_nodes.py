"""Runs over several nodes: raylets on this machine, on its network and in separate network namespaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.trainer import Trainer
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from tests.chance import chance
from tests.jobs.breaking import Run, expect_success, last_checkpoint, steps_of, train_workers
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import QUICK_HEARTBEATS, Head
from tests.jobs.namespaces import Network
from tests.method.training.test_world_size import distance_apart

pytestmark = pytest.mark.slow

EPOCHS = 200
WAY_TOLERANCE = 0.03
"""How far two trainings may end apart, in lengths of the way from the first weights: 0.003 was measured, after two
epochs of Adam in float32, which sums gradients in another order. With each worker's own BatchNorm it is 0.19."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("nodes"), tiny_shards)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head and a node with one CPU each, on "one network" or in "namespaces"."""
    network = Network() if request.param == "namespaces" else None
    try:
        head = Head(tmp_path_factory.mktemp("head"), 1, network=network, settings=QUICK_HEARTBEATS)
        try:
            head.add_node()
            yield head
        finally:
            head.stop()
    finally:
        if network is not None:
            network.close()


@pytest.mark.parametrize("cluster", ["one network"], indirect=True)
def test_ranks_spread_over_nodes_that_each_read_the_shards(
    cluster: Head, recipe: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    """Each raylet has one training worker, which has mapped every shard."""
    place = StorageFolder(str(recipe.parent / "runs" / "spread"))
    flags = ["--recipe", str(recipe), "--run.name", place.name, "--batch.identities", "1", "--train.epochs", "12"]
    flags += ["--compute.workers", "2", "--train.log_every_seconds", "0.01"]
    run = Run(cluster, place, flags, nodes=1, log=tmp_path / "driver.log")
    try:
        run.reach(2)
        shards = {path.name for path in tiny_shards.glob("*.arrow")}
        assert len(shards) > 1
        for node in (cluster.own, cluster.nodes[0]):
            (worker,) = train_workers(node)
            assert shards_mapped(worker, tiny_shards) == shards
        run.finish()
    finally:
        run.end()


@pytest.mark.parametrize("cluster", ["namespaces"], indirect=True)
def test_two_workers_on_two_nodes_train_as_one(cluster: Head, recipe: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """P identities on each of two nodes, or 2P in one process, with BatchNorm over all: the weights agree.

    The losses in steps.jsonl are not compared, for they are those of rank 0's share of the batch.
    """
    flags = ["--recipe", str(recipe), "--train.epochs", "2", "--train.sync_batchnorm", "true"]
    flags += ["--train.validate_every", "2"]
    values = yaml.safe_load(recipe.read_text()) | {"batch": {"identities": 2, "clips": 2}}
    start = Trainer(Recipe.model_validate(values), ShardFolder(tiny_shards), LocalRun(tmp_path)).model.state_dict()
    schedules, weights = [], []
    for workers, identities in ((1, 2), (2, 1)):
        place = StorageFolder(str(recipe.parent / "runs" / f"{workers}-of-{identities}"))
        size = ["--compute.workers", str(workers), "--batch.identities", str(identities)]
        expect_success(cluster.run("train.py", *flags, *size, "--run.name", place.name))
        schedules.append([(step["step"], step["learning_rate"]) for step in steps_of(place)])
        weights.append(load(last_checkpoint(place).read("model.safetensors")))
    assert schedules[0] == schedules[1]
    assert len(schedules[0]) > 4
    apart = distance_apart(weights[1], weights[0], start)
    print(f"apart by {apart:.4f} of the way")
    assert apart < WAY_TOLERANCE


def shards_mapped(process: int, folder: Path) -> set[str]:
    """Names of a folder's files that a process has memory-mapped."""
    mapped = {line.split()[-1] for line in Path(f"/proc/{process}/maps").read_text().splitlines()}
    return {Path(file).name for file in mapped if Path(file).parent == folder}


def test_a_run_grows_and_shrinks_with_the_cluster(recipe: Path, tmp_path: Path) -> None:
    """One node; a second joins; it is lost again. Each step is counted once, at the rate for its number of workers."""
    settings = QUICK_HEARTBEATS | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8"}
    (tmp_path / "head").mkdir()
    head = Head(tmp_path / "head", 1, settings=settings)
    place = StorageFolder(str(recipe.parent / "runs" / "elastic"))
    flags = ["--recipe", str(recipe), "--run.name", "elastic", "--compute.workers", "[1, 2]"]
    flags += ["--compute.resize_every_seconds", "1", "--batch.identities", "1", "--train.epochs", str(EPOCHS)]
    flags += ["--train.checkpoint_share", "0.2", "--train.validate_every", str(EPOCHS)]
    flags += ["--train.log_every_seconds", "0.01", "--optim.decay", "1"]
    try:
        run = Run(head, place, flags, nodes=0, log=tmp_path / "driver.log")
        try:
            run.reach(chance().randint(2, 40))
            assert len(train_workers(head)) == 1
            node = head.add_node()
            run.wait_for(lambda: rates(place)[-1:] == [1.0], "step of two workers")
            run.reach(len(steps_of(place)) + chance().randint(12, 40))  # some epochs
            assert [len(train_workers(home)) for home in (head.own, node)] == [1, 1]
            node.kill()
            run.wait_for(lambda: rates(place)[-1:] == [0.5], "step of one worker again")
            run.finish()
        finally:
            run.end()
    finally:
        head.stop()
    steps, factors = steps_of(place), rates(place)
    assert [step["step"] for step in steps] == list(range(len(steps)))
    changes = [factor for factor, before in zip(factors, [0.0, *factors], strict=False) if factor != before]
    assert changes == [0.5, 1.0, 0.5]
    progress = json.loads(last_checkpoint(place).read("progress.json"))
    assert (progress["epoch"], progress["step"], progress["updates"]) == (EPOCHS, 0, len(steps))
    alone, together = factors.count(0.5), factors.count(1.0)
    print(f"{alone} steps of one worker, {together} of two")
    assert abs(alone / 8 + together / 4 - EPOCHS) < 1  # of 8 and 4 steps in an epoch; a part of a step at each change


def rates(place: StorageFolder) -> list[float]:
    """Each step's learning rate as a share of the recipe's."""
    return [round(step["learning_rate"] / 3.5e-4, 6) for step in steps_of(place)]
