"""The training loop in one process: resumes bit-identically, learns, and scores."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ccvid.config import Recipe, TrainOptions
from ccvid.optim_options import OptimOptions
from ccvid.run_files import CLOTHES_FILE
from ccvid.trained_model import backbone_fingerprint
from ccvid.training.checkpoint import Progress, load_checkpoint
from ccvid.training.context import LocalRun
from ccvid.training.run import train_and_score
from ccvid.training.split import split_training
from ccvid.training.trainer import Trainer
from ccvid.training.update_result import UpdateResult
from data_tools.errors import InputError
from data_tools.loader import ClipBatch
from data_tools.shards import ShardFolder


def tiny_recipe(shards: Path, method: Mapping[str, object] | None = None, **train: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "data": {"kind": "footage", "shards": shards},
            "clip": {"length": 2, "stride": 2, "piece": 0},
            "batch": {"identities": 3, "clips": 2},
            "model": {"backbone": "c2d_resnet18_slim", "weights": "random", "height": 32, "width": 16},
            "method": {"start_epoch": 1, **(method or {})},
            "optim": {"learning_rate": 2e-3},
            "train": {"epochs": 3, "log_every_seconds": 0.001, "seed": 5, **train},
        }
    )


class Killed(Exception):  # noqa: N818
    """Stands in for a SIGKILL: nothing runs after it."""


class DyingRun(LocalRun):
    """Dies at its n-th report, before or after the checkpoint is committed."""

    def __init__(self, folder: Path, reports: int, *, committed: bool) -> None:
        super().__init__(folder)
        self.reports_left, self.committed = reports, committed

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, *, wait: bool = False) -> None:
        self.reports_left -= 1
        if self.reports_left == 0 and not self.committed:
            raise Killed
        super().report(metrics, checkpoint, wait=wait)
        if self.reports_left == 0:
            raise Killed


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    scored = {f"scored.{name}": tensor for name, tensor in trainer.scored_model.state_dict().items()}
    return {**trainer.model.state_dict(), **scored, "clothes": trainer.parts.heads[CLOTHES_FILE].state_dict()["weight"]}


ALL_STATE: dict[str, Any] = {
    "method": {"clothes_memory": True, "identity_loss": "arcface", "identity_margin": 0.1, "pair_loss": "triplet"},
    "ema_decay": 0.8,
}
"""A recipe with everything that a checkpoint may hold."""


@pytest.mark.parametrize(
    ("reports", "committed", "extra"),
    [
        (1, True, {}),
        (1, False, {}),
        (3, True, {}),
        (3, False, {}),
        (4, True, {}),
        (4, False, {}),
        (1, True, ALL_STATE),
        (4, False, ALL_STATE),
    ],
)
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(
    tiny_shards: Path, tmp_path: Path, reports: int, committed: bool, extra: Mapping[str, Any]
) -> None:
    recipe = tiny_recipe(tiny_shards, checkpoint_every_steps=1, held_out_share=0.34, validate_every=1, **extra)
    store = ShardFolder(tiny_shards)
    undisturbed = Trainer(recipe, store, LocalRun(tmp_path / "whole"))
    undisturbed.fit()
    with pytest.raises(Killed):
        Trainer(recipe, store, DyingRun(tmp_path / "killed", reports, committed=committed)).fit()
    resumed = Trainer(recipe, store, LocalRun(tmp_path / "killed"))
    resumed.fit()
    expected, found = weights(undisturbed), weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.progress == undisturbed.progress
    steps = [json.loads(line) for line in (tmp_path / "killed" / "steps.jsonl").read_text().splitlines()]
    numbers = [step["step"] for step in steps if "identity_loss" in step]
    assert numbers == list(range(3 * undisturbed.sampler.steps_per_epoch))
    assert (tmp_path / "killed" / "steps.jsonl").read_text() == (tmp_path / "whole" / "steps.jsonl").read_text()


def test_the_loop_learns_and_scores(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_shards, epochs=8, held_out_share=0.34, validate_every=2, test_weights="best")
    run = LocalRun(tmp_path)
    metrics = train_and_score(recipe, run, ShardFolder(tiny_shards))
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    losses = [step["identity_loss"] for step in steps if "identity_loss" in step]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert "adversarial_loss" not in steps[0]
    assert "adversarial_loss" in steps[-2]
    protocols = metrics["protocols"]
    assert isinstance(protocols, dict)
    assert {"general", "same_clothes", "clothes_changing"} <= set(protocols)
    assert protocols["general"]["queries"] == 8
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    for file in ("embeddings.parquet", "queries.parquet", "rankings_clothes_changing.svg", "metrics.txt"):
        assert (tmp_path / file).stat().st_size > 100
    assert metrics["epoch"] == json.loads((tmp_path / "best" / "progress.json").read_text())["best_epoch"]


@pytest.mark.parametrize("name", ["arcface", "cosface", "circle"])
def test_every_loss_is_logged_and_its_head_is_kept(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    pairs = {"arcface": "contrastive", "cosface": "cosface", "circle": "circle"}
    method = {"identity_loss": name, "identity_margin": 0.1, "pair_loss": pairs[name], "pair_weight": 0.1}
    recipe = tiny_recipe(tiny_shards, method, epochs=4)
    trainer = Trainer(recipe, ShardFolder(tiny_shards), LocalRun(tmp_path))
    trainer.fit()
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert all(step["pair_loss"] > 0 for step in steps)
    losses = [step["identity_loss"] for step in steps]
    assert sum(losses[-3:]) < sum(losses[:3])
    saved = load_file(tmp_path / "checkpoint" / "model.safetensors")
    heads = {name: tensor.shape for name, tensor in saved.items() if name.startswith("identity_classifier")}
    assert heads == {"identity_classifier.weight": (len(trainer.split.persons), trainer.model.backbone.feature_size)}


def test_the_best_weights_are_those_of_the_best_validation(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_shards, epochs=4, held_out_share=0.34, validate_every=1, test_weights="best")
    trainer = Trainer(recipe, ShardFolder(tiny_shards), LocalRun(tmp_path))
    trainer.fit()
    trainer.load_best()
    scores = trainer.score_held_out()
    assert scores is not None
    assert scores.single == pytest.approx(trainer.progress.best_score, abs=1e-12)


def test_a_finished_run_entered_again_changes_nothing(tiny_shards: Path, tmp_path: Path) -> None:
    recipe, store = tiny_recipe(tiny_shards, epochs=1), ShardFolder(tiny_shards)
    first = Trainer(recipe, store, LocalRun(tmp_path))
    first.fit()
    again = Trainer(recipe, store, LocalRun(tmp_path))
    again.fit()
    assert backbone_fingerprint(again.model.backbone) == backbone_fingerprint(first.model.backbone)
    assert again.run.reports == []  # type: ignore[attr-defined]


def test_the_seed_decides_and_the_baseline_has_no_clothes_loss(tiny_shards: Path, tmp_path: Path) -> None:
    store = ShardFolder(tiny_shards)
    prints = set()
    for number, seed in enumerate((5, 5, 6)):
        trainer = Trainer(tiny_recipe(tiny_shards, epochs=1, seed=seed), store, LocalRun(tmp_path / str(number)))
        trainer.fit()
        prints.add(backbone_fingerprint(trainer.model.backbone))
    assert len(prints) == 2
    recipe = tiny_recipe(tiny_shards, epochs=1)
    baseline = recipe.model_copy(update={"method": recipe.method.model_copy(update={"clothes_loss": False})})
    Trainer(baseline, store, LocalRun(tmp_path / "baseline")).fit()
    assert "clothes_loss" not in (tmp_path / "baseline" / "steps.jsonl").read_text()


def test_held_out_identities_are_never_trained_on(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    train = TrainOptions(held_out_share=0.34, seed=3)
    split = split_training(store, train, piece=0, needs_clothes=True)
    held_out = {store.rows[row].person for row in split.held_out_rows}
    trained = {store.rows[row].person for row in split.items.row_I}
    assert len(held_out) == 2
    assert held_out.isdisjoint(trained)
    assert trained == set(split.persons)
    assert all(store.rows[row].split == "train" for row in [*split.held_out_rows, *split.items.row_I])
    assert [split.persons[owner] for owner in split.owner_N] == [person for person, _ in split.clothes]
    with pytest.raises(InputError, match="held_out_share"):
        split_training(store, TrainOptions(held_out_share=0.1), piece=0, needs_clothes=True)


def test_too_few_identities_are_refused_before_anything_starts(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_shards)
    many = recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"identities": 7})})
    with pytest.raises(InputError, match="too few identities"):
        Trainer(many, ShardFolder(tiny_shards), LocalRun(tmp_path))


@pytest.mark.parametrize("file", ["model.safetensors", "clothes.safetensors", "trainer.pt", "progress.json"])
def test_a_damaged_checkpoint_is_an_input_error(tiny_shards: Path, tmp_path: Path, file: str) -> None:
    trainer = Trainer(tiny_recipe(tiny_shards, epochs=1), ShardFolder(tiny_shards), LocalRun(tmp_path))
    trainer.fit()
    path = tmp_path / "checkpoint" / file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="checkpoint"):
        load_checkpoint(tmp_path / "checkpoint", trainer.parts)
    assert isinstance(trainer.progress, Progress)


def test_a_checkpoint_that_broke_down_is_not_resumed(tiny_shards: Path, tmp_path: Path) -> None:
    recipe, store = tiny_recipe(tiny_shards, epochs=1), ShardFolder(tiny_shards)
    Trainer(recipe, store, LocalRun(tmp_path)).fit()
    longer = tiny_recipe(tiny_shards, epochs=2)
    folder = tmp_path / "checkpoint"
    for file, name in (("model", "backbone.layer2.0.conv1.weight"), ("clothes", "weight")):
        whole = (folder / f"{file}.safetensors").read_bytes()
        state = load_file(folder / f"{file}.safetensors")
        state[name].view(-1)[0] = math.nan
        save_file(state, folder / f"{file}.safetensors")
        with pytest.raises(InputError, match=rf"{file}\.safetensors: {re.escape(name)} is nan at \[0, 0"):
            Trainer(longer, store, LocalRun(tmp_path)).fit()
        (folder / f"{file}.safetensors").write_bytes(whole)
    state = torch.load(folder / "trainer.pt", weights_only=True)
    state["model"]["state"][3]["exp_avg"].view(-1)[0] = math.inf
    torch.save(state, folder / "trainer.pt")
    with pytest.raises(InputError, match=r"trainer\.pt: .*exp_avg of parameter 3: expected finite numbers of shape"):
        Trainer(longer, store, LocalRun(tmp_path)).fit()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"epoch": -1}', "epoch: Input should be greater than or equal to 0, got -1"),
        ('{"epoch": 1e400}', "epoch: Input should be a finite number"),
        ('{"best_score": NaN}', "best_score: Input should be"),
        ('{"step": "x"}', "step: Input should be a valid integer"),
        ('{"step": 5, "steps_per_epoch": 4}', "step is 5, expected at most 4, the steps per epoch"),
        ("[" * 5000, "top level: Invalid JSON: recursion limit exceeded"),
    ],
)
def test_a_progress_that_is_none_is_an_input_error(
    tiny_shards: Path, tmp_path: Path, content: str, message: str
) -> None:
    trainer = Trainer(tiny_recipe(tiny_shards, epochs=1), ShardFolder(tiny_shards), LocalRun(tmp_path))
    trainer.fit()
    (tmp_path / "checkpoint" / "progress.json").write_text(content)
    with pytest.raises(InputError, match=rf"progress\.json: {message}"):
        load_checkpoint(tmp_path / "checkpoint", trainer.parts)


@pytest.mark.parametrize("log_every_seconds", [0.001, 1000.0])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(
    tiny_shards: Path, tmp_path: Path, log_every_seconds: float
) -> None:
    """Found at the next progress line or, if that is far away, before the next checkpoint."""
    store = ShardFolder(tiny_shards)
    recipe = tiny_recipe(tiny_shards, epochs=20, checkpoint_every_steps=1, log_every_seconds=log_every_seconds)
    wild = recipe.model_copy(update={"optim": OptimOptions(name="sgd", momentum=0, learning_rate=1e30)})
    run = LocalRun(tmp_path / "run")
    with pytest.raises(InputError, match=r"epoch \d+, step \d+: .*not finite.*lower --optim\.learning_rate"):
        Trainer(wild, store, run).fit()
    checkpoint = run.folder / "checkpoint" / "model.safetensors"
    if checkpoint.exists():
        assert all(tensor.isfinite().all() for tensor in load_file(checkpoint).values())
    steps = run.folder / "steps.jsonl"
    assert "NaN" not in steps.read_text()
    assert "Infinity" not in steps.read_text()


def test_the_offending_batch_is_named(tiny_shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(tiny_shards), ShardFolder(tiny_shards), LocalRun(tmp_path / "run"))
    update, shown = trainer.passes[0].update, []

    def broken(batch: ClipBatch, epoch: int) -> UpdateResult:
        result = update(batch, epoch)
        shown.append(result)
        return replace(result, losses={"identity": torch.tensor(torch.nan)}) if len(shown) == 2 else result

    trainer.passes[0].update = broken
    with pytest.raises(InputError, match="identity_loss not finite") as stopped:
        trainer.fit()
    epoch, step = divmod(1, trainer.sampler.steps_per_epoch)
    assert f"epoch {epoch + 1}, step {step + 1}: " in str(stopped.value)
    items = trainer.sampler.schedule(epoch, 0).item_SB[step]
    named = {trainer.store.rows[row].id for row in trainer.split.items.row_I[items]}
    others = {row.id for row in trainer.store.rows} - named
    assert all(name in str(stopped.value) for name in named)
    assert not any(f" {name}," in str(stopped.value) for name in others)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("clips")]  # the error is kept
