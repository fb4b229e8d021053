"""One worker and several with the same global batch; a changing number of workers; a run asked to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.stopping import EndedOnRequestError
from ccvid.training.sync_batchnorm import synchronise_batchnorm
from ccvid.training.trainer import Trainer
from data_tools.shards import ShardFolder


def recipe_of(shards: Path, **sections: dict[str, Any]) -> Recipe:
    values: dict[str, dict[str, Any]] = {
        "data": {"kind": "footage", "shards": str(shards)},
        "clip": {"length": 2, "stride": 2, "piece": 0},
        "batch": {"identities": 4, "clips": 2},
        "model": {"backbone": "c2d_resnet18_slim", "weights": "random", "height": 32, "width": 16},
        "method": {"start_epoch": 1},
        "train": {"epochs": 2, "log_every_seconds": 0.001},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return Recipe.model_validate(values)


def train(recipe: Recipe, folder: Path, rank: int = 0, world_size: int = 1) -> Trainer:
    run = LocalRun(folder)
    run.rank, run.world_size = rank, world_size
    trainer = Trainer(recipe, ShardFolder(Path(str(recipe.data.shards))), run)
    trainer.fit()
    return trainer


def steps_of(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return [step for step in map(json.loads, lines) if "identity_loss" in step]


def join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)


def norms_and_input() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(2), nn.BatchNorm1d(5)).double()
    for norm in (module[1], module[4]):
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        nn.init.normal_(norm.weight, 1)
        nn.init.normal_(norm.bias)
    return module, torch.randn(6, 3, 7, 5, dtype=torch.float64) + 3


def state_after_two_steps(module: nn.Module, input_B: torch.Tensor, ranks: int) -> dict[str, torch.Tensor]:
    """State and gradients; the loss is not linear in the output, and a mean over the batch."""
    for _ in range(2):
        loss = module(input_B).sin().square().mean() / ranks
        loss.backward()
    gradients = {f"{name}.grad": one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}
    if ranks > 1:
        for gradient in gradients.values():
            dist.all_reduce(gradient)
    module.eval()
    return {**module.state_dict(), **gradients, "eval": module(input_B[:1]).detach()}


def norm_rank(rank: int, folder: str) -> None:
    join(rank, folder)
    module, input_B = norms_and_input()
    synchronise_batchnorm(module, torch.device("cpu"))
    own_B = input_B[:3] if rank == 0 else input_B[3:]
    state = state_after_two_steps(module, own_B, 2)
    torch.save(state, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_synchronised_batchnorm_is_batchnorm_of_the_whole_batch(tmp_path: Path) -> None:
    """Outputs, gradients and running statistics of two ranks, on a CPU, to 1e-12."""
    spawn(norm_rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    expected = state_after_two_steps(*norms_and_input(), 1)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name in found.keys() - ({"eval"} if rank else set()):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12, msg=name)


def train_rank(rank: int, folder: str, recipe: Recipe) -> None:
    join(rank, folder)
    trainer = train(recipe, Path(folder) / f"rank{rank}", rank, 2)
    torch.save(trainer.model.state_dict(), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def distance_apart(
    found: dict[str, torch.Tensor], whole: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> float:
    """Distance between the ends of two trainings, relative to the distance that one of them moved."""
    floats = [name for name, tensor in start.items() if tensor.is_floating_point()]
    apart, way = (
        torch.cat([(one[name] - two[name]).double().flatten() for name in floats]).norm().item()
        for one, two in ((found, whole), (whole, start))
    )
    return float(apart / way)


# Adam divides by the gradient's size, so that almost-zero gradients decide as much as the rest.
@pytest.mark.parametrize(("optim", "tolerance"), [("sgd", 1e-3), ("adam", 3e-2)])
def test_two_workers_with_half_the_identities_each_train_as_one(
    tiny_shards: Path, tmp_path: Path, optim: str, tolerance: float
) -> None:
    """With synchronised BatchNorm; each worker's own statistics lead elsewhere."""
    alone = recipe_of(tiny_shards, optim={"name": optim})
    start = Trainer(alone, ShardFolder(tiny_shards), LocalRun(tmp_path / "start")).model.state_dict()
    whole = train(alone, tmp_path / "alone").model.state_dict()
    apart = {}
    for synchronised in (True, False):
        folder = tmp_path / f"synchronised-{synchronised}"
        folder.mkdir()
        halves = recipe_of(
            tiny_shards, optim={"name": optim}, batch={"identities": 2}, train={"sync_batchnorm": synchronised}
        )
        spawn(train_rank, args=(str(folder), halves), nprocs=2)  # type: ignore[no-untyped-call]
        first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first if "running" not in name)
        apart[synchronised] = distance_apart(first, whole, start)
    print(optim, apart)
    assert apart[True] < tolerance < 1e-1 < apart[False]


class EndingRun(LocalRun):
    """Is asked to end before its n-th step."""

    def __init__(self, folder: Path, steps: int) -> None:
        super().__init__(folder)
        self.steps_left = steps

    def stop_requested(self) -> bool:
        self.steps_left -= 1
        return self.steps_left < 0


def end_early(recipe: Recipe, folder: Path, steps: int, rank: int = 0, world_size: int = 1) -> None:
    run = EndingRun(folder, steps if rank == 0 else 10_000)
    run.rank, run.world_size = rank, world_size
    with pytest.raises(EndedOnRequestError, match="with a checkpoint"):
        Trainer(recipe, ShardFolder(Path(str(recipe.data.shards))), run).fit()


def test_a_run_that_was_asked_to_end_goes_on_to_the_same_weights(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_shards, batch={"identities": 2}, train={"epochs": 2})
    whole = train(recipe, tmp_path / "whole")
    per_epoch = whole.sampler.steps_per_epoch
    for steps in (1, per_epoch, per_epoch + 2):
        folder = tmp_path / str(steps)
        end_early(recipe, folder, steps)
        assert len(steps_of(folder)) in (steps, steps - 1)  # the end of an epoch is also a place to stop
        resumed = train(recipe, folder)
        expected = whole.model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())
        assert (folder / "steps.jsonl").read_text() == (tmp_path / "whole" / "steps.jsonl").read_text()


def end_rank(rank: int, folder: str, recipe: Recipe, steps: int) -> None:
    join(rank, folder)
    end_early(recipe, Path(folder) / f"rank{rank}", steps, rank, 2)
    dist.destroy_process_group()


def test_a_run_goes_on_with_fewer_workers(tiny_shards: Path, tmp_path: Path) -> None:
    """From two to one within an epoch: the same share of it is left, each update is logged once, the rate is halved."""
    optim = {"schedule": "multistep", "milestones": [100]}
    recipe = recipe_of(
        tiny_shards, batch={"identities": 2, "clips": 1}, train={"epochs": 3}, compute={"workers": [1, 2]}, optim=optim
    )
    folder, store = tmp_path / "rank0", ShardFolder(tiny_shards)
    alone, steps_of_two = Trainer(recipe, store, LocalRun(tmp_path / "alone")), 8
    per_epoch, pair_per_epoch = alone.sampler.steps_per_epoch, alone.sampler.steps_per_epoch // 2
    assert pair_per_epoch < steps_of_two < 2 * pair_per_epoch
    spawn(end_rank, args=(str(tmp_path), recipe, steps_of_two), nprocs=2)  # type: ignore[no-untyped-call]
    done = len(steps_of(folder))
    train(recipe, folder)
    steps = steps_of(folder)
    assert [step["step"] for step in steps] == list(range(len(steps)))
    left_of_epoch = per_epoch - (done - pair_per_epoch) * per_epoch // pair_per_epoch
    assert len(steps) == done + left_of_epoch + per_epoch
    rates = [step["learning_rate"] for step in steps]
    assert rates[:done] == pytest.approx([recipe.optim.learning_rate] * done)
    assert rates[done:] == pytest.approx([recipe.optim.learning_rate / 2] * (len(steps) - done))
