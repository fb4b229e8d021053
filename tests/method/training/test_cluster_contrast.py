"""Learning without person labels: groups with a known answer, resumed to the bit, on one rank and two, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch.multiprocessing.spawn import spawn

from ccvid.cluster_contrast_options import ClusterContrastOptions
from ccvid.config import Recipe
from ccvid.other_clothes_options import OtherClothesOptions
from ccvid.retrieval.gallery.clusters import Presence, score_clusters
from ccvid.run_files import GROUPS_FILE
from ccvid.trained_model import read_description
from ccvid.training.context import LocalRun
from ccvid.training.other_clothes import heads_alone, in_other_clothes
from ccvid.training.pseudo_identities import PseudoIdentities, group_tracklets
from ccvid.training.run import train_and_score
from ccvid.training.trainer import Trainer
from data_tools.errors import InputError
from data_tools.shard_index import ShardRows
from data_tools.shards import ShardFolder
from tests.method.training.test_training import DyingRun, Killed
from tests.method.training.test_world_size import train, train_rank


def unlabelled_recipe(shards: Path, options: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Recipe:
    own = {"start_epoch": 1, "renew_every": 2, "neighbours": 2, "reach": 0.5, "collapsed_share": 1, **(options or {})}
    values: dict[str, dict[str, Any]] = {
        "data": {"kind": "footage", "shards": str(shards)},
        "clip": {"length": 2, "stride": 2, "piece": 0},
        "batch": {"identities": 2, "clips": 2},
        "model": {"backbone": "c2d_resnet18_slim", "weights": "random", "height": 32, "width": 16},
        "method": {"name": "cluster_contrast", "cluster_contrast": own, "pair_loss": "triplet"},
        "train": {"epochs": 4, "log_every_seconds": 0.001, "seed": 5},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return Recipe.model_validate(values)


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    scored = {f"scored.{name}": value for name, value in trainer.scored_model.state_dict().items()}
    return {**trainer.model.state_dict(), **scored, **trainer.parts.heads[GROUPS_FILE].state_dict()}


def made_features(people: int, of_each: int) -> npt.NDArray[np.float32]:
    """Unit vectors (people * of_each, 32) near a direction of each person's own."""
    rng = np.random.default_rng(3)
    direction = np.linalg.qr(rng.normal(size=(32, 32)))[0][:people]
    near = np.repeat(direction, of_each, axis=0) + 0.05 * rng.normal(size=(people * of_each, 32))
    unit: npt.NDArray[np.float32] = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize("reports", [1, 7, 8, 14])
def test_a_killed_run_ends_with_the_same_weights_and_groups_to_the_bit(
    tiny_shards: Path, tmp_path: Path, reports: int
) -> None:
    """Before the first grouping, in an epoch that begins with one, at its end and in one that keeps it."""
    recipe = unlabelled_recipe(tiny_shards, train={"checkpoint_every_steps": 1, "ema_decay": 0.8})
    store = ShardFolder(tiny_shards)
    undisturbed = Trainer(recipe, store, LocalRun(tmp_path / "whole"))
    assert undisturbed.steps_per_epoch == 6
    undisturbed.fit()
    with pytest.raises(Killed):
        Trainer(recipe, store, DyingRun(tmp_path / "killed", reports, committed=True)).fit()
    resumed = Trainer(recipe, store, LocalRun(tmp_path / "killed"))
    resumed.fit()
    expected, found = state_of(undisturbed), state_of(resumed)
    assert int(expected["groupings"]) == 2
    assert 2 <= int(expected["class_N"].max()) + 1 < 24, "groups, and more than one"
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert (tmp_path / "killed" / "steps.jsonl").read_text() == (tmp_path / "whole" / "steps.jsonl").read_text()


def test_labels_change_no_bit_of_the_weights(tiny_shards: Path, tmp_path: Path) -> None:
    """Persons and clothes of other tracklets, or none at all."""
    recipe, states = unlabelled_recipe(tiny_shards), []
    for number, labels in enumerate(("given", "permuted", "none")):
        store = ShardFolder(tiny_shards)
        rows = list(store.rows)
        if labels == "permuted":
            others = np.random.default_rng(1).permutation(len(rows))
            rows = [
                replace(row, person=rows[n].person, clothes=rows[n].clothes)
                for row, n in zip(rows, others, strict=True)
            ]
        elif labels == "none":
            rows = [replace(row, person=None, clothes=None) for row in rows]
        store.rows = ShardRows.of(rows)
        trainer = Trainer(recipe, store, LocalRun(tmp_path / str(number)))
        trainer.fit()
        states.append(state_of(trainer))
    for other in states[1:]:
        assert all(torch.equal(states[0][name], other[name]) for name in states[0])


def test_two_workers_have_the_same_weights_and_groups(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = unlabelled_recipe(tiny_shards, batch={"identities": 1}, method={"pair_loss": "none"})
    spawn(train_rank, args=(str(tmp_path), recipe), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first if "running" not in name)


def test_a_run_learns_says_its_groups_and_scores(
    tiny_shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = unlabelled_recipe(
        tiny_shards,
        {"renew_every": 100, "other_clothes": {"swapped_share": 0, "hidden_share": 0}},
        batch={"identities": 3, "clips": 2},
        train={"epochs": 16},
    )
    metrics = train_and_score(recipe, LocalRun(tmp_path), ShardFolder(tiny_shards))
    assert {"general", "clothes_changing"} <= set(metrics["protocols"])  # type: ignore[call-overload]
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    losses = [step["cluster_loss"] for step in steps if "cluster_loss" in step]
    assert len(losses) == 64
    assert sum(losses[-8:]) < 0.8 * sum(losses[4:12])  # of the same groups
    assert read_description(tmp_path / "checkpoint").persons == 0
    assert "groups of tracklets" in "".join(capfd.readouterr())
    assert "cluster contrast" in (tmp_path / "metrics.txt").read_text()


def test_groups_of_made_features_are_the_persons() -> None:
    feature_ND, camera_N = made_features(6, 4), np.tile([0, 1], 12)
    options = ClusterContrastOptions(neighbours=4)
    unknown, alone_N = Presence.unknown(24), np.arange(24)
    class_N = group_tracklets(feature_ND, camera_N, unknown, options, alone_N)
    person_N = np.repeat(np.arange(6), 4)
    assert len(np.unique(class_N)) == 6
    assert len(set(zip(class_N, person_N, strict=True))) == 6
    shifted_ND = feature_ND + 3 * camera_N[:, None].astype(np.float32)
    shifted_ND /= np.linalg.norm(shifted_ND, axis=1, keepdims=True)
    class_N = group_tracklets(shifted_ND, camera_N, unknown, options, alone_N)
    assert len(set(zip(class_N, person_N, strict=True))) == 6, "what a camera adds to its own is taken off"


def test_tracklets_in_view_together_are_never_one_person() -> None:
    feature_ND, camera_N = made_features(6, 4), np.zeros(24, np.int64)
    video_N, start_N = np.full(24, -1), np.zeros(24)
    video_N[:2] = 7
    presence = Presence(video_N, start_N, start_N + 1)
    class_N = group_tracklets(feature_ND, camera_N, presence, ClusterContrastOptions(), np.arange(24))
    assert class_N[0] != class_N[1]
    assert class_N[4] == class_N[5]


def test_centroids_are_means_of_class_and_camera_and_move_with_momentum() -> None:
    identities = PseudoIdentities(3, torch.tensor([0, 1, 0, 0]), momentum=0.25)
    embedding_ND = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    identities.set_classes(np.array([0, 0, 0, 1]), embedding_ND)
    root = 0.5**0.5
    expected_MD = torch.tensor([[root, 0, root], [0, 1, 0], [0, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(identities.centroid_MD, expected_MD)
    assert (identities.class_M.tolist(), identities.camera_M.tolist()) == ([0, 0, 1, -1], [0, 1, 0, -1])
    assert identities.own(torch.tensor([1, 3])).tolist() == [[True, True, False, False], [False, False, True, False]]
    identities.learn(torch.tensor([[0, 0, 5.0], [0, 2, 0], [0, 0, 9]]), torch.tensor([0, 2, 1]))
    first = 0.25 * expected_MD[0] + 0.75 * torch.tensor([0, 0.5, 0.5])
    second = 0.25 * expected_MD[1] + 0.75 * torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(identities.centroid_MD[0], first / first.norm())
    torch.testing.assert_close(identities.centroid_MD[1], second / second.norm())
    torch.testing.assert_close(identities.centroid_MD[2:], expected_MD[2:])


def test_clothes_change_below_the_neck_alone_and_by_the_seed() -> None:
    frames_BTCHW = torch.randint(256, (6, 2, 3, 40, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    options = OtherClothesOptions(swapped_share=1, hidden_share=0, neck=0.5)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(in_other_clothes(frames_BTCHW, options))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[0][..., :10, :], frames_BTCHW[..., :10, :])
    bodies = {bytes(clip[..., 30:, :].contiguous().numpy()) for clip in frames_BTCHW}
    assert {bytes(clip[..., 30:, :].contiguous().numpy()) for clip in found[0]} == bodies, "each body once"
    torch.manual_seed(1)
    hidden = in_other_clothes(frames_BTCHW, OtherClothesOptions(swapped_share=0, hidden_share=1, neck=0.5))
    assert (hidden[..., 30:, :] == hidden[..., 30:31, :1]).all()
    assert torch.equal(
        in_other_clothes(frames_BTCHW, OtherClothesOptions(swapped_share=0, hidden_share=0)), frames_BTCHW
    )
    alone = heads_alone(frames_BTCHW, options)
    assert torch.equal(alone[..., :20, :], frames_BTCHW[..., :20, :])
    assert (alone[..., 20:, :] == alone[..., 20:21, :1]).all()


def test_heads_of_one_outfit_are_compared_as_one() -> None:
    """Each tracklet shows its person only dimly; the mean of an outfit shows it clearly."""
    person_N, outfit_N = np.repeat(np.arange(6), 16), np.repeat(np.arange(24), 4)
    rng = np.random.default_rng(5)
    dim_ND = (made_features(6, 16) + 0.25 * rng.normal(size=(96, 32))).astype(np.float32)
    unknown, camera_N = Presence.unknown(96), np.zeros(96, np.int64)
    precision = []
    for outfits in (outfit_N, np.arange(96)):
        class_N = group_tracklets(dim_ND, camera_N, unknown, ClusterContrastOptions(neighbours=16), outfits)
        scores = score_clusters(class_N, person_N.astype(str).tolist())
        precision.append(scores.recall * scores.precision)
    assert precision[0] > 0.9 > precision[1]


def refused(feature_ND: npt.NDArray[np.float32], **options: Any) -> str:
    unknown, camera_N, own_N = Presence.unknown(24), np.zeros(24, np.int64), np.arange(24)
    with pytest.raises(InputError) as error:
        group_tracklets(feature_ND, camera_N, unknown, ClusterContrastOptions(**options), own_N)
    return str(error.value)


def test_one_group_of_everyone_and_no_group_at_all_say_what_to_change() -> None:
    collapsed = refused(made_features(1, 24), neighbours=12, reach=0.9)
    assert "one of them holds" in collapsed
    for name in ("reach from 0.9", "neighbours from 12", "start_epoch above 4"):
        assert f"--method.cluster_contrast.{name}" in collapsed
    alone = refused(made_features(24, 1), least=20, reach=0.1)
    assert "0 groups in 24 tracklets" in alone
    assert "Raise --method.cluster_contrast.reach from 0.1" in alone
    dead = refused(np.full((24, 4), 0.5, np.float32), neighbours=12, reach=0.9)  # of a network that tells nothing apart
    assert "one of them holds" in dead


def test_a_grouping_that_fails_ends_the_run_only_if_none_went_before(
    tiny_shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [0]

    def group(*arguments: Any) -> Any:
        if not good[0]:
            raise InputError("all alike")
        good[0] -= 1
        return group_tracklets(*arguments)

    monkeypatch.setattr("ccvid.training.cluster_contrast.group_tracklets", group)
    with pytest.raises(InputError, match="epoch 2: all alike"):
        train(unlabelled_recipe(tiny_shards), tmp_path / "never")
    good[0] = 1
    trainer = train(unlabelled_recipe(tiny_shards), tmp_path / "later")
    state = state_of(trainer)
    assert (int(state["groupings"]), int(state["refused"])) == (1, 1)
    assert "groups stay as they were (now 1 times): all alike" in "".join(capfd.readouterr())


def test_a_batch_larger_than_the_data_or_its_groups_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    many = unlabelled_recipe(tiny_shards, batch={"identities": 20, "clips": 2})
    with pytest.raises(InputError, match="an epoch has no complete batch: 24 training items for 1 workers with 20"):
        Trainer(many, ShardFolder(tiny_shards), LocalRun(tmp_path))
    few = unlabelled_recipe(tiny_shards, {"neighbours": 12, "reach": 0.99}, batch={"identities": 12})
    with pytest.raises(InputError, match=r"a batch of all workers needs 12 .*lower --batch\.identities"):
        train(few, tmp_path / "few")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"held_out_share": 0.1}}, "nothing can be held out"),
        ({"batch": {"spread_outfits": True}}, "needs clothes labels"),
    ],
)
def test_settings_that_need_labels_are_refused(tiny_shards: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        unlabelled_recipe(tiny_shards, None, **sections)
