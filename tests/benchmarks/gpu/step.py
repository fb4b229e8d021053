"""The training step of `ccvid_cal` against the released formulation, and what limits it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from data_tools.loader import ClipBatch
from tests.benchmarks.gpu.device import datasheet_bf16, plain_float32, product_flops, seconds_of
from tests.benchmarks.gpu.kernels import IDLE, device_time
from tests.benchmarks.gpu.results import reason_of
from tests.benchmarks.gpu.step_ways import Step, captured_step, recipe_step, released_step
from tests.benchmarks.gpu.task import Task, cal_trainer, ready_batch

FASTER, PEAK_SHARE = 6.0, 0.35


class StepMeasurements:
    """Makes each way anew, so that none inherits another's state, and keeps the seconds of those that ran."""

    def __init__(self, task: Task) -> None:
        self.task = task
        trainer = cal_trainer(task)
        self.batch: ClipBatch = ready_batch(trainer)
        self.clips = len(self.batch)
        with FlopCounterMode(display=False) as counter:
            recipe_step(trainer, self.batch)()
        self.flops = counter.get_total_flops()
        self.seconds: dict[str, float] = {}

    def measure(self, name: str, make: Callable[[], Step], *, profiled: bool = False) -> None:
        """Seconds a step, and where they go; a way that fails is told of and left out."""
        task = self.task
        try:
            step = make()
            step()
            self.seconds[name] = seconds_of(step, task.sizes.steps, task.device, warm_up=3)
            task.results.fact(f"{name}: ms a step", 1000 * self.seconds[name], "{:.2f}")
            if profiled:
                self._profile(name, step)
        except Exception as error:  # whatever it is, the other ways are still worth their figures
            task.results.failure(name, reason_of(error))
        finally:
            if task.device.type == "cuda":
                torch.cuda.empty_cache()

    def ours(self, *, compiled: bool, graph: bool) -> Step:
        trainer = cal_trainer(self.task)
        if compiled:
            trainer.model.compile()  # as train.compile does
            started = time.perf_counter()
            if not graph:
                recipe_step(trainer, self.batch)()
                self.task.results.fact("torch.compile: seconds of the first step", time.perf_counter() - started)
        return (captured_step if graph else recipe_step)(trainer, self.batch)

    def released(self, *, passes: int) -> Step:
        return released_step(cal_trainer(self.task), self.batch, passes=passes)

    def _profile(self, name: str, step: Step) -> None:
        task, seconds = self.task, self.seconds[name]
        found = device_time(step, min(5, task.sizes.steps), seconds, task.device, task.work / "trace.json")
        kinds = ", ".join(f"{kind} {part / seconds:.0%}" for kind, part in found.by_kind.items())
        task.results.note(f"{name}: the step's time", kinds)
        task.results.note(
            f"{name}: longest kernels",
            ", ".join(f"{kernel[:60]} {part / seconds:.0%}" for kernel, part in found.longest.items()),
        )
        limit, most = next(iter(found.by_kind.items()))
        what = "the CPU, which gives work too slowly" if limit == IDLE else limit
        task.results.note(f"{name}: limited by", f"{what}, {most / seconds:.0%} of the step")


def run(task: Task) -> None:
    measured = StepMeasurements(task)
    task.results.fact("TFLOP a step", measured.flops / 1e12, "{:.3f}")
    with plain_float32():
        measured.measure("released, two passes, float32", lambda: measured.released(passes=2))
        measured.measure("released, one pass, float32", lambda: measured.released(passes=1))
    with tf32_convolutions():
        measured.measure("released, two passes, TF32 convolutions", lambda: measured.released(passes=2))
    measured.measure("recipe", lambda: measured.ours(compiled=False, graph=False), profiled=True)
    if task.device.type == "cuda":
        with searched_kernels():
            measured.measure("recipe, cudnn.benchmark", lambda: measured.ours(compiled=False, graph=False))
    if task.compile:
        measured.measure("recipe, compiled", lambda: measured.ours(compiled=True, graph=False), profiled=True)
    if task.device.type == "cuda":
        measured.measure("recipe, CUDA graph", lambda: measured.ours(compiled=False, graph=True))
        if task.compile:
            name = "recipe, compiled, CUDA graph"
            measured.measure(name, lambda: measured.ours(compiled=True, graph=True), profiled=True)
    else:
        task.results.note("CUDA graphs", "need a GPU")
    _compare(measured, task)


def _compare(measured: StepMeasurements, task: Task) -> None:
    """Ratios to the released formulation, and shares of the peak."""
    results, seconds = task.results, measured.seconds
    ours = {name: value for name, value in seconds.items() if name.startswith("recipe")}
    if not ours:
        return
    for name, value in ours.items():
        results.fact(f"{name}: clips/s", measured.clips / value, "{:,.0f}")
        if released := seconds.get("released, two passes, float32"):
            results.at_least(f"{name}: times faster than released, two passes, float32", released / value, FASTER)
    best = min(ours, key=ours.__getitem__)
    for name in ("released, one pass, float32", "released, two passes, TF32 convolutions"):
        if name in seconds:
            results.fact(f"{best}: times faster than {name}", seconds[name] / ours[best], "{:.2f}")
    size = task.sizes.product
    product = product_flops(size, size, size, torch.bfloat16, task.device)
    results.fact(f"bf16 product of {size} x {size} matrices, TFLOP/s", product / 1e12, "{:.1f}")
    peak = datasheet_bf16(task.device)
    for name, value in ours.items():
        rate = measured.flops / value
        results.fact(f"{name}: share of that product's speed", rate / product, "{:.3f}")
        if peak and name != best:
            results.fact(f"{name}: share of the datasheet's {peak / 1e12:.0f} TFLOP/s", rate / peak, "{:.3f}")
    where = f"the datasheet's {peak / 1e12:.0f} TFLOP/s" if peak else "the product's speed (no datasheet known)"
    share = measured.flops / ours[best] / (peak or product)
    results.at_least(f"{best}: share of {where}", share, PEAK_SHARE, "{:.3f}")


@contextmanager
def tf32_convolutions() -> Iterator[None]:
    """As PyTorch does it by itself: TF32 in convolutions, not in products."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def searched_kernels() -> Iterator[None]:
    """cuDNN tries its algorithms for each shape once."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
