"""Values and gradients of the released losses (``reference/losses.npz``), and comparison with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

REFERENCE = dict(np.load(Path(__file__).parent / "reference" / "losses.npz"))


def tensor(name: str) -> Tensor:
    """A reference array; floating-point ones require a gradient."""
    values = torch.from_numpy(REFERENCE[name].copy())
    return values.requires_grad_(values.is_floating_point())


def check_equal(loss: Callable[[Tensor], Tensor], source: str, name: str) -> None:
    """Compare value and gradient in ``source`` with the reference's ``name``, in float64."""
    given = tensor(source)
    value = loss(given)
    (gradient,) = torch.autograd.grad(value, given)
    np.testing.assert_allclose(value.item(), REFERENCE[f"{name}.loss"], rtol=1e-9)
    np.testing.assert_allclose(gradient, REFERENCE[f"{name}.grad"], rtol=1e-9, atol=1e-12)
