"""Communication between ranks; with one process, nothing is exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccvid.training.stopping import StoppedTogetherError

Item = TypeVar("Item")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def wrap(
    module: ModuleT, device: torch.device, world_size: int, *, partly_used: bool = False
) -> ModuleT | DistributedDataParallel:
    """Wrap the module in DDP, which averages gradients over the ranks; with one rank, return the module itself.

    Args:
        partly_used: Whether some steps use only some of the parameters; the others then get no gradient.
    """
    if world_size == 1:
        return module
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=partly_used)


def broadcast_state(module: nn.Module, world_size: int) -> None:
    """Copy rank 0's parameters and buffers to every rank: BatchNorm's running statistics differ between ranks."""
    if world_size > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


class Agreement:
    """Stops all ranks at the same step when one of them cannot continue or is asked to end the run.

    It uses its own gloo process group, on the CPU, so that it never waits for a GPU's queue.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._group: Any = dist.new_group(backend="gloo") if world_size > 1 else None

    def stop_if_any(self, problem: str | None, *, end: bool = False) -> bool:
        """Exchange problems with the other ranks; every rank must call it equally often.

        Returns:
            Whether any rank was asked to ``end`` the run.

        Raises:
            StoppedTogetherError: some rank has a problem; the message is that of the lowest such rank.
        """
        problems = [problem]
        if self._group is not None:
            flags = torch.tensor([problem is not None, end], dtype=torch.int32)
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
            any_problem, end = map(bool, flags.tolist())
            if not any_problem:
                return end
            problems = [None] * self._world_size
            dist.all_gather_object(problems, problem, group=self._group)
        for found in problems:
            if found is not None:
                raise StoppedTogetherError(found)
        return end


def gather(item: Item, world_size: int) -> list[Item]:
    """Every rank's item, in rank order, on all ranks."""
    if world_size == 1:
        return [item]
    items: list[Item | None] = [None] * world_size
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def gather_batch(own_B: Tensor, world_size: int) -> Tensor:
    """Concatenate the batches of all ranks, in rank order: (B, …) -> (W * B, …), with the same B on every rank.

    The gradient of a slice is its sum over all ranks. If each rank computes the same loss of the whole batch, DDP's
    mean over the ranks then equals the gradient of one process.
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
    """The sum of all ranks' tensors; its gradient is summed over all ranks as well."""
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


def gather_rows(own: Tensor, world_size: int) -> Tensor:
    """Undo a split by ``rows[rank::world_size]``: all rows in their original order, on the CPU."""
    return interleave(gather(own.cpu(), world_size))


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Put rows that were dealt out in turn, ``rows[number::len(parts)]``, back in their order."""
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole


def agree(value: float, device: torch.device, world_size: int) -> float:
    """Rank 0's value on all ranks."""
    if world_size == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return float(shared)
