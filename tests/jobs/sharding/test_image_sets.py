"""Each image data set in small, from the released format to its scores, with its own published recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ccvid.training.context import LocalRun
from ccvid.training.run import train_and_score
from data_tools.shards import ShardFolder
from ray_jobs.cli import parse_recipe
from ray_jobs.sharding.sources import read_dataset
from tests.data.image_formats import MAKERS
from tests.made_shards import make_shards

SMALL = {
    "batch.identities": 3,
    "batch.clips": 2,
    "model.backbone": "c2d_resnet18_slim",
    "model.weights": "random",
    "model.height": 48,
    "model.width": 24,
    "method.start_epoch": 1,
    "train.epochs": 2,
    "train.log_every_seconds": 0.001,
    "compute.workers": 1,
}
USUAL = {"general", "same_clothes", "clothes_changing"}
SCORED = {
    "ltcc": USUAL,
    "prcc": USUAL,
    "vc_clothes": USUAL | {"same_clothes_cameras_2_3", "clothes_changing_cameras_3_4"},
    "deepchange": USUAL,
    "last": {"general"},
}


@pytest.mark.parametrize("kind", sorted(SCORED))
def test_an_image_set_trains_and_is_scored(kind: str, tmp_path: Path) -> None:
    root = MAKERS[kind](tmp_path / kind)
    values = {"recipe": f"{kind}_paper", "data.root": root, "data.shards": tmp_path / "shards", **SMALL}
    flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    recipe, _ = parse_recipe(flags, program="train.py", description="")
    make_shards(read_dataset(recipe.data), tmp_path / "shards", recipe.data.frames)

    metrics = train_and_score(recipe, LocalRun(tmp_path / "run"), ShardFolder(tmp_path / "shards"))

    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert len(steps) >= 2
    assert all(math.isfinite(step["identity_loss"]) for step in steps)
    assert "adversarial_loss" in steps[-1]
    protocols = metrics["protocols"]
    assert isinstance(protocols, dict)
    assert SCORED[kind] <= set(protocols)
    assert all(0 <= protocols[name]["map"] <= 1 for name in SCORED[kind])
    check = {"prcc": _check_prcc, "vc_clothes": _check_vc_clothes}.get(kind)
    if check is not None:
        check(protocols)


def _check_prcc(protocols: dict[str, dict[str, int]]) -> None:
    """Two query sets of four pictures: each has its own protocol, and both the general one."""
    counts = {name: (found["queries"], found["queries_without_match"]) for name, found in protocols.items()}
    assert counts == {"general": (8, 0), "same_clothes": (8, 4), "clothes_changing": (8, 4)}


def _check_vc_clothes(protocols: dict[str, dict[str, int]]) -> None:
    """Two persons seen by two of the four cameras."""
    for name in ("same_clothes_cameras_2_3", "clothes_changing_cameras_3_4"):
        assert protocols[name]["queries"] == 4
