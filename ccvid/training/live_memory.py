"""Memory of tensors that live, followed operation by operation; and operations on a CPU that save what a GPU's do."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors made within it, while they live. Views of one storage count once.

    Attributes:
        live: Bytes now.
        peak: Most bytes since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, which may have been made before."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def gpu_precision() -> Iterator[None]:
    """Under autocast, operations that a CPU computes in bfloat16 and a GPU in float32 are computed in float32."""
    functional = nn.functional
    places = ((functional, "layer_norm"), (functional, "group_norm"), (functional, "softmax"), (Tensor, "softmax"))
    with ExitStack() as patches:
        for place, name in places:
            patches.enter_context(patch.object(place, name, _widened(getattr(place, name))))
        yield


def _widened(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def in_float32(values: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return compute(values.float() if torch.is_autocast_enabled("cpu") else values, *arguments, **named)

    return in_float32


class ZeroScalars(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers read from tensors without data are 0, such as timm's rates of random depth."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return 0.0 if func is torch.ops.aten._local_scalar_dense.default else func(*args, **(kwargs or {}))


def bytes_of(tensors: Iterable[Tensor | None]) -> int:
    """Of their storages, each counted once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors if tensor is not None}
    return sum(storage.nbytes() for storage in storages.values())


def held_by(module: nn.Module) -> Iterator[Tensor]:
    """Its parameters and buffers."""
    yield from module.parameters()
    yield from module.buffers()
