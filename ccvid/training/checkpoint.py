"""Everything a run needs to resume bit-identically: the files of a checkpoint, drawn in ``ccvid/run_files.py``.

Weights are safetensors; ``trainer.pt`` is loaded with ``weights_only``. ``model.json`` is written beside them by the
trainer, see ``ccvid/trained_model.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ccvid.model import ReIdModel
from ccvid.run_files import PROGRESS_FILE, TRAINER_FILE, UNAVERAGED_FILE, WEIGHTS_FILE
from data_tools.documents import first_problem
from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.wording import one_line
from video_backbones import WeightsError
from video_backbones.weights import check_finite, check_fit, load_torch_file, read_checkpoint

Count = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: ``epoch`` epochs and ``step`` steps of the next one are done."""

    epoch: Count = 0
    step: Count = 0
    steps_per_epoch: Count = 0
    """Depends on the number of workers; 0 at the start."""
    updates: Count = 0
    """Steps done in total, even if the number of workers changed."""
    best_score: Annotated[float, Field(ge=-1, le=1)] = -1.0
    """Clothes-changing mAP (general if nobody changes clothes) on the held-out identities; −1: none yet."""
    best_epoch: Count = 0
    unscored: tuple[Count, ...] = ()
    """Epochs before this moment whose held-out score is still to come, ascending."""

    def in_epochs_of(self, steps: int) -> Progress:
        """The same progress with epochs of ``steps`` steps, rounded up to a step."""
        if self.steps_per_epoch in (0, steps):
            return replace(self, steps_per_epoch=steps)
        return replace(self, step=-(-self.step * steps // self.steps_per_epoch), steps_per_epoch=steps)


_PROGRESS = TypeAdapter(Progress)


@dataclass(frozen=True, slots=True)
class TrainedParts:
    """Everything that training changes."""

    model: ReIdModel
    optimizers: Mapping[str, Optimizer]
    """By their names in ``trainer.pt``; "model" is that of the model."""
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    """What only training needs, such as a clothes classifier, by its file in a checkpoint."""
    average: AveragedModel | None = None
    """Moving average of ``model``; None if the recipe has none."""

    @property
    def scored_model(self) -> ReIdModel:
        """The model for validation, for the test set and for users of the checkpoint."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, ReIdModel)
        return self.average.module


def save_checkpoint(folder: Path, parts: TrainedParts, progress: Progress) -> None:
    """Write a checkpoint into an empty folder."""
    save_parts(folder, parts, progress)
    state: dict[str, Any] = {name: optimizer.state_dict() for name, optimizer in parts.optimizers.items()}
    if parts.average is not None:
        state["steps_averaged"] = parts.average.n_averaged
    torch.save(state, folder / TRAINER_FILE)


def save_parts(folder: Path, parts: TrainedParts, progress: Progress) -> None:
    """Write a checkpoint without ``trainer.pt``: enough to use the weights, not to train on."""
    save_weights(parts.scored_model, folder / WEIGHTS_FILE)
    if parts.average is not None:
        save_weights(parts.model, folder / UNAVERAGED_FILE)
    for name, head in parts.heads.items():
        save_weights(head, folder / name)
    write_progress(folder, progress)


def write_progress(folder: Path, progress: Progress) -> None:
    """Write ``progress.json`` into a checkpoint folder."""
    (folder / PROGRESS_FILE).write_text(json.dumps(asdict(progress)))


def load_checkpoint(folder: Path, parts: TrainedParts) -> Progress:
    """Restore what :func:`save_checkpoint` wrote. The optimizers' settings stay the recipe's.

    Raises:
        InputError: a file is missing, damaged or of another model, or a weight or optimizer state is not finite; the
            message names the file and the tensor.
    """
    load_weights(parts.scored_model, folder / WEIGHTS_FILE)
    if parts.average is not None:
        load_weights(parts.model, folder / UNAVERAGED_FILE)
    for name, head in parts.heads.items():
        load_weights(head, folder / name)
    path = folder / TRAINER_FILE
    try:
        state = load_torch_file(path)
        for name, optimizer in parts.optimizers.items():
            _load_optimizer(optimizer, state[name])
        if parts.average is not None:
            steps = int(state["steps_averaged"])
            if steps < 0:
                raise ValueError(f"steps_averaged is {steps}, expected 0 or more")
            parts.average.n_averaged.fill_(steps)
    except Exception as error:  # a damaged pickle or optimizer state can raise almost anything
        raise InputError(f"{path}: not a checkpoint of this recipe: {one_line(error)}") from error
    return read_progress(folder)


def read_progress(folder: Path) -> Progress:
    """Read ``progress.json`` of a checkpoint folder.

    Raises:
        InputError: it is missing, damaged or contradicts itself.
    """
    path = folder / PROGRESS_FILE
    try:
        progress = _PROGRESS.validate_json(read_document(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: not a checkpoint of this recipe: {error.strerror}") from None
    if progress.step > progress.steps_per_epoch:
        most = progress.steps_per_epoch
        raise InputError(f"{path}: step is {progress.step}, expected at most {most}, the steps per epoch")
    if list(progress.unscored) != sorted({epoch for epoch in progress.unscored if 1 <= epoch <= progress.epoch}):
        raise InputError(
            f"{path}: unscored is {list(progress.unscored)}, expected ascending epochs from 1 to {progress.epoch}"
        )
    return progress


def _load_optimizer(optimizer: Optimizer, found: Mapping[str, Any]) -> None:
    own = optimizer.state_dict()
    optimizer.load_state_dict({**own, "state": found["state"]})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(optimizer.state) > len(parameters):
        raise ValueError(f"optimizer state of {len(optimizer.state)} parameters, expected {len(parameters)}")
    for number, parameter in enumerate(parameters):
        for name, value in optimizer.state[parameter].items():
            if value.shape not in (parameter.shape, ()) or not value.isfinite().all():
                raise ValueError(
                    f"{name} of parameter {number}: expected finite numbers of shape {tuple(parameter.shape)}"
                )


def is_finite(module: nn.Module) -> bool:
    """Whether no parameter or buffer holds NaN or infinity; waits for the device once."""
    finite = [tensor.isfinite().all() for tensor in module.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack(finite).all())


def save_weights(module: nn.Module, path: Path) -> None:
    """All parameters and buffers, contiguous, as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Restore what :func:`save_weights` wrote.

    Raises:
        InputError: the file is damaged or does not fit, or a value is not finite; the message names the tensor.
    """
    module.load_state_dict(read_weights(module, path))


def read_weights(module: nn.Module, path: Path) -> dict[str, Tensor]:
    """Read what :func:`load_weights` would restore, with the same errors."""
    own = module.state_dict()
    try:
        state = read_checkpoint(path)
        check_fit(state, own, own, f"{path}: weights do not fit this model")
        check_finite(state, path)
    except WeightsError as error:
        raise InputError(str(error)) from None
    return dict(state)
