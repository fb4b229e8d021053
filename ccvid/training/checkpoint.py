"""Everything a run needs to go on to the bit: weights as safetensors, the rest loadable with ``weights_only``.

model.safetensors      backbone and identity classifier, as they are scored: averaged where the recipe says so
unaveraged.safetensors the same as the optimizer left them, where the recipe averages
clothes.safetensors    clothes classifier or memory (CAL only)
trainer.pt             both optimizers, and how many steps the average has seen
progress.json          epochs and steps done, best validation, class labels, model options
model.json             which network that is: see ccvid/trained_model.py
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ccvid.model import ClothesMemory, CosineClassifier, ReIdModel
from data_tools.errors import InputError


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: ``epoch`` whole epochs and ``step`` steps of the next are done."""

    epoch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    """What ``step`` counts towards: it depends on the number of workers; 0 at the start."""
    updates: int = 0
    """Steps done in all, with whatever number of workers."""
    best_score: float = -1.0
    """Clothes-changing mAP (general where nobody changes clothes) on the held-out identities; −1: none yet."""
    best_epoch: int = 0

    def in_epochs_of(self, steps: int) -> Progress:
        """The same share of the run, rounded up to a step, where epochs now have ``steps`` steps."""
        if self.steps_per_epoch in (0, steps):
            return replace(self, steps_per_epoch=steps)
        return replace(self, step=-(-self.step * steps // self.steps_per_epoch), steps_per_epoch=steps)


@dataclass(frozen=True, slots=True)
class TrainedParts:
    """All that training changes."""

    model: ReIdModel
    optimizer: Optimizer
    clothes: CosineClassifier | ClothesMemory | None
    clothes_optimizer: Optimizer | None
    """Of a clothes classifier."""
    average: AveragedModel | None = None
    """Moving average of ``model``; None where the recipe has none."""

    @property
    def scored_model(self) -> ReIdModel:
        """What validation, the test set and users of the checkpoint take."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, ReIdModel)
        return self.average.module


def save_checkpoint(folder: Path, parts: TrainedParts, progress: Progress) -> None:
    """Write a checkpoint into an empty folder."""
    save_weights(parts.scored_model, folder / "model.safetensors")
    state: dict[str, Any] = {"model": parts.optimizer.state_dict()}
    if parts.average is not None:
        save_weights(parts.model, folder / "unaveraged.safetensors")
        state["steps_averaged"] = parts.average.n_averaged
    if parts.clothes is not None:
        save_weights(parts.clothes, folder / "clothes.safetensors")
    if parts.clothes_optimizer is not None:
        state["clothes"] = parts.clothes_optimizer.state_dict()
    torch.save(state, folder / "trainer.pt")
    (folder / "progress.json").write_text(json.dumps(asdict(progress)))


def load_checkpoint(folder: Path, parts: TrainedParts) -> Progress:
    """Restore what :func:`save_checkpoint` wrote.

    Raises:
        InputError: a file is missing, damaged, or of another model.
    """
    try:
        load_weights(parts.scored_model, folder / "model.safetensors")
        state: dict[str, Any] = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
        parts.optimizer.load_state_dict(state["model"])
        if parts.average is not None:
            load_weights(parts.model, folder / "unaveraged.safetensors")
            parts.average.n_averaged.copy_(state["steps_averaged"])
        if parts.clothes is not None:
            load_weights(parts.clothes, folder / "clothes.safetensors")
        if parts.clothes_optimizer is not None:
            parts.clothes_optimizer.load_state_dict(state["clothes"])
        return Progress(**json.loads((folder / "progress.json").read_text()))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: not a checkpoint of this recipe: {error}") from error


def is_finite(module: nn.Module) -> bool:
    """Whether no parameter or buffer holds NaN or infinity; one wait for the device."""
    finite = [tensor.isfinite().all() for tensor in module.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack(finite).all())


def save_weights(module: nn.Module, path: Path) -> None:
    """All parameters and buffers, contiguous, as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Restore what :func:`save_weights` wrote; raises ``InputError`` when the file does not fit."""
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: weights do not fit this model: {error}") from error
