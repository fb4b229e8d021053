"""The exact top-20 search against one float32 product of the same sizes, in blocks on the card."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ccvid.retrieval.gallery.search import search
from tests.benchmarks.gpu.device import plain_float32, seconds_of
from tests.benchmarks.gpu.task import Task

K, BLOCK = 20, 65_536
OF_PRODUCT = 0.7


def run(task: Task) -> None:
    queries, entries, dimensions = task.sizes.search
    query_QD = random_directions(queries, dimensions, 1, task.device)
    gallery_GD = random_directions(entries, dimensions, 0, task.device)
    with plain_float32():
        product = product_seconds(query_QD, gallery_GD, task.device)
        seconds = seconds_of(lambda: search(query_QD, gallery_GD, K, device=task.device), 1, task.device)
    size = f"{queries:,} x {entries:,} x {dimensions}"
    flops = 2.0 * queries * entries * dimensions
    task.results.fact(f"float32 product of {size}: seconds", product)
    task.results.fact("float32 product: TFLOP/s", flops / product / 1e12, "{:.3g}")
    task.results.fact(f"top-{K} search of {size}: seconds", seconds)
    task.results.at_least("the search, of the product's speed", product / seconds, OF_PRODUCT)


def random_directions(rows: int, dimensions: int, seed: int, device: torch.device) -> npt.NDArray[np.float32]:
    """Drawn on the device, stored in ordinary host memory."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn: npt.NDArray[np.float32] = torch.randn(rows, dimensions, generator=generator, device=device).numpy(force=True)
    return drawn


def product_seconds(
    query_QD: npt.NDArray[np.float32], gallery_GD: npt.NDArray[np.float32], device: torch.device
) -> float:
    """Seconds of the bare product, block by block, with both sides already on the device."""
    query, gallery = (torch.from_numpy(side).to(device) for side in (query_QD, gallery_GD))

    def product() -> None:
        for start in range(0, len(gallery), BLOCK):
            query @ gallery[start : start + BLOCK].T

    return seconds_of(product, 3, device)
