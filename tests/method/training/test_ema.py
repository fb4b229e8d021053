"""The moving average of the weights: its arithmetic, its checkpoints, and scoring with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ccvid.config import ModelOptions
from ccvid.model import IdentityClassifier, ReIdModel
from ccvid.trained_model import backbone_fingerprint, read_trained_model
from ccvid.training.build import moving_average
from ccvid.training.checkpoint import load_checkpoint
from ccvid.training.context import LocalRun
from ccvid.training.run import train_and_score
from ccvid.training.trainer import Trainer
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from tests.method.training.test_training import tiny_recipe
from video_backbones.factory import build_backbone


def test_average_equals_a_naive_loop_over_weights_and_running_statistics() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("c2d_resnet18_slim", weights="random")
    model = ReIdModel(backbone, IdentityClassifier(backbone.feature_size, 3)).double()
    average = moving_average(model, 0.7)
    expected: dict[str, torch.Tensor] = {}
    for _ in range(4):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor))
        average.update_parameters(model)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        expected = {name: 0.7 * expected.get(name, tensor) + 0.3 * tensor for name, tensor in state.items()}
    found = average.module.state_dict()
    assert "backbone.bn.running_var" in expected
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-12, msg=name)


def test_training_is_the_same_and_the_average_is_scored(tiny_shards: Path, tmp_path: Path) -> None:
    store = ShardFolder(tiny_shards)
    plain = Trainer(tiny_recipe(tiny_shards), store, LocalRun(tmp_path / "plain"))
    plain.fit()
    assert plain.scored_model is plain.model
    recipe = tiny_recipe(tiny_shards, ema_decay=0.9)
    averaged = Trainer(recipe, store, LocalRun(tmp_path / "averaged"))
    averaged.fit()
    prints = [backbone_fingerprint(m.backbone) for m in (plain.model, averaged.model, averaged.scored_model)]
    assert prints[0] == prints[1] != prints[2]
    rows = [0, 1, 2]
    embedding, _ = averaged.embed(rows)
    averaged.scored_model = averaged.model
    torch.testing.assert_close(averaged.embed(rows)[0], plain.embed(rows)[0], rtol=0, atol=0)
    assert not torch.equal(embedding, plain.embed(rows)[0])


def test_a_run_scores_keeps_and_hands_out_the_average(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tiny_shards, ema_decay=0.9, epochs=4, held_out_share=0.34, validate_every=1, test_weights="best"
    )
    store = ShardFolder(tiny_shards)
    trainer = Trainer(recipe, store, LocalRun(tmp_path))
    trainer.fit()
    trainer.load_best()
    scores = trainer.score_held_out()
    assert scores is not None
    assert scores.single == pytest.approx(trainer.progress.best_score, abs=1e-12)
    best = read_trained_model(tmp_path / "best", ModelOptions())
    assert best.fingerprint == backbone_fingerprint(trainer.scored_model.backbone)
    metrics = train_and_score(recipe, LocalRun(tmp_path), store)
    assert metrics["epoch"] == json.loads((tmp_path / "best" / "progress.json").read_text())["best_epoch"]


def test_checkpoint_holds_both_weights(tiny_shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(tiny_shards, ema_decay=0.9, epochs=1), ShardFolder(tiny_shards), LocalRun(tmp_path))
    trainer.fit()
    for file, module in (("model", trainer.scored_model), ("unaveraged", trainer.model)):
        saved = load_file(tmp_path / "checkpoint" / f"{file}.safetensors")
        assert all(torch.equal(saved[name], tensor) for name, tensor in module.state_dict().items())
    (tmp_path / "checkpoint" / "unaveraged.safetensors").unlink()
    with pytest.raises(InputError, match=r"unaveraged\.safetensors"):
        load_checkpoint(tmp_path / "checkpoint", trainer.parts)
