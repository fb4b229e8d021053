"""The bare float32 product that searches and metrics are compared with."""

from __future__ import annotations

import time
import warnings

import numpy as np
import numpy.typing as npt
import torch

QUERIES, ENTRIES = 1024, 8192


def bare_product(query_QD: npt.NDArray[np.float32], gallery_GD: npt.NDArray[np.float32]) -> float:
    """Seconds of the product of both sides in blocks that suit the processor, written over one another."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # a memory map
    values = torch.empty(QUERIES * ENTRIES)
    started = time.perf_counter()
    for start in range(0, len(gallery_GD), ENTRIES):
        part_DG = torch.from_numpy(np.asarray(gallery_GD[start : start + ENTRIES])).T
        for first in range(0, len(query_QD), QUERIES):
            some_QD = torch.from_numpy(query_QD[first : first + QUERIES])
            product = values[: len(some_QD) * part_DG.shape[1]].view(len(some_QD), -1)
            torch.mm(some_QD, part_DG, out=product)
    return time.perf_counter() - started
