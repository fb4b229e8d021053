"""CSCI on EVA-02-L: speed and memory of both ways against the released formulation, its estimate, the largest batch."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccvid.config import Recipe
from ccvid.csci_options import CsciOptions
from ccvid.training.context import LocalRun
from ccvid.training.csci import build_csci
from ccvid.training.csci_model import CsciModel, Way
from ccvid.training.csci_update import CsciUpdate
from ccvid.training.memory import estimate_memory, split_of
from ccvid.training.optimizers import build_optimizer
from tests.benchmarks.gpu.device import plain_float32, seconds_of, wait
from tests.benchmarks.gpu.released_csci import ReleasedCsci
from tests.benchmarks.gpu.task import Task

FASTER, SAME, ESTIMATE = 2.0, 1e-4, 0.1
PERSONS = 75
CARD = 80 * 2**30
"""The card whose largest batch is looked for."""
CLIPS_EACH = 4
WAYS: tuple[Way, ...] = ("clip", "picture")


def run(task: Task) -> None:
    with plain_float32():
        _same_numbers(task)
    for way in WAYS:
        _against_released(task, way)
    _estimate(task)
    _largest_batch(task)


def recipe_of(task: Task, clips: int, *, bf16: bool = True, recomputed: bool = False) -> Recipe:
    """`ccvid_csci` with a small colour target, random weights and plain momentum."""
    height, width = task.sizes.csci_frame
    values: dict[str, Any] = {
        "data": {"kind": "footage", "shards": str(task.work)},
        "clip": {"length": 4, "stride": 4, "piece": 0},
        "batch": {"identities": max(1, clips // CLIPS_EACH), "clips": min(clips, CLIPS_EACH)},
        "model": {
            "backbone": task.sizes.csci,
            "weights": "random",
            "height": height,
            "width": width,
            "checkpoint_blocks": recomputed,
        },
        "method": {"name": "csci", "csci": {"colours": {"planes": "mean", "bins": 16}}},
        "optim": {"name": "sgd", "learning_rate": 2e-5},
        "train": {"bf16": bf16},
    }
    return Recipe.model_validate(values)


class Ours:
    """Our network with its update, and steps on noise."""

    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.recipe, self.device = recipe, task.device
        with tempfile.TemporaryDirectory() as folder:
            self.parts, self.update = build_csci(
                recipe, split_of(PERSONS, PERSONS), LocalRun(Path(folder), task.device)
            )
        self.parts.model.train()

    def step(self, way: Way) -> Callable[[], object]:
        """One update with a ready batch."""
        frames, person_B, colours_BE = self.batch(way)
        if way == "clip":
            return lambda: self.update.clips(frames, person_B)
        return lambda: self.update.pictures(frames, colours_BE, person_B)

    def batch(self, way: Way) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, T, 3, H, W), or (B, 3, H, W) for `picture`; persons; colour targets."""
        batch, model = self.recipe.batch, self.recipe.model
        clips, generator = batch.identities * batch.clips, torch.Generator(self.device).manual_seed(0)
        shape = (clips, *((self.recipe.clip.length,) if way == "clip" else ()), 3, model.height, model.width)
        frames = torch.randn(shape, generator=generator, device=self.device)
        person_B = torch.arange(batch.identities, device=self.device).repeat_interleave(batch.clips)
        options = self.recipe.method.own
        assert isinstance(options, CsciOptions)
        return frames, person_B, torch.rand(clips, options.colours.size, generator=generator, device=self.device)

    def released(self) -> Ours:
        """The same weights and losses with the released formulation in place of our network."""
        other = copy.copy(self)
        whole = self.update.model
        assert isinstance(whole, CsciModel)
        options = self.recipe.method.own
        assert isinstance(options, CsciOptions)
        optim = self.recipe.optim
        other.update = CsciUpdate(ReleasedCsci(whole), build_optimizer(optim, optim.learning_rate, whole), options)
        return other


def _same_numbers(task: Task) -> None:
    """Both formulations compute the same features."""
    ours = Ours(task, recipe_of(task, 2, bf16=False))
    with torch.no_grad():
        names: dict[Way, str] = {"clip": "frame_BTD", "picture": "colour_BD"}
        for way, name in names.items():
            frames, _, _ = ours.batch(way)
            found, expected = (getattr(made.update.model(frames, way), name) for made in (ours, ours.released()))
            error = ((found - expected).abs().max() / expected.abs().max()).item()
            task.results.error(f"{way}: both formulations in float32", error, SAME)


def _against_released(task: Task, way: Way) -> None:
    clips = task.sizes.csci_clips
    rates, peaks = [], []
    for name, released in (("released", True), ("ours", False)):
        made = Ours(task, recipe_of(task, clips))
        step = (made.released() if released else made).step(way)
        seconds, peak = seconds_of(step, task.sizes.steps, task.device), _peak_bytes(step, task.device)
        what = "clips" if way == "clip" else "pictures"
        task.results.fact(f"{way}: {name}, bf16: {what}/s", clips / seconds, "{:.1f}")
        rates.append(clips / seconds)
        if peak:
            task.results.fact(f"{way}: {name}, most memory of a step: GiB", peak / 2**30, "{:.1f}")
            peaks.append(peak)
    task.results.at_least(f"{way}: times faster than released", rates[1] / rates[0], FASTER)
    if peaks:
        task.results.fact(f"{way}: memory, of the released formulation's", peaks[1] / peaks[0], "{:.2f}")


def _estimate(task: Task) -> None:
    """The memory that is estimated before the start, against the card's."""
    for recomputed in (False, True):
        recipe = recipe_of(task, task.sizes.csci_clips, recomputed=recomputed)
        estimate = estimate_memory(recipe, PERSONS, PERSONS)
        name = "estimated memory, recomputed" if recomputed else "estimated memory"
        task.results.holds(f"{name}: is known", estimate is not None)
        if estimate is None or task.device.type != "cuda":
            continue
        made = Ours(task, recipe)
        peak = max(_peak_bytes(made.step(way), task.device) for way in WAYS)
        task.results.fact(f"{name}: GiB", estimate.total / 2**30, "{:.1f}")
        task.results.at_most(
            f"{name}: how far from the card's {peak / 2**30:.1f} GiB", abs(estimate.total / peak - 1), ESTIMATE
        )


def _largest_batch(task: Task) -> None:
    """Doubled until it does not fit a card of 80 GiB, with blocks recomputed."""
    if task.device.type == "cuda":
        whole = torch.cuda.get_device_properties(task.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CARD / whole), task.device)
    clips, largest = task.sizes.csci_clips, 0
    while clips <= task.sizes.csci_most_clips and _runs(task, clips):
        clips, largest = 2 * clips, clips
    task.results.fact("clips in the largest batch that ran, blocks recomputed, on 80 GiB", largest, "{:.0f}")


def _runs(task: Task, clips: int) -> bool:
    try:
        step = Ours(task, recipe_of(task, clips, recomputed=True)).step("clip")
        step()
        step()
        wait(task.device)
    except torch.OutOfMemoryError:
        return False
    return True


def _peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most that a step takes once the optimizer has its states; 0 without a GPU."""
    if device.type != "cuda":
        return 0
    step()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)
