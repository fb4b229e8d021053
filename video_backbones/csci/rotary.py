"""Rotary positions (RoPE) of the patches: a table of sines and cosines in the precision of the network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, nn

_BASE = 10000.0


class RotaryTable(nn.Module):
    """Sines and cosines for tokens [first, patches, class]; the head tokens at both ends are not rotated.

    The table is made in float64 and rounded once to the module's dtype, but never below float32: `double()` gives
    float64's own table. It is no part of the state.

    Args:
        grid: Rows and columns of patches.
        head_size: E, a multiple of 4.
        reference: The grid of the pre-training, to which rows and columns are scaled; None: this one.
    """

    table_NF: Tensor

    def __init__(self, grid: tuple[int, int], head_size: int, reference: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.grid, self.head_size, self.reference = grid, head_size, reference or grid
        self.register_buffer("table_NF", self._made(torch.device("cpu"), torch.float32), persistent=False)

    def forward(self, x_BHNE: Tensor) -> Tensor:
        """Rotate queries or keys of [first, patches, class] or of [patches, class]."""
        rotated: Tensor = apply_rot_embed_cat(x_BHNE, self.table_NF[-x_BHNE.shape[2] :])
        return rotated.type_as(x_BHNE)

    def _made(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        patches_PF = rotary_table(self.grid, self.head_size, self.reference)
        unrotated = torch.cat((torch.zeros(1, self.head_size), torch.ones(1, self.head_size)), dim=1).double()
        return torch.cat((unrotated, patches_PF, unrotated)).to(device, torch.promote_types(dtype, torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        dtype = self.table_NF.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.table_NF.dtype != dtype and not self.table_NF.is_meta:
            self.table_NF = self._made(self.table_NF.device, self.table_NF.dtype)
        return self


def rotary_table(grid: tuple[int, int], head_size: int, reference: tuple[int, int]) -> Tensor:
    """(rows * columns, 2 * head_size) float64: sines, then cosines, of each patch, row by row.

    Of the head_size / 2 angles, half belong to the row and half to the column; each stands twice. Sines are libm's,
    one at a time, for a vectorised sine depends on the processor and on the place in the array.
    """
    quarter = head_size // 4
    frequencies = [_BASE ** (-number / quarter) for number in range(quarter)]
    angles = [
        [place * extent / count * frequency for frequency in frequencies for _ in range(2)]
        for count, extent in zip(grid, reference, strict=True)
        for place in range(count)
    ]
    rows, columns = angles[: grid[0]], angles[grid[0] :]
    patches = [row + column for row in rows for column in columns]
    return torch.tensor([[*map(math.sin, angle), *map(math.cos, angle)] for angle in patches], dtype=torch.float64)
