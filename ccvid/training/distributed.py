"""The few things that ranks exchange; each does nothing where there is one process."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccvid.training.stopping import StoppedTogetherError

Item = TypeVar("Item")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def wrap(module: ModuleT, device: torch.device, world_size: int) -> ModuleT | DistributedDataParallel:
    """Average the module's gradients over the ranks; the module itself for one rank."""
    if world_size == 1:
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def broadcast_state(module: nn.Module, world_size: int) -> None:
    """Give every rank rank 0's parameters and buffers: running statistics are each rank's own."""
    if world_size > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


class Agreement:
    """Lets all ranks stop at one place when one of them cannot go on, or was asked to end the run.

    It has a group of its own on the hosts (gloo), so that a GPU's queue is never waited for.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._group: Any = dist.new_group(backend="gloo") if world_size > 1 else None

    def stop_if_any(self, problem: str | None, *, end: bool = False) -> bool:
        """Tell the others of this rank's problem and hear of theirs; every rank calls it equally often.

        Returns:
            Whether any rank was asked to ``end`` the run.

        Raises:
            StoppedTogetherError: with the first rank's problem, where any has one.
        """
        problems = [problem]
        if self._group is not None:
            told = torch.tensor([problem is not None, end], dtype=torch.int32)
            dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group)
            any_problem, end = map(bool, told.tolist())
            if not any_problem:
                return end
            problems = [None] * self._world_size
            dist.all_gather_object(problems, problem, group=self._group)
        for found in problems:
            if found is not None:
                raise StoppedTogetherError(found)
        return end


def gather(item: Item, world_size: int) -> list[Item]:
    """Every rank's item, by rank, on all ranks."""
    if world_size == 1:
        return [item]
    items: list[Item | None] = [None] * world_size
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def gather_batch(own_B: Tensor, world_size: int) -> Tensor:
    """The batches of all ranks, by rank: (B, …) -> (W * B, …), as many on each rank.

    Its gradient is the true one, the sum of what all ranks want of a slice: where each rank has the same loss of the
    whole batch, DDP's mean over the ranks gives what one process would.
    """
    if world_size == 1:
        return own_B
    whole: Tensor = _GatherBatch.apply(own_B, world_size)
    return whole


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own_B: Tensor, world_size: int) -> Tensor:
        parts = [torch.empty_like(own_B) for _ in range(world_size)]
        dist.all_gather(parts, own_B.contiguous())
        ctx.size = len(own_B)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.size
        return gradient[first : first + ctx.size], None


def sum_over_ranks(own: Tensor) -> Tensor:
    """The sum of all ranks' tensors; its gradient is the true one, the sum of what all ranks want of it."""
    total: Tensor = _SumOverRanks.apply(own)
    return total


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverRanks.apply(gradient)  # type: ignore[no-any-return]


def gather_rows(own: Tensor, total: int, world_size: int) -> Tensor:
    """Undo a split by ``rows[rank::world_size]``: (total, …) rows in their first order, on the CPU."""
    parts = gather(own.cpu(), world_size)
    whole = own.new_empty((total, *own.shape[1:]), device="cpu")
    for rank, part in enumerate(parts):
        whole[rank::world_size] = part
    return whole


def agree(value: float, device: torch.device, world_size: int) -> float:
    """Rank 0's value on all ranks."""
    if world_size == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return float(shared)
