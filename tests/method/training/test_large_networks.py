"""What lets a large network fit, in CAL on a transformer: each resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.trainer import Trainer
from data_tools.shards import ShardFolder
from tests.method.training.test_training import DyingRun, Killed, tiny_recipe, weights

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "checkpoint_blocks": {"model": {"checkpoint_blocks": True}},
    "batch_parts": {"train": {"batch_parts": 3}},
    "drop_path": {"model": {"drop_path": 0.4}},
    "layer_decay": {"optim": {"layer_decay": 0.7, "decay_all": False}},
    "fused": {"optim": {"name": "adamw", "fused": True}},
    "fused momentum": {"optim": {"name": "sgd", "fused": True}},
}


def vit_recipe(shards: Path, settings: dict[str, dict[str, Any]]) -> Recipe:
    """CAL on a small EVA-02, with a checkpoint after each step."""
    values = tiny_recipe(shards, checkpoint_every_steps=1, epochs=2).model_dump()
    values["model"] |= {"backbone": "csci_plain/eva_slim"}
    for name, section in settings.items():
        values[name] |= section
    return Recipe.model_validate(values)


def killed_and_resumed(recipe: Recipe, store: ShardFolder, folder: Path, reports: int) -> Trainer:
    with pytest.raises(Killed):
        Trainer(recipe, store, DyingRun(folder, reports, committed=True)).fit()
    resumed = Trainer(recipe, store, LocalRun(folder))
    resumed.fit()
    return resumed


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(name: str, tiny_shards: Path, tmp_path: Path) -> None:
    """Killed within the second epoch, in which CAL's clothes losses apply."""
    recipe, store = vit_recipe(tiny_shards, SETTINGS[name]), ShardFolder(tiny_shards)
    undisturbed = Trainer(recipe, store, LocalRun(tmp_path / "whole"))
    undisturbed.fit()
    reports = undisturbed.sampler.steps_per_epoch + 1
    resumed = killed_and_resumed(recipe, store, tmp_path / "killed", reports)
    expected, found = weights(undisturbed), weights(resumed)
    assert all(torch.equal(expected[each], found[each]) for each in expected)
    assert (tmp_path / "killed" / "steps.jsonl").read_text() == (tmp_path / "whole" / "steps.jsonl").read_text()


@pytest.mark.slow
def test_a_compiled_run_does_so_too(tiny_shards: Path, tmp_path: Path) -> None:
    """Block by block, recomputed in the backward pass."""
    settings = {"train": {"compile": True}, "model": {"checkpoint_blocks": True}}
    recipe, store = vit_recipe(tiny_shards, settings), ShardFolder(tiny_shards)
    undisturbed = Trainer(recipe, store, LocalRun(tmp_path / "whole"))
    undisturbed.fit()
    resumed = killed_and_resumed(recipe, store, tmp_path / "killed", 1)
    expected, found = weights(undisturbed), weights(resumed)
    assert all(torch.equal(expected[each], found[each]) for each in expected)
