"""The machine under test, and clocks that wait for it."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

DENSE_BF16 = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12}
"""Operations per second from the datasheets, without sparsity; the first name contained in the device's name counts."""


def cpu_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_facts() -> dict[str, str]:
    """Device, driver, versions, CPU cores."""
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        device, driver = f"{torch.cuda.get_device_name()}, {memory:.0f} GiB", _driver()
    else:
        device, driver = "no GPU", "none"
    return {
        "device": device,
        "driver": driver,
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "python": platform.python_version(),
        "cpu": f"{cpu_cores()} cores, {platform.machine()}",
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        facts = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
        if facts:
            return facts[0]
    return "unknown"


def datasheet_bf16(device: torch.device) -> float | None:
    """The card's dense bf16 peak in operations per second, if known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for card, peak in DENSE_BF16.items() if card in name), None)


def wait(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def plain_float32() -> Iterator[None]:
    """Disable TF32 within the block, in convolutions and in products."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def seconds_of(run: Callable[[], object], repeats: int, device: torch.device, *, warm_up: int = 1) -> float:
    """Seconds of one ``run``: the median over three rounds, each of ``repeats`` runs between two waits."""
    for _ in range(warm_up):
        run()
    rounds = []
    for _ in range(3):
        wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        wait(device)
        rounds.append((time.perf_counter() - started) / repeats)
    return statistics.median(rounds)


def product_flops(rows: int, columns: int, inner: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a matrix product of random numbers."""
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(size, inner, generator=generator, device=device, dtype=torch.float32).to(dtype)
        for size in (rows, columns)
    )
    return 2.0 * rows * columns * inner / seconds_of(lambda: left @ right.T, 10, device, warm_up=3)
