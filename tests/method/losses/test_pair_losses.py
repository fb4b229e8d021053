"""Pair losses: naive loops over all pairs, edge cases, two ranks."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from ccvid.config import MethodOptions
from ccvid.losses.pairs import contrastive_loss, pair_circle_loss, pair_cosface_loss, triplet_loss
from ccvid.training.build import pair_term_of
from ccvid.training.cal_update import BatchLoss, PairTerm
from ccvid.training.distributed import gather_batch
from tests.method.loss_reference import tensor

LOSSES: dict[str, BatchLoss] = {
    "triplet": partial(triplet_loss, margin=0.3),
    "contrastive": partial(contrastive_loss, scale=16.0),
    "cosface": partial(pair_cosface_loss, scale=16.0, margin=0.3),
    "circle": partial(pair_circle_loss, scale=16.0, margin=0.3),
}


def naive(name: str, feature_BD: Tensor, persons: list[int]) -> float:
    """The formulas of the reference, one pair at a time."""
    s, m = 16.0, 0.3
    cosine = (normalize(feature_BD) @ normalize(feature_BD).T).tolist()
    losses: list[float] = []
    for i, person in enumerate(persons):
        positive = [cosine[i][j] for j, other in enumerate(persons) if other == person and j != i]
        negative = [cosine[i][j] for j, other in enumerate(persons) if other != person]
        if name == "triplet":
            losses.append(max(0, m + 1 - min(positive) - (1 - max(negative))))
        elif name == "contrastive":
            below = sum(math.exp(s * c) for c in negative)
            losses.append(sum(-math.log(math.exp(s * c) / (math.exp(s * c) + below)) for c in positive) / len(positive))
        else:
            if name == "cosface":
                near, far = [s * (c + m) for c in negative], [-s * c for c in positive]
            else:
                near = [s * max(0, c + m) * (c - m) for c in negative]
                far = [s * max(0, 1 + m - c) * (1 - m - c) for c in positive]
            losses.append(math.log(1 + sum(map(math.exp, near)) * sum(map(math.exp, far))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_a_naive_loop(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    persons = [0, 1, 1, 0, 2, 2, 2, 1, 2]  # different numbers per person, not in order
    loss = LOSSES[name](feature, torch.tensor(persons))
    assert loss.item() == pytest.approx(naive(name, feature, persons), rel=1e-8)


@pytest.mark.parametrize("persons", [[0, 0, 0, 0], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_negatives_or_positives_is_zero(name: str, persons: list[int]) -> None:
    feature = torch.randn(4, 6, requires_grad=True)
    loss = LOSSES[name](feature, torch.tensor(persons))
    (gradient,) = torch.autograd.grad(loss, feature)
    assert loss.item() == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_sample_without_positives_is_a_negative_of_the_others(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    persons = torch.tensor([0, 0, 1, 1, 2])
    feature[4] = feature[0]
    feature.requires_grad_()
    loss = LOSSES[name](feature, persons)
    (gradient,) = torch.autograd.grad(loss, feature)
    assert gradient.isfinite().all()
    assert gradient[4].abs().max() > 0
    alone = LOSSES[name](feature[:4], persons[:4])
    assert loss * (5 if name in ("cosface", "circle") else 4) > alone * 4  # the stranger is near the first of them


@pytest.mark.parametrize("name", ["contrastive", "cosface", "circle"])
def test_large_scales_do_not_overflow(name: str) -> None:
    method = MethodOptions.model_validate({"pair_loss": name, "pair_scale": 1000})
    term = pair_term_of(method, 1)
    assert term is not None
    feature = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = term(feature, torch.tensor([0, 0, 1, 1]))
    (gradient,) = torch.autograd.grad(loss, feature)
    assert 100 < loss < 10_000
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_recipe_names_the_loss(name: str) -> None:
    term = pair_term_of(MethodOptions.model_validate({"pair_loss": name, "pair_weight": 0.5}), 1)
    assert term is not None
    assert term.weight == 0.5
    feature, persons = tensor("features").detach(), tensor("pids")
    torch.testing.assert_close(term(feature, persons), LOSSES[name](feature, persons))
    assert pair_term_of(MethodOptions(), 1) is None


def small_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 6)).double()


def small_batch() -> tuple[Tensor, Tensor]:
    """Eight samples; each half lacks positives that the other half has."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, 7, dtype=torch.float64, generator=generator), torch.tensor([0, 1, 1, 2, 0, 0, 2, 1])


def gradients_of(network: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    inputs, persons = small_batch()
    mine = slice(4 * rank, 4 * rank + 4)
    found: dict[str, object] = {}
    for name, loss in LOSSES.items():
        network = DistributedDataParallel(small_network())
        value = PairTerm(loss=loss, world_size=2)(network(inputs[mine]), persons[mine])
        torch.autograd.backward(value)
        found[name] = {"loss": value.detach(), **gradients_of(network)}
    own = torch.arange(6.0).reshape(2, 3).requires_grad_()
    weight = torch.arange(12.0).reshape(4, 3) + 100 * rank  # each rank has a different loss
    torch.autograd.backward((gather_batch(own, 2) * weight).sum())
    found["gather"] = own.grad
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    spawn(_rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    inputs, persons = small_batch()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, loss in LOSSES.items():
            network = small_network()
            value = loss(network(inputs), persons)
            torch.autograd.backward(value)
            expected = {"loss": value.detach(), **gradients_of(network)}
            assert found[name].keys() == expected.keys()
            for part, tensor_there in expected.items():
                torch.testing.assert_close(found[name][part], tensor_there, rtol=1e-9, atol=1e-12, msg=f"{name} {part}")
        both = torch.arange(12.0).reshape(4, 3) * 2 + 100
        torch.testing.assert_close(found["gather"], both[2 * rank : 2 * rank + 2])
