"""Recomputing in the backward pass, which saves the memory of activations and costs the forward pass again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(compute: Callable[..., Any], *inputs: Any, network: nn.Module) -> Any:
    """`compute(*inputs)`, of which only the inputs are kept for the backward pass.

    Random numbers are the same both times, and BatchNorm's running statistics are updated only once. Results and
    gradients are those of an ordinary pass, on a CPU to the bit.

    Args:
        compute: A module, or a function that runs through `network`.
        network: What has the BatchNorm layers.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:  # torch.compile knows no contexts
        return checkpoint(compute, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged_statistics(norms)

    return checkpoint(compute, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _unchanged_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """A momentum of 0 keeps means and variances as they are; batches are counted on copies."""
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
