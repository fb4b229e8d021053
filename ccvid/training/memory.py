"""The memory of a training step, before anything is allocated: the step itself, run with tensors that hold no data.

The method's own builder and updates run under PyTorch's FakeTensorMode, which knows every tensor's size and when it is
made and freed. So all that changes memory counts, whatever the method and the settings: passes, losses, checkpointing,
a batch in parts, temporary values of the optimizer.

Not counted: what a GPU's libraries take besides tensors, a compiled network's savings, random depth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ccvid.config import Recipe
from ccvid.training.build import build_training
from ccvid.training.checkpoint import TrainedParts
from ccvid.training.context import LocalRun
from ccvid.training.live_memory import LiveMemory, ZeroScalars, bytes_of, gpu_precision, held_by
from ccvid.training.passes import TrainingPass
from ccvid.training.split import TrainingSplit
from data_tools.loader import ClipBatch, TrainingItems

logger = logging.getLogger(__name__)
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes on each worker's GPU at the dearest moment of a step."""

    network: int
    """Weights and buffers of the model that is scored."""
    heads: int
    """Those of what only training needs."""
    average: int
    """The moving average."""
    gradients: int
    optimizer: int
    """Its states, such as momentum."""
    buckets: int
    """Gradients of all weights once more, as several workers exchange them."""
    activations: int
    """All else: frames, what the backward pass needs, temporary values."""

    @property
    def total(self) -> int:
        return self.fixed + self.activations

    @property
    def fixed(self) -> int:
        """What no smaller batch can lower."""
        return self.network + self.heads + self.average + self.gradients + self.optimizer + self.buckets


def estimate_memory(
    recipe: Recipe, persons: int, clothes: int, *, workers: int = 1, gpu: bool = True
) -> MemoryEstimate | None:
    """The estimate for a recipe whose precision is decided; weights are not read. Takes seconds.

    Args:
        persons: Training identities.
        clothes: Their outfits, each counted with its person.
        workers: Number of workers; several exchange gradients in buckets.
        gpu: Operations in a GPU's precision and optimizers as they run there; else a CPU's.

    Returns:
        None if the step cannot be run without data, because the size of some tensor depends on values.
    """
    try:
        with _without_data(gpu=gpu) as memory, TemporaryDirectory() as folder:
            found = _rehearsed(_as_rehearsed(recipe), split_of(persons, clothes), Path(folder), memory, gpu=gpu)
    except Exception:  # PyTorch has many ways to refuse, and an estimate is never worth a run
        logger.debug("no estimate of the memory", exc_info=True)
        return None
    average = found.network if recipe.train.ema_decay is not None else 0
    return replace(found, average=average, buckets=found.buckets if workers > 1 else 0)


def held_between_steps(parts: TrainedParts) -> MemoryEstimate:
    """What these parts hold now, without a batch."""
    trained = [parts.model, *parts.heads.values()]
    states = [state for optimizer in parts.optimizers.values() for state in optimizer.state.values()]
    values = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return MemoryEstimate(
        network=bytes_of(held_by(parts.model)),
        heads=bytes_of(tensor for head in parts.heads.values() for tensor in held_by(head)),
        average=0 if parts.average is None else bytes_of(held_by(parts.average.module)),
        gradients=bytes_of(parameter.grad for module in trained for parameter in module.parameters()),
        optimizer=bytes_of(value for value in values if value.ndim),  # the others count steps, on the CPU
        buckets=0,
        activations=0,
    )


def _rehearsed(recipe: Recipe, split: TrainingSplit, folder: Path, memory: LiveMemory, *, gpu: bool) -> MemoryEstimate:
    """The dearest of the method's passes."""
    with ZeroScalars():  # type: ignore[no-untyped-call]
        training = build_training(recipe, split, LocalRun(folder, CPU))
    training.parts.model.train()
    if gpu:
        _update_all_at_once(training.parts)
    _make_states(training.parts)
    found = [_measured(recipe, training.parts, each, memory) for each in training.passes]
    trained = (training.parts.model, *training.parts.heads.values())
    buckets = bytes_of(parameter for module in trained for parameter in module.parameters())  # used by a pass or not
    return replace(max(found, key=lambda estimate: estimate.total), buckets=buckets)


def _measured(recipe: Recipe, parts: TrainedParts, each: TrainingPass, memory: LiveMemory) -> MemoryEstimate:
    memory.peak = memory.live
    _step(recipe, each)
    held = held_between_steps(parts)
    return replace(held, activations=memory.peak - held.total)


def _step(recipe: Recipe, each: TrainingPass) -> None:
    """One update with a batch of the recipe's size."""
    model, count = recipe.model, recipe.batch.identities * recipe.batch.clips
    frames_BTCHW = torch.empty(count, each.clip.length, 3, model.height, model.width, dtype=torch.uint8)
    label_B = torch.empty(count, dtype=torch.int64)
    batch = ClipBatch(
        frames_BTCHW=frames_BTCHW, tracklet_B=label_B, person_B=label_B, clothes_B=label_B, camera_B=label_B
    )
    each.update(batch, recipe.method.start_epoch)


@contextmanager
def _without_data(*, gpu: bool) -> Iterator[LiveMemory]:
    """Tensors made within have no data.

    Modules stay where they are, for parameters without data cannot be moved: in the whole process, so that no other
    thread should move any.
    """
    precision = gpu_precision() if gpu else nullcontext()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with patch.object(nn.Module, "to", lambda module, *_, **__: module), fake, precision, LiveMemory() as memory:
        yield memory


def _as_rehearsed(recipe: Recipe) -> Recipe:
    """Without what reads files, needs values, or weighs nothing here: random depth, and losses between B features.

    The moving average is added afterwards, because parameters without data cannot be copied.
    """
    model = recipe.model.model_copy(update={"weights": "random", "drop_path": 0.0})
    method = recipe.method.model_copy(update={"pair_loss": "none"})
    train = recipe.train.model_copy(update={"compile": False, "ema_decay": None, "bf16": recipe.train.bf16 is True})
    return recipe.model_copy(update={"model": model, "method": method, "train": train})


def _make_states(parts: TrainedParts) -> None:
    """The optimizers' states, which their first step makes."""
    for optimizer in parts.optimizers.values():
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        optimizer.zero_grad()


def _update_all_at_once(parts: TrainedParts) -> None:
    """As optimizers do by themselves on a GPU, which takes temporary values of all parameters."""
    for optimizer in parts.optimizers.values():
        for group in optimizer.param_groups:
            group["foreach"] = not group["fused"]


def split_of(persons: int, clothes: int) -> TrainingSplit:
    """So many classes, and no items."""
    none = np.zeros(0, np.int64)
    names = tuple(map(str, range(persons)))
    outfits = tuple((names[number % persons], str(number)) for number in range(clothes))
    items = TrainingItems(none, none, none, none, none, none)
    return TrainingSplit(items, names, outfits, np.arange(clothes, dtype=np.int64) % persons, ())
