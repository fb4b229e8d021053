"""What losses on vectors share: enough precision, and directions that a vector of zeros does not break."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """The same values in at least float32, for losses of what autocast computed in less."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def directions(vector_BD: Tensor) -> Tensor:
    """Each row divided by its length, (B, D), in at least float32.

    A row of zeros stays one and passes no gradient back: it has no direction to correct.
    """
    vector_BD = precise(vector_BD)
    length_B1 = torch.linalg.vector_norm(vector_BD, dim=1, keepdim=True)
    direction_BD: Tensor = vector_BD / length_B1.masked_fill(length_B1 == 0, torch.inf)
    return direction_BD
