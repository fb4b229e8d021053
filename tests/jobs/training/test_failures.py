"""What breaks on a cluster: a worker, a node, the driver, the head. The run ends as if nothing had happened.

Two workers, one on the head and one on a node of its own; each blow falls at a random moment, which is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from data_tools.storage import StorageFolder
from tests.chance import chance
from tests.jobs.breaking import Outcome, Run, checkout, expect_success, steps_done
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import QUICK_HEARTBEATS, Head
from tests.processes import wait_for

pytestmark = pytest.mark.slow

EPOCHS, STEPS_PER_EPOCH = 14, 4
FLAGS = [
    *("--compute.workers", "2", "--batch.identities", "1", "--train.epochs", str(EPOCHS)),
    *("--train.checkpoint_every_steps", "3", "--train.validate_every", "7", "--train.log_every_seconds", "0.01"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("failures"), tiny_shards)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head and a node with one CPU each."""
    head = Head(tmp_path_factory.mktemp("breakable"), 1, settings=QUICK_HEARTBEATS)
    try:
        head.add_node()
        yield head
    finally:
        head.stop()


@pytest.fixture(scope="module")
def undisturbed(cluster: Head, recipe: Path) -> Outcome:
    """The same run without faults."""
    expect_success(cluster.run("train.py", *flags(recipe, "whole")))
    return Outcome.of(StorageFolder(str(recipe.parent / "runs" / "whole")))


def flags(recipe: Path, name: str) -> Sequence[str]:
    return ["--recipe", str(recipe), "--run.name", name, *FLAGS]


def random_step() -> int:
    return chance().randint(2, (EPOCHS - 4) * STEPS_PER_EPOCH)


@pytest.mark.parametrize("kind", ["worker", "node", "driver"])
def test_a_run_goes_on_to_the_same_weights(
    kind: str, cluster: Head, undisturbed: Outcome, recipe: Path, tmp_path: Path
) -> None:
    """SIGKILL; for a node, all its processes at once, and another node joins."""
    moments, step = chance(), random_step()
    print(f"the {kind} is killed after step {step}")
    place = StorageFolder(str(recipe.parent / "runs" / kind))
    run = Run(cluster, place, flags(recipe, kind), nodes=1, log=tmp_path / "driver.log")
    try:
        run.reach(step)
        print(run.hit(kind, moments))
        assert run.finish() == undisturbed
    finally:
        run.end()


def test_a_job_submitted_again_after_the_head_was_lost(
    cluster: Head, undisturbed: Outcome, recipe: Path, tmp_path: Path
) -> None:
    """The head's node with GCS, job and worker is killed; a new head knows nothing about them."""
    step = random_step()
    print(f"the head is killed after step {step}")
    place = StorageFolder(str(recipe.parent / "runs" / "head"))
    submit = ["--working-dir", str(checkout(tmp_path / "checkout")), "--", "python", "ray_jobs/train.py"]
    submit += flags(recipe, "head")
    expect_success(cluster.jobs("submit", "--no-wait", *submit))
    wait_for(lambda: steps_done(place) >= step, f"step {step}")
    cluster.kill()
    for node in cluster.nodes:
        node.kill()
    assert not place.exists("metrics.json")
    cluster.restart()
    cluster.add_node()
    expect_success(cluster.jobs("submit", *submit))
    assert Outcome.of(place) == undisturbed
