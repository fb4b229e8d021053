"""Memory for the frames of batches."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class BatchMemory:
    """Allocates the frames of each batch, reusing a block once no tensor shares it.

    Fresh memory adds a tenth to the decoding time, because the system zeroes its pages. (torch itself pools page-locked
    memory.)
    """

    def __init__(self, *, pin_memory: bool = False) -> None:
        self._pin_memory = pin_memory
        self._blocks: list[tuple[NDArray[np.uint8], weakref.ref[NDArray[np.uint8]]]] = []

    def empty_frames(self, clips: int, length: int, image_size: tuple[int, int]) -> Tensor:
        """uint8 (B, T, 3, H, W), channels last in memory, with undefined content; ``image_size`` is (H, W)."""
        shape = (clips, length, *image_size, 3)
        if self._pin_memory:
            frames_BTHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            frames_BTHWC = torch.from_numpy(self._free_block(shape))
        return frames_BTHWC.permute(0, 1, 4, 2, 3)

    def _free_block(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A view of a block whose last view is gone; tensors keep the view that they were made from."""
        free = (n for n, (block, view) in enumerate(self._blocks) if view() is None and block.shape == shape)
        number = next(free, None)
        block = np.empty(shape, np.uint8) if number is None else self._blocks.pop(number)[0]
        view = block.view()
        self._blocks.append((block, weakref.ref(view)))
        return view
