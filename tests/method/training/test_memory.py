"""The memory of clothes means: the released values over three calls, repeated classes, and resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from ccvid.losses.clothes_adversarial import clothes_adversarial_loss
from ccvid.model import ClothesMemory
from ccvid.training.clothes_heads import ClothesMemoryHead
from tests.method.loss_reference import REFERENCE, check_equal, tensor

OWNER_N = torch.tensor([0, 0, 1, 1, 2])


def test_three_calls_equal_the_released_ones() -> None:
    memory = ClothesMemory(32, 15, momentum=0.2).double()
    owner_N = tensor("owner")
    head = ClothesMemoryHead(memory, owner_N)
    for step in range(3):
        clothes = tensor(f"memory.step{step}.clothes")

        def loss(feature_BD: Tensor, clothes_B: Tensor = clothes) -> Tensor:
            head.learn(feature_BD, clothes_B, train=True)
            return head.adversarial_loss(feature_BD, owner_N[clothes_B], clothes_B)

        check_equal(loss, f"memory.step{step}.features", f"memory.step{step}")
        np.testing.assert_allclose(memory.weight, REFERENCE[f"memory.step{step}.bank"], rtol=1e-9)


def full_memory(momentum: float = 0.2) -> ClothesMemory:
    memory = ClothesMemory(3, 5, momentum=momentum).double()
    memory.update(torch.arange(1.0, 16.0, dtype=torch.float64).reshape(5, 3), torch.arange(5))
    return memory


def test_a_full_memory_averages_the_means_of_repeated_classes() -> None:
    memory = full_memory()
    before = memory.weight.clone()
    feature = torch.tensor([[1.0, 2, 3], [5.0, 6, 7], [0.0, 1, 0]], dtype=torch.float64)
    memory.update(feature, torch.tensor([1, 1, 4]))
    torch.testing.assert_close(memory.weight[1], 0.2 * before[1] + 0.8 * torch.tensor([3.0, 4, 5]).double())
    torch.testing.assert_close(memory.weight[4], 0.2 * before[4] + 0.8 * feature[2])
    assert torch.equal(memory.weight[[0, 2, 3]], before[[0, 2, 3]])


def test_means_replace_each_other_until_all_classes_are_known() -> None:
    memory = ClothesMemory(2, 3, momentum=0.5)
    memory.update(torch.tensor([[1.0, 0], [3.0, 0]]), torch.tensor([0, 0]))
    assert memory.weight.tolist() == [[2, 0], [0, 0], [0, 0]]
    assert memory.known.tolist() == [True, False, False]
    memory.update(torch.tensor([[4.0, 4], [1.0, 1], [5.0, 5]]), torch.tensor([0, 1, 2]))
    assert memory.weight.tolist() == [[4, 4], [1, 1], [5, 5]]
    memory.update(torch.tensor([[0.0, 0]]), torch.tensor([0]))
    assert memory.weight.tolist() == [[2, 2], [1, 1], [5, 5]]


def test_classes_not_seen_yet_play_no_part() -> None:
    feature = torch.randn(3, 4, dtype=torch.float64)
    clothes = torch.tensor([0, 2, 3])
    head = ClothesMemoryHead(ClothesMemory(4, 5, momentum=0).double(), OWNER_N)
    head.learn(feature, clothes, train=False)
    loss = head.adversarial_loss(feature, OWNER_N[clothes], clothes)
    cosine = head.memory.held_cosine(feature)[:, [0, 2, 3]]
    same = torch.tensor([[True, False, False], [False, True, True], [False, True, True]])
    torch.testing.assert_close(loss, clothes_adversarial_loss(cosine, torch.arange(3), same))


def test_the_very_first_person_alone_gives_zero_and_a_finite_gradient() -> None:
    feature = torch.randn(2, 4, requires_grad=True)
    clothes = torch.tensor([0, 1])
    head = ClothesMemoryHead(ClothesMemory(4, 5, momentum=0.2), OWNER_N)
    head.learn(feature, clothes, train=True)
    loss = head.adversarial_loss(feature, OWNER_N[clothes], clothes)
    (gradient,) = torch.autograd.grad(loss, feature)
    assert loss.item() == 0
    assert gradient.abs().max() == 0


def test_only_the_features_get_a_gradient() -> None:
    memory = full_memory()
    feature = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    clothes = torch.tensor([1, 4])
    head = ClothesMemoryHead(memory, OWNER_N)
    head.learn(feature, clothes, train=True)
    (gradient,) = torch.autograd.grad(head.adversarial_loss(feature, OWNER_N[clothes], clothes), feature)
    assert gradient.abs().max() > 0
    assert not memory.weight.requires_grad
    assert list(memory.state_dict()) == ["weight"]
    assert list(memory.parameters()) == []


def shared_batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    clothes = ([0, 0, 1, 2, 0, 3, 4, 1], [4, 4, 0, 0, 4, 0, 2, 2])
    return [(torch.randn(8, 16, generator=generator), torch.tensor(batch)) for batch in clothes]


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    head = ClothesMemoryHead(ClothesMemory(16, 5, momentum=0.2), OWNER_N, world_size=2)
    for feature, clothes in shared_batches():
        head.learn(feature[4 * rank : 4 * rank + 4], clothes[4 * rank : 4 * rank + 4], train=True)
    torch.save(head.memory.state_dict(), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_hold_the_bank_of_one_process_to_the_bit(tmp_path: Path) -> None:
    spawn(_rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    memory = ClothesMemory(16, 5, momentum=0.2)
    for feature, clothes in shared_batches():
        memory.update(feature, clothes)
    for rank in range(2):
        state = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert torch.equal(state["weight"], memory.weight)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_is_the_share_that_stays(momentum: float) -> None:
    memory = full_memory(momentum)
    before = memory.weight[0].clone()
    feature = torch.tensor([[7.0, 8, 9]], dtype=torch.float64)
    memory.update(feature, torch.tensor([0]))
    torch.testing.assert_close(memory.weight[0], momentum * before + (1 - momentum) * feature[0])
