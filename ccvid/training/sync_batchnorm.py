"""BatchNorm statistics over all ranks' clips, also on CPUs, which PyTorch's SyncBatchNorm does not support."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ccvid.training.distributed import sum_over_ranks


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm in the module by one that uses the statistics of all ranks' batches.

    If all ranks have the same number of clips, a step of W ranks with P identities each computes the same as one rank
    with W · P identities, except for the order of sums.
    """
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise_batchnorm(child, device)
        elif device.type == "cuda":
            module.add_module(name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        else:
            module.add_module(name, _SyncBatchNorm.of(child))


class _SyncBatchNorm(_BatchNorm):
    """BatchNorm over dimensions 0, 2, … of (B, C, …) of all ranks; in eval mode a plain BatchNorm."""

    @classmethod
    def of(cls, norm: _BatchNorm) -> _SyncBatchNorm:
        """A layer that shares the parameters and buffers of ``norm``."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        return new.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2, f"{input.shape=}"

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        own = input.float() if input.dtype == torch.bfloat16 else input
        dims = [0, *range(2, own.dim())]
        count = own.numel() // own.shape[1] * dist.get_world_size()
        # Two passes: the difference of two sums of squares would lose precision.
        mean_C = sum_over_ranks(own.sum(dims)) / count
        shape = (1, -1, *[1] * (own.dim() - 2))
        centred = own - mean_C.view(shape)
        variance_C = sum_over_ranks(centred.square().sum(dims)) / count
        self._track(mean_C.detach(), variance_C.detach(), count)
        scale_C = (variance_C + self.eps).rsqrt()
        if self.affine:
            scale_C = scale_C * self.weight
        normalised = centred * scale_C.view(shape)
        if self.affine:
            normalised = normalised + self.bias.view(shape)
        return normalised.to(input.dtype)

    def _track(self, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(variance_C * (count / max(1, count - 1)), momentum)
