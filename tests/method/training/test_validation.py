"""Held-out scores that come late: the same best epoch, weights and figures as with waiting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from ccvid.config import Recipe
from ccvid.training.checkpoint import read_progress, write_progress
from ccvid.training.context import LocalRun, Validators
from ccvid.training.held_out import HeldOut, HeldOutScores
from ccvid.training.trainer import Trainer
from ccvid.training.validation import MOST_UNSCORED
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from tests.method.training.test_training import ALL_STATE, Killed, tiny_recipe, weights

EPOCHS = 6
NEVER = 1000
SEEN_AGAIN = (0, 3, 1, 2, 0, 1)
"""How often each epoch is asked for before its score is there: they come late, and not in order."""


class LateValidators:
    """Scores in this process when a score is due.

    Args:
        late: how often each epoch is asked for, without waiting, before it is done.
        lost: epochs that no validator can score.
        scores: instead of the true ones, by epoch.
    """

    def __init__(
        self,
        held_out: HeldOut,
        store: ShardFolder,
        late: tuple[int, ...],
        lost: tuple[int, ...] = (),
        scores: Mapping[int, float] | None = None,
    ) -> None:
        self.number = 1
        self._held_out, self._store = replace(held_out, model=deepcopy(held_out.model)), store
        self._left = dict(enumerate(late, start=1))
        self._lost, self._scores = lost, scores
        self._weights: dict[int, dict[str, torch.Tensor]] = {}
        self.most_unscored, self.submitted, self.closed = 0, Counter[int](), False

    def submit(self, epoch: int, weights: Path) -> None:
        self._weights[epoch] = load_file(weights)
        self.submitted[epoch] += 1

    def is_done(self, epoch: int, seconds: float) -> bool:
        if seconds == 0 and self._left[epoch] > 0:
            self._left[epoch] -= 1
            return False
        return True

    def result(self, epoch: int) -> HeldOutScores | None:
        weights = self._weights.pop(epoch)
        if epoch in self._lost:
            return None
        if self._scores is not None:
            return HeldOutScores(self._scores[epoch], {"general": self._scores[epoch]}, 4)
        self._held_out.model.load_state_dict(weights)
        return self._held_out.score(self._store)

    def close(self) -> None:
        self.closed = True


class BesideRun(LocalRun):
    """A run with validators; it dies before its n-th report, if asked to."""

    def __init__(self, folder: Path, store: ShardFolder, *, dies_at: int | None = None, **options: Any) -> None:
        super().__init__(folder)
        self._store, self._options, self._left = store, options, dies_at
        self.made: LateValidators | None = None
        self.unscored: list[int] = []

    def validators(self, held_out: HeldOut) -> Validators | None:
        if self.rank == 0:
            self.made = LateValidators(held_out, self._store, **self._options)
        return self.made

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, *, wait: bool = False) -> None:
        self.unscored.append(len(list((self.scratch / "unscored").glob("*"))))
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Killed
        super().report(metrics, checkpoint, wait=wait)


def recipe_of(shards: Path, **train: Any) -> Recipe:
    return tiny_recipe(
        shards, **{"epochs": EPOCHS, "held_out_share": 0.34, "validate_every": 1, "checkpoint_share": 1, **train}
    )


def trained(recipe: Recipe, store: ShardFolder, run: LocalRun) -> Trainer:
    trainer = Trainer(recipe, store, run)
    trainer.fit()
    return trainer


def scores_in(run: LocalRun) -> list[tuple[float, float, float]]:
    """Epoch, score and best score of each report of a score."""
    return [(r["epoch"], r["held_out_score"], r["best_score"]) for r in run.reports if "held_out_score" in r]


def lines_of(folder: Path) -> list[str]:
    return (folder / "steps.jsonl").read_text().splitlines()


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_end(found: Trainer, expected: Trainer) -> None:
    one, other = weights(found), weights(expected)
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert found.progress == expected.progress
    assert files_in(found.run.folder / "best") == files_in(expected.run.folder / "best")
    assert sorted(lines_of(found.run.folder)) == sorted(lines_of(expected.run.folder))
    assert not list((found.run.folder / "scratch").rglob("epoch-*"))
    assert not (found.run.folder / "checkpoint" / "unscored").exists()


@pytest.mark.parametrize(
    ("every", "extra", "options"),
    [(1, {}, {}), (1, ALL_STATE, {}), (2, {}, {}), (1, {}, {"lost": (2, 4)}), (1, {"ema_decay": 0.8}, {"lost": (3,)})],
)
def test_late_scores_choose_the_same_weights_as_waiting(
    tiny_shards: Path, tmp_path: Path, every: int, extra: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    recipe, store = recipe_of(tiny_shards, validate_every=every, **extra), ShardFolder(tiny_shards)
    waiting = trained(recipe, store, LocalRun(tmp_path / "waiting"))
    run = BesideRun(tmp_path / "beside", store, late=SEEN_AGAIN, **options)
    beside = trained(recipe, store, run)
    assert_same_end(beside, waiting)
    assert scores_in(run) == scores_in(waiting.run)  # type: ignore[arg-type]
    assert run.made is not None
    assert run.made.closed
    assert run.made.submitted == Counter(range(every, EPOCHS, every))  # the workers score the last epoch themselves
    late = [(now["epoch"], then["epoch"]) for now, then in zip(run.reports[1:], run.reports, strict=False)]
    assert any(now < then for now, then in late), "no score came late"


def test_the_best_of_scores_out_of_order_is_the_first_of_the_highest(tiny_shards: Path, tmp_path: Path) -> None:
    """Epoch 3 is scored long before epoch 2, which is as good."""
    store = ShardFolder(tiny_shards)
    recipe = recipe_of(tiny_shards, epochs=5)
    scores = {1: 0.2, 2: 0.999, 3: 0.999, 4: 0.5}
    run = BesideRun(tmp_path, store, late=(0, 2, 0, 0, 0), scores=scores)
    trainer = trained(recipe, store, run)
    assert (trainer.progress.best_epoch, trainer.progress.best_score) == (2, 0.999)
    found = scores_in(run)
    assert [(epoch, score) for epoch, score, _ in found[:4]] == list(scores.items())
    assert [best for *_, best in found] == [0.2, 0.999, 0.999, 0.999, 0.999]
    best = read_progress(tmp_path / "best")
    assert (best.epoch, best.best_epoch, best.best_score, best.unscored) == (2, 2, 0.999, ())


def test_training_waits_for_validators_that_are_too_slow(tiny_shards: Path, tmp_path: Path) -> None:
    store = ShardFolder(tiny_shards)
    run = BesideRun(tmp_path, store, late=(NEVER,) * EPOCHS)
    trained(recipe_of(tiny_shards), store, run)
    assert [epoch for epoch, *_ in scores_in(run)] == list(range(1, EPOCHS + 1))
    assert max(run.unscored) == MOST_UNSCORED


@pytest.mark.parametrize("again", ["validators", "workers"])
@pytest.mark.parametrize("dies_at", [3, 7])
def test_a_killed_run_scores_again_what_was_not_scored(
    tiny_shards: Path, tmp_path: Path, dies_at: int, again: str
) -> None:
    """Killed while scores were to come; resumed with validators, or without."""
    recipe, store = recipe_of(tiny_shards, ema_decay=0.8), ShardFolder(tiny_shards)
    waiting = trained(recipe, store, LocalRun(tmp_path / "waiting"))
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        trained(recipe, store, BesideRun(folder, store, late=(NEVER,) * EPOCHS, dies_at=dies_at))
    kept = read_progress(folder / "checkpoint")
    assert kept.unscored
    assert {path.name for path in (folder / "checkpoint" / "unscored").iterdir()} == {
        f"epoch-{epoch}" for epoch in kept.unscored
    }
    run = BesideRun(folder, store, late=SEEN_AGAIN) if again == "validators" else LocalRun(folder)
    assert_same_end(trained(recipe, store, run), waiting)


@pytest.mark.parametrize("damaged", ["progress.json", "model.safetensors"])
def test_a_checkpoint_without_weights_that_are_to_be_scored_is_refused(
    tiny_shards: Path, tmp_path: Path, damaged: str
) -> None:
    recipe, store = recipe_of(tiny_shards), ShardFolder(tiny_shards)
    with pytest.raises(Killed):
        trained(recipe, store, BesideRun(tmp_path, store, late=(NEVER,) * EPOCHS, dies_at=3))
    checkpoint = tmp_path / "checkpoint"
    progress = read_progress(checkpoint)
    file = checkpoint / "unscored" / f"epoch-{progress.unscored[0]}" / damaged
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=rf"still to be scored cannot be read: .*{damaged}"):
        trained(recipe, store, LocalRun(tmp_path))
    for unscored in ((2, 1), (1, 1), (0,), (progress.epoch + 1,)):
        write_progress(checkpoint, replace(progress, unscored=unscored))
        with pytest.raises(InputError, match=rf"unscored is .*, expected ascending epochs from 1 to {progress.epoch}"):
            read_progress(checkpoint)


def test_a_frame_that_a_validator_cannot_read_stops_the_run(tiny_shards: Path, tmp_path: Path) -> None:
    class Failing(LateValidators):
        def result(self, epoch: int) -> HeldOutScores | None:
            raise InputError(f"epoch {epoch}: a frame cannot be decoded")

    class FailingRun(BesideRun):
        def validators(self, held_out: HeldOut) -> Validators | None:
            return Failing(held_out, self._store, (0,) * EPOCHS)

    store = ShardFolder(tiny_shards)
    with pytest.raises(InputError, match="epoch 1: a frame cannot be decoded"):
        trained(recipe_of(tiny_shards), store, FailingRun(tmp_path, store))


def _rank(rank: int, folder: str, shards: str, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    store = ShardFolder(Path(shards))
    for name in ("waiting", "beside"):
        own = Path(folder) / name / str(rank)
        run = LocalRun(own) if name == "waiting" else BesideRun(own, store, late=SEEN_AGAIN, lost=(3,))
        run.rank, run.world_size = rank, 2
        trainer = trained(recipe, store, run)
        (own / "end.json").write_text(json.dumps([scores_in(run), trainer.progress.best_epoch]))
    dist.destroy_process_group()


def test_two_workers_agree_on_late_scores_which_are_those_of_waiting(tiny_shards: Path, tmp_path: Path) -> None:
    """To the bit: a validator makes the batches that the two workers would make."""
    recipe = recipe_of(tiny_shards, epochs=5)
    recipe = recipe.model_copy(
        update={
            "batch": recipe.batch.model_copy(update={"identities": 2, "clips": 1}),
            "score": recipe.score.model_copy(update={"clips_per_batch": 3}),
        }
    )
    spawn(_rank, args=(str(tmp_path), str(tiny_shards), recipe), nprocs=2)  # type: ignore[no-untyped-call]
    ends = {json.dumps(json.loads(path.read_text())) for path in tmp_path.glob("*/*/end.json")}
    assert len(list(tmp_path.glob("*/*/end.json"))) == 4
    assert len(ends) == 1
    assert files_in(tmp_path / "waiting" / "0" / "best") == files_in(tmp_path / "beside" / "0" / "best")
