"""The training step of `ccvid_cal` against the released formulation, and what limits it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from data_tools.loader import ClipBatch
from tests.benchmarks.gpu.device import datasheet_bf16, plain_float32, product_flops, seconds_of, wait
from tests.benchmarks.gpu.kernels import IDLE, device_time
from tests.benchmarks.gpu.results import reason_of
from tests.benchmarks.gpu.step_ways import Step, captured_step, recipe_step, released_step
from tests.benchmarks.gpu.task import Task, cal_trainer, ready_batch

FASTER, PEAK_SHARE = 6.0, 0.35
REFERENCE = "two passes, float32"


class StepMeasurements:
    """Builds each variant from scratch, so that none inherits another's state, and reports its results at once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        trainer = cal_trainer(task)
        self.batch: ClipBatch = ready_batch(trainer)
        with FlopCounterMode(display=False) as counter:
            recipe_step(trainer, self.batch)()
        self.flops = counter.get_total_flops()
        task.results.fact("TFLOP a step", self.flops / 1e12, "{:.3f}")
        size = task.sizes.product
        self.product = product_flops(size, size, size, torch.bfloat16, task.device)
        task.results.fact(f"bf16 product of {size} x {size} matrices: TFLOP/s", self.product / 1e12, "{:.1f}")
        self.released_seconds: dict[str, float] = {}

    def released(self, name: str, *, passes: int) -> None:
        def make() -> Step:
            return released_step(cal_trainer(self.task), self.batch, passes=passes)

        measured = self._measure(f"released, {name}", make)
        if measured is not None:
            self.released_seconds[name] = measured[1]

    def recipe(self, name: str, *, compiled: bool = False, graph: bool = False, profiled: bool = False) -> None:
        def make() -> Step:
            trainer = cal_trainer(self.task)
            if compiled:
                trainer.model.compile()  # like train.compile
            return (captured_step if graph else recipe_step)(trainer, self.batch)

        measured = self._measure(name, make)
        if measured is None:
            return
        step, seconds = measured
        self._compare(name, seconds)
        if profiled:
            self._profile(name, step, seconds)

    def _measure(self, name: str, make: Callable[[], Step]) -> tuple[Step, float] | None:
        """A variant's step and its seconds; None for one that fails, which is reported."""
        task = self.task
        try:
            started = time.perf_counter()
            step = make()
            step()
            wait(task.device)
            first = time.perf_counter() - started
            seconds = seconds_of(step, task.sizes.steps, task.device, warm_up=3)
        except Exception as error:  # whatever the error is, the other variants are still worth measuring
            task.results.failure(name, reason_of(error))
            return None
        task.results.fact(f"{name}: ms a step", 1000 * seconds, "{:.2f}")
        task.results.fact(f"{name}: seconds to the first step's end", first, "{:.1f}")
        return step, seconds

    def _compare(self, name: str, seconds: float) -> None:
        """One of our variants, against the released formulation and the card's peak."""
        results, rate = self.task.results, self.flops / seconds
        results.fact(f"{name}: clips/s", len(self.batch) / seconds, "{:,.0f}")
        for released, released_seconds in self.released_seconds.items():
            what = f"{name}: times faster than released, {released}"
            if released == REFERENCE:
                results.at_least(what, released_seconds / seconds, FASTER)
            else:
                results.fact(what, released_seconds / seconds, "{:.2f}")
        if peak := datasheet_bf16(self.task.device):
            results.fact(f"{name}: share of the product's speed", rate / self.product, "{:.3f}")
            what = f"{name}: share of the datasheet's {peak / 1e12:.0f} TFLOP/s"
        else:
            peak, what = self.product, f"{name}: share of the product's speed"
        results.at_least(what, rate / peak, PEAK_SHARE, "{:.3f}")

    def _profile(self, name: str, step: Step, seconds: float) -> None:
        task = self.task
        try:
            found = device_time(step, min(5, task.sizes.steps), seconds, task.device, task.work / "trace.json")
        except Exception as error:  # a profiler error is not the step's
            task.results.failure(f"{name}: profile", reason_of(error))
            return
        kinds = ", ".join(f"{kind} {part / seconds:.0%}" for kind, part in found.by_kind.items())
        longest = ", ".join(f"{kernel[:60]} {part / seconds:.0%}" for kernel, part in found.longest.items())
        limit, most = next(iter(found.by_kind.items()))
        what = "the CPU, which gives work too slowly" if limit == IDLE else limit
        task.results.note(f"{name}: where the step's time goes", kinds)
        task.results.note(f"{name}: longest kernels", longest)
        task.results.note(f"{name}: limited by", f"{what}, {most / seconds:.0%} of the step")


def run(task: Task) -> None:
    measured = StepMeasurements(task)
    with plain_float32():
        measured.released(REFERENCE, passes=2)
        measured.released("one pass, float32", passes=1)
    with tf32_convolutions():
        measured.released("two passes, TF32 convolutions", passes=2)
    measured.recipe("recipe", profiled=True)
    if task.device.type == "cuda":
        with searched_kernels():
            measured.recipe("recipe, cudnn.benchmark")
        measured.recipe("recipe, CUDA graph", graph=True)
    else:
        task.results.note("CUDA graphs", "need a GPU")
    if task.compile:
        measured.recipe("recipe, compiled", compiled=True, profiled=True)
        if task.device.type == "cuda":
            measured.recipe("recipe, compiled, CUDA graph", compiled=True, graph=True, profiled=True)


@contextmanager
def tf32_convolutions() -> Iterator[None]:
    """PyTorch's defaults: TF32 in convolutions, not in products."""
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
