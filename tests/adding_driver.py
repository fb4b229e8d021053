"""What ``HOW_TO_ADD.md`` adds to a copy of the code, used to the end: run there, with the flags that the page gives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import ccvid
from ccvid.config import Recipe
from ccvid.retrieval.report.report import write_report
from ccvid.run_files import STEPS_FILE
from ccvid.trained_model import configured_backbone
from ccvid.training.cal import build_cal
from ccvid.training.context import LocalRun
from ccvid.training.split import split_for
from ccvid.training.trainer import Trainer
from data_tools.shards import ShardFolder, verify_shard
from ray_jobs.cli import parse_recipe
from ray_jobs.sharding.sources import read_dataset, shard_folder
from tests.made_shards import make_shards
from tests.method.report_walkers import small

SMALL_FRAMES = ("--model.height", "32", "--model.width", "16")


def add_data_set(flags: Sequence[str], work: Path) -> None:
    """Shards of the data set, each crop of which decodes."""
    recipe = _recipe(flags)
    dataset = read_dataset(recipe.data)
    folder = shard_folder(recipe.data)
    manifest = make_shards(dataset, str(folder), recipe.data.frames)
    frames = sum(verify_shard(folder, shard, manifest.image_size, frames=True) for shard in manifest.shards)
    assert frames == len(dataset.tracklets) == len(ShardFolder(work / "SHARDS").rows)
    print(manifest.dataset, *manifest.split_tracklets.values(), len(manifest.persons), len(manifest.clothes))


def add_backbone(flags: Sequence[str], work: Path) -> None:  # noqa: ARG001
    """A forward and a backward pass of the backbone that the recipe names."""
    recipe = _recipe([*flags, *SMALL_FRAMES])
    backbone = configured_backbone(recipe.model, recipe.clip)
    feature_BD = backbone(torch.rand(2, 3, 3, 32, 16))
    feature_BD.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    print(recipe.model.backbone, *feature_BD.shape, backbone.feature_size)


def add_loss(flags: Sequence[str], work: Path) -> None:
    """One update with the loss that the recipe names; two classes whose cosines are known give its value."""
    small_network = ("--model.backbone", "c2d_resnet18_slim", "--model.weights", "random", *SMALL_FRAMES)
    shards = ("--data.shards", str(work / "SHARDS"), "--train.held_out_share", "0", "--train.test_weights", "last")
    recipe = _recipe([*flags, *shards, *small_network])
    split, run = split_for(recipe, ShardFolder(work / "SHARDS")), LocalRun(work / "run")
    parts, update = build_cal(recipe, split, run)
    weights = [parameter.detach().clone() for parameter in parts.model.parameters()]
    persons = torch.tensor([0, 0, 1, 1])
    result = update(torch.rand(4, 2, 3, 32, 16), persons, persons, train_clothes=False, adversarial=False)
    assert result.losses["identity"].isfinite()
    assert any(not torch.equal(*pair) for pair in zip(weights, parts.model.parameters(), strict=True))
    value = update.identity(torch.tensor([[0.5, 0.4]]), torch.tensor([0]))
    print(recipe.method.identity_loss, f"{value.item():.4f}")


def add_method(flags: Sequence[str], work: Path) -> None:
    """An epoch of the method that the recipe names."""
    small_network = ("--model.backbone", "c2d_resnet18_slim", "--model.weights", "random", *SMALL_FRAMES)
    shards = ("--data.shards", str(work / "SHARDS"), "--train.held_out_share", "0", "--train.test_weights", "last")
    recipe = _recipe([*flags, *shards, *small_network, "--batch.identities", "3", "--train.epochs", "1"])
    Trainer(recipe, ShardFolder(work / "SHARDS"), LocalRun(work / "run")).fit()
    last = json.loads((work / "run" / STEPS_FILE).read_text().splitlines()[-1])
    print(recipe.method.title, *sorted(name for name in last if name.endswith("_loss")))


def add_chart(flags: Sequence[str], work: Path) -> None:  # noqa: ARG001
    """A report."""
    write_report(small(), work / "report")


def _recipe(flags: Sequence[str]) -> Recipe:
    return parse_recipe(flags, program="train.py", description="")[0]


ADDED: dict[str, Callable[[Sequence[str], Path], None]] = {
    "A data set": add_data_set,
    "A backbone": add_backbone,
    "A loss": add_loss,
    "A method": add_method,
    "A chart": add_chart,
}

if __name__ == "__main__":
    section, folder, *given = sys.argv[1:]
    assert Path(ccvid.__file__).parents[1] == Path.cwd(), "the copy is what is tried"
    ADDED[section](given, Path(folder))
