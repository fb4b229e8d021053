"""Optimizers: groups of parameters by name and depth, and what a checkpoint restores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ccvid.model import CosineClassifier
from ccvid.optim_options import OptimOptions
from ccvid.training.context import LocalRun
from ccvid.training.optimizers import build_optimizer, layers_above
from ccvid.training.trainer import Trainer
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from tests.method.training.test_training import tiny_recipe

RATE = 1e-3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temporal_prompt_embeddings = nn.Parameter(torch.zeros(1, 2, 4))
        self.norm1 = nn.LayerNorm(4)
        self.attn = nn.Linear(4, 4)


class Transformer(nn.Module):
    """Named and ordered as timm's."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.extra_token1 = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.norm = nn.LayerNorm(4)


class Model(nn.Module):
    """A network within a backbone, whose neck is registered before it, and a classifier."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bn = nn.BatchNorm1d(4)
        self.backbone.network = network or Transformer()
        self.classifier = nn.Linear(4, 5)


def optimizer_of(module: nn.Module | None = None, /, **settings: object) -> tuple[Optimizer, dict[str, dict[str, Any]]]:
    """The optimizer, and each parameter's group by name."""
    module = module or Model()
    optimizer = build_optimizer(OptimOptions.model_validate(settings), RATE, module)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    return optimizer, {name: groups[id(parameter)] for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "adam"}, lambda parameters: Adam(parameters, RATE, weight_decay=5e-4)),
        ({"name": "adamw", "weight_decay": 0.05}, lambda parameters: AdamW(parameters, RATE, weight_decay=0.05)),
        ({"name": "sgd"}, lambda parameters: SGD(parameters, RATE, momentum=0.9, weight_decay=5e-4)),
    ],
)
def test_without_settings_there_is_the_one_group_of_older_checkpoints(settings: dict[str, Any], expected: Any) -> None:
    """All parameters in the module's order, so that the state of older runs belongs to the same ones."""
    module = Model()
    optimizer, _ = optimizer_of(module, **settings)
    (group,), (other,) = optimizer.param_groups, expected(module.parameters()).param_groups
    assert all(one is two for one, two in zip(group.pop("params"), other.pop("params"), strict=True))
    assert group.pop("peak_lr") == RATE
    assert group == other


def test_biases_have_a_rate_of_their_own() -> None:
    optimizer, group_of = optimizer_of(name="sgd", bias_rate=2)
    assert len(optimizer.param_groups) == 2
    for name, group in group_of.items():
        assert group["lr"] == group["peak_lr"] == (2 if name.endswith("bias") else 1) * RATE, name


def test_layers_learn_the_less_the_earlier_they_come() -> None:
    _, group_of = optimizer_of(layer_decay=0.5, bias_rate=2)
    for name, layers in {
        "backbone.network.cls_token": 4,
        "backbone.network.pos_embed": 4,
        "backbone.network.extra_token1": 4,
        "backbone.network.patch_embed.weight": 4,
        "backbone.network.blocks.0.attn.weight": 3,
        "backbone.network.blocks.0.temporal_prompt_embeddings": 3,
        "backbone.network.blocks.1.norm1.weight": 2,
        "backbone.network.blocks.2.attn.weight": 1,
        "backbone.network.norm.weight": 0,
        "backbone.bn.weight": 0,
        "classifier.weight": 0,
    }.items():
        assert group_of[name]["peak_lr"] == RATE * 0.5**layers, name
    assert group_of["backbone.network.blocks.1.attn.bias"]["peak_lr"] == 2 * RATE * 0.5**2


def test_groups_hold_every_parameter_once() -> None:
    module = Model()
    optimizer, _ = optimizer_of(module, layer_decay=0.7, bias_rate=2, decay_all=False)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, module.parameters()))
    assert len({(group["lr"], group["weight_decay"]) for group in optimizer.param_groups}) == len(
        optimizer.param_groups
    )


def test_layers_of_networks_of_timm() -> None:
    """Blocks in a Sequential, norm and head after them."""
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)
    above = layers_above(network)
    assert (above["cls_token"], above["pos_embed"], above["patch_embed.proj.weight"]) == (3, 3, 3)
    assert (above["blocks.0.mlp.fc1.weight"], above["blocks.1.attn.qkv.bias"]) == (2, 1)
    assert (above["norm.weight"], above["head.weight"]) == (0, 0)


def test_a_classifier_alone_is_all_head() -> None:
    _, group_of = optimizer_of(CosineClassifier(4, 3), layer_decay=0.5)
    assert group_of["weight"]["peak_lr"] == RATE


@pytest.mark.parametrize(
    ("network", "found"), [(nn.Sequential(nn.Linear(4, 4)), "none"), (nn.Sequential(Transformer(), Transformer()), "2")]
)
def test_layer_decay_of_a_network_without_one_list_of_blocks_is_refused(network: nn.Module, found: str) -> None:
    with pytest.raises(InputError, match=rf"optim\.layer_decay needs a network with one list of blocks.* has {found}$"):
        optimizer_of(Model(network), layer_decay=0.5)


def test_only_weights_decay() -> None:
    _, group_of = optimizer_of(decay_all=False, weight_decay=0.05)
    decayed = {name for name, group in group_of.items() if group["weight_decay"]}
    blocks = {f"backbone.network.blocks.{block}.attn.weight" for block in range(3)}
    assert decayed == {"backbone.network.patch_embed.weight", "classifier.weight", *blocks}
    assert {group["weight_decay"] for group in group_of.values()} == {0, 0.05}


def train(optimizer: Optimizer, module: nn.Module, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_fused_updates_are_the_same_but_for_rounding(name: str) -> None:
    one, two = Model(), Model()
    two.load_state_dict(one.state_dict())
    for module, fused in ((one, False), (two, True)):
        optimizer, _ = optimizer_of(module, name=name, fused=fused, bias_rate=2)
        assert [group["fused"] for group in optimizer.param_groups] == [fused or None] * 2
        train(optimizer, module, 3)
    for found, expected in zip(two.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


GROUPED: list[Mapping[str, object]] = [
    {},
    {"name": "sgd", "bias_rate": 2, "decay_all": False},
    {"name": "adamw", "fused": True, "bias_rate": 2},
    {"schedule": "epoch_cosine", "warmup_epochs": 3, "warmup_rate": 1e-5, "final_rate": 1e-4, "bias_rate": 2},
]


@pytest.mark.parametrize("optim", GROUPED)
def test_a_run_with_groups_resumes_to_the_bit(optim: Mapping[str, object], tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_shards, epochs=2)
    recipe = recipe.model_validate({**recipe.model_dump(), "optim": {"learning_rate": 2e-3, **optim}})
    store = ShardFolder(tiny_shards)
    whole = Trainer(recipe, store, LocalRun(tmp_path / "whole"))
    whole.fit()

    class Stopped(LocalRun):
        def stop_requested(self) -> bool:
            return trainer.progress.updates == 3

    trainer = Trainer(recipe, store, Stopped(tmp_path / "parts"))
    with pytest.raises(Exception, match="stopped on request"):
        trainer.fit()
    resumed = Trainer(recipe, store, LocalRun(tmp_path / "parts"))
    resumed.fit()
    assert resumed.progress.updates == whole.progress.updates > 3
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())
    steps = (tmp_path / "whole" / "steps.jsonl").read_text()
    assert (tmp_path / "parts" / "steps.jsonl").read_text() == steps


def test_the_trainer_sets_every_groups_rate(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_shards, epochs=60)
    optim = {"schedule": "epoch_cosine", "learning_rate": 2e-5, "clothes_learning_rate": 3e-5, "bias_rate": 2}
    optim |= {"warmup_epochs": 20, "warmup_rate": 7.8125e-7, "final_rate": 2e-6}
    recipe = recipe.model_validate({**recipe.model_dump(), "optim": optim})
    trainer = Trainer(recipe, ShardFolder(tiny_shards), LocalRun(tmp_path))
    assert trainer._set_learning_rate(19.5) == pytest.approx(2e-6 + 1.8e-5 * 0.75, rel=1e-12)
    rates = [group["lr"] for group in trainer.parts.optimizers["model"].param_groups]
    assert rates == pytest.approx([2e-6 + 1.8e-5 * 0.75, 2e-6 + 3.8e-5 * 0.75], rel=1e-12)
    (group,) = trainer.parts.optimizers["clothes"].param_groups
    assert group["lr"] == pytest.approx(2e-6 + 2.8e-5 * 0.75, rel=1e-12)
