"""Weights and inputs of the reference vectors: drawn from their names, so that they need no file."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

REFERENCE = Path(__file__).parent / "reference"


def reference_tensor(name: str, shape: Sequence[int]) -> Tensor:
    """The float64 tensor that the reference assigns to the state-dict name `name`."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    x = _normal(f"11:{name}", shape)
    if name.endswith("running_var"):
        x = 1 + 0.2 * np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif len(shape) >= 2:
        x = x * math.sqrt(2 / math.prod(shape[1:]))
        if any(part in name for part in ("temporal", "conv3", "W.0")):
            x = x * 0.5
    elif name.endswith("bias"):
        x = 0.1 * x
    else:
        x = 1 + 0.1 * x
    return torch.from_numpy(x)


def fill(module: nn.Module, *, prefix: str = "") -> None:
    """Set every parameter and buffer of a float64 module to its reference value."""
    module.load_state_dict(
        {name: reference_tensor(prefix + name, value.shape) for name, value in module.state_dict().items()}
    )


def reference_input(tag: str, shape: Sequence[int]) -> Tensor:
    """A float64 input; `shape` is the reference's (B, C, T, H, W), the result ours: (B, T, C, H, W)."""
    return torch.from_numpy(_normal(f"11:input:{tag}", shape)).transpose(1, 2)


def _normal(key: str, shape: Sequence[int]) -> npt.NDArray[np.float64]:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return np.asarray(generator.standard_normal(tuple(shape)))
