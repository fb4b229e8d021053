"""Where a device's time goes, by kernel name."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.gpu.device import wait

KINDS = {
    "changes of layout": r"nchwtonhwc|nhwctonchw",
    "fused by the compiler": r"triton_(?!tem)",
    "batch norm": r"batch_?norm|bnorm|bn_fw|bn_bw",
    "optimizer": r"multi_tensor|adam|foreach",
    "convolutions and products": r"conv|xmma|gemm|cutlass|wgrad|dgrad|fprop|winograd|nvjet|cudnn|aten::mm|triton_tem",
    "copies": r"memcpy|memset",
}
"""The first kind whose pattern is in a kernel's lower-case name; else ``OTHER``."""
OTHER, IDLE = "elementwise, pooling, reductions", "idle"
DEVICE_EVENTS, CPU_EVENTS = {"kernel", "gpu_memcpy", "gpu_memset"}, {"cpu_op"}


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Seconds of one step by kind of kernel, including ``IDLE``, and the longest kernels with theirs."""

    by_kind: Mapping[str, float]
    longest: Mapping[str, float]


def kind_of(name: str) -> str:
    """A kernel's kind, as far as its name shows it."""
    small = name.lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, small)), OTHER)


def device_time(step: Callable[[], object], steps: int, seconds: float, device: torch.device, file: Path) -> DeviceTime:
    """Profile some steps, which take ``seconds`` each without the profiler; ``file`` gets the trace."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
        wait(device)
    profiler.export_chrome_trace(str(file))
    wanted = DEVICE_EVENTS if on_gpu else CPU_EVENTS
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("cat") in wanted]
    return time_of_events(events, steps, seconds)


def time_of_events(events: Iterable[Mapping[str, Any]], steps: int, seconds: float) -> DeviceTime:
    """From a trace's events (name, ts and dur in microseconds); overlapping ones of a kind count once."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    kernels: defaultdict[str, float] = defaultdict(float)
    for event in events:
        start, length = float(event["ts"]), float(event["dur"])
        spans[kind_of(event["name"])].append((start, start + length))
        kernels[event["name"]] += length
    by_kind = {kind: _covered(found) * 1e-6 / steps for kind, found in spans.items()}
    busy = _covered([span for found in spans.values() for span in found]) * 1e-6 / steps
    by_kind[IDLE] = max(0.0, seconds - busy)
    longest = {name: length * 1e-6 / steps for name, length in sorted(kernels.items(), key=lambda item: -item[1])[:5]}
    return DeviceTime(dict(sorted(by_kind.items(), key=lambda item: -item[1])), longest)


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
