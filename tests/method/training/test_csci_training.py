"""CSCI in the training loop: two passes an epoch, resumed to the bit, on one rank and two, from a first stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from ccvid.colour_target_options import ColourTargetOptions
from ccvid.colour_targets import ColourTarget
from ccvid.config import Recipe
from ccvid.other_clothes_options import OtherClothesOptions
from ccvid.run_files import CSCI_FILE, WEIGHTS_FILE
from ccvid.training.context import LocalRun
from ccvid.training.csci import build_csci, build_csci_training
from ccvid.training.csci_update import CsciUpdate
from ccvid.training.other_clothes import in_other_clothes
from ccvid.training.run import train_and_score
from ccvid.training.split import split_for
from ccvid.training.trainer import Trainer
from ccvid.training.update_result import UpdateResult
from data_tools.loader import ClipBatch
from data_tools.shards import ShardFolder
from data_tools.transforms import normalise
from tests.method.training.test_training import DyingRun, Killed
from tests.method.training.test_world_size import distance_apart, train, train_rank

COLOURS = {"planes": "mean", "bins": 4}
NOBODY = {"swapped_share": 0.0, "hidden_share": 0.0}
"""Is in the clothes of others."""


def csci_recipe(shards: Path, network: str = "csci_video", **sections: dict[str, Any]) -> Recipe:
    values: dict[str, dict[str, Any]] = {
        "data": {"kind": "footage", "shards": str(shards)},
        "clip": {"length": 1 if network == "csci_image" else 2, "stride": 2, "piece": 0},
        "batch": {"identities": 4, "clips": 2},
        "model": {"backbone": f"{network}/eva_slim", "weights": "random", "height": 32, "width": 16},
        "method": {"name": "csci", "csci": {"colours": COLOURS}},
        "optim": {"name": "sgd", "learning_rate": 2e-2, "schedule": "cosine"},
        "train": {"epochs": 2, "log_every_seconds": 0.001},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return Recipe.model_validate(values)


def steps_of(folder: Path) -> list[dict[str, float]]:
    return [step for step in map(json.loads, (folder / "steps.jsonl").read_text().splitlines()) if "step" in step]


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    scored = {f"scored.{name}": value for name, value in trainer.scored_model.state_dict().items()}
    return {**trainer.model.state_dict(), **scored, **trainer.parts.heads[CSCI_FILE].state_dict()}


def test_an_epoch_is_a_pass_of_pictures_and_a_pass_of_clips(tiny_shards: Path, tmp_path: Path) -> None:
    trainer = train(csci_recipe(tiny_shards), tmp_path)
    a_pass = trainer.sampler.steps_per_epoch
    of_picture = {"identity_loss", "triplet_loss", "colour_loss", "disentangling_loss"}
    of_clip = {"identity_loss", "triplet_loss", "motion_loss"}
    steps = [step for step in steps_of(tmp_path) if "identity_loss" in step]
    assert [step["step"] for step in steps] == list(range(4 * a_pass))
    found = [{name for name in step if name.endswith("_loss")} for step in steps]
    assert found == [*[of_picture] * a_pass, *[of_clip] * a_pass] * 2
    assert [each.loader.wait_seconds > 0 for each in trainer.passes] == [True, True]


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("reports", [1, 4, 6])
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(
    tiny_shards: Path, tmp_path: Path, reports: int, ema: float | None
) -> None:
    """Within the pass of pictures, within that of clips, and in a later epoch; with drop path and layer-wise decay."""
    recipe = csci_recipe(
        tiny_shards,
        batch={"identities": 3},
        model={"drop_path": 0.3, "checkpoint_blocks": True},
        optim={"name": "adamw", "learning_rate": 1e-3, "layer_decay": 0.7, "bias_rate": 2, "decay_all": False},
        train={"checkpoint_every_steps": 1, "ema_decay": ema, "batch_parts": 2},
    )
    store = ShardFolder(tiny_shards)
    undisturbed = Trainer(recipe, store, LocalRun(tmp_path / "whole"))
    undisturbed.fit()
    with pytest.raises(Killed):
        Trainer(recipe, store, DyingRun(tmp_path / "killed", reports, committed=True)).fit()
    resumed = Trainer(recipe, store, LocalRun(tmp_path / "killed"))
    resumed.fit()
    expected, found = state_of(undisturbed), state_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (tmp_path / "killed" / "steps.jsonl").read_text() == (tmp_path / "whole" / "steps.jsonl").read_text()


def test_two_workers_with_half_the_identities_each_train_as_one(tiny_shards: Path, tmp_path: Path) -> None:
    """Triplets of all workers; parameters that a pass does not use stay as they are on both."""
    alone = csci_recipe(tiny_shards)
    start = Trainer(alone, ShardFolder(tiny_shards), LocalRun(tmp_path / "start")).model.state_dict()
    whole = train(alone, tmp_path / "alone").model.state_dict()
    apart = {}
    for gathered in (True, False):
        folder = tmp_path / f"gathered-{gathered}"
        folder.mkdir()
        method = {
            "name": "csci",
            "csci": {"colours": {"planes": "mean", "bins": 4}, "triplets_of_all_workers": gathered},
        }
        halves = csci_recipe(tiny_shards, batch={"identities": 2}, method=method)
        spawn(train_rank, args=(str(folder), halves), nprocs=2)  # type: ignore[no-untyped-call]
        first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        apart[gathered] = distance_apart(first, whole, start)
    assert apart[True] < 1e-3 < apart[False]


@pytest.mark.parametrize(("network", "losses"), [("csci_plain", 2), ("csci_image", 4), ("csci_video", 3)])
def test_each_network_learns_and_scores(tiny_shards: Path, tmp_path: Path, network: str, losses: int) -> None:
    recipe = csci_recipe(
        tiny_shards, network, train={"epochs": 6, "held_out_share": 0.34, "validate_every": 3, "test_weights": "best"}
    )
    metrics = train_and_score(recipe, LocalRun(tmp_path), ShardFolder(tiny_shards))
    assert {"general", "same_clothes", "clothes_changing"} <= set(metrics["protocols"])  # type: ignore[call-overload]
    steps = [step for step in steps_of(tmp_path) if "identity_loss" in step]
    assert len([name for name in steps[-1] if name.endswith("_loss")]) == losses
    assert sum(step["identity_loss"] for step in steps[-3:]) < sum(step["identity_loss"] for step in steps[:3])
    assert "CSCI" in (tmp_path / "metrics.txt").read_text()


@pytest.mark.parametrize("network", ["csci_plain", "csci_video"])
def test_people_in_the_clothes_of_others_are_seen_with_the_colours_that_they_then_have(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    def first_seen(other_clothes: dict[str, float]) -> list[tuple[torch.Tensor, ...]]:
        seen: list[tuple[torch.Tensor, ...]] = []

        def note(self: CsciUpdate, *tensors: torch.Tensor) -> UpdateResult:  # noqa: ARG001
            seen.append(tensors[:-1])
            return UpdateResult({"identity": torch.zeros(())}, identity_accuracy=torch.zeros(()))

        for way in ("plain", "pictures", "clips"):
            monkeypatch.setattr(CsciUpdate, way, note)
        method = {"name": "csci", "csci": {"colours": COLOURS, "other_clothes": other_clothes}}
        recipe = csci_recipe(tiny_shards, network, method=method)
        training = build_csci_training(recipe, split_for(recipe, ShardFolder(tiny_shards)), LocalRun(tmp_path))
        for each in training.passes:
            torch.manual_seed(3)
            each.update(batch, 0)
        return seen

    frames_BTCHW = torch.randint(256, (6, 2, 3, 32, 16), dtype=torch.uint8)
    labels_B = torch.arange(6)
    batch = ClipBatch(
        frames_BTCHW=frames_BTCHW, tracklet_B=labels_B, person_B=labels_B, clothes_B=labels_B, camera_B=labels_B
    )
    target = ColourTarget(**ColourTargetOptions.model_validate(COLOURS).model_dump())
    shares = {"swapped_share": 0.5, "hidden_share": 0.5}
    torch.manual_seed(3)
    changed_BTCHW = in_other_clothes(frames_BTCHW, OtherClothesOptions(**shares))
    assert not torch.equal(changed_BTCHW, frames_BTCHW)
    for expected_BTCHW, seen in ((changed_BTCHW, first_seen(shares)), (frames_BTCHW, first_seen(NOBODY))):
        assert torch.equal(seen[-1][0], normalise(expected_BTCHW))
        if network == "csci_video":
            pictures_NCHW = expected_BTCHW.flatten(0, 1)
            assert torch.equal(seen[0][0], normalise(pictures_NCHW))
            assert torch.equal(seen[0][1], target(pictures_NCHW))


def test_a_second_stage_starts_from_network_and_classifier_of_the_first(tiny_shards: Path, tmp_path: Path) -> None:
    first = train(csci_recipe(tiny_shards, "csci_plain", clip={"length": 1}), tmp_path / "first")
    weights = tmp_path / "first" / "checkpoint" / WEIGHTS_FILE
    recipe = csci_recipe(tiny_shards, model={"weights": str(weights)})
    parts, _ = build_csci(recipe, split_for(recipe, ShardFolder(tiny_shards)), LocalRun(tmp_path / "second"))
    found, expected = parts.model.state_dict(), load_file(weights)
    assert expected.keys() == first.model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(found["backbone.extra_pos_in_temporal"], expected["backbone.pos_embed"][:, :1])
    heads = parts.heads[CSCI_FILE].state_dict()
    assert not torch.equal(heads["head_image.classifier.weight"], found["identity_classifier.classifier.weight"])


def test_released_heads_start_the_classifier_only_for_as_many_persons(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = csci_recipe(tiny_shards, "csci_plain")
    split = split_for(recipe, ShardFolder(tiny_shards))
    parts, _ = build_csci(recipe, split, LocalRun(tmp_path / "run"))
    released = {f"module.{name.removeprefix('backbone.')}": value for name, value in parts.model.state_dict().items()}
    released = {name: value for name, value in released.items() if "identity_classifier" not in name}
    for persons, kept in ((len(split.persons), True), (len(split.persons) + 1, False)):
        head = {"module.head.weight": torch.full((persons, 96), 0.25), "module.head.bias": torch.zeros(persons)}
        torch.save({**released, **head}, tmp_path / "released.pth")
        started = csci_recipe(tiny_shards, "csci_plain", model={"weights": str(tmp_path / "released.pth")})
        found, _ = build_csci(started, split, LocalRun(tmp_path / "run"))
        weight = found.model.identity_classifier.state_dict()["classifier.weight"]
        assert bool((weight == 0.25).all()) == kept


def test_another_network_is_refused(tiny_shards: Path) -> None:
    with pytest.raises(ValidationError, match=r"method\.name csci needs model\.backbone csci_plain/NAME"):
        csci_recipe(tiny_shards, model={"backbone": "c2d_resnet18"})
