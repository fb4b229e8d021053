"""Builds what a recipe trains, and what all methods share: model, moving average, optimizer and losses."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ccvid.config import MethodOptions, Recipe, TrainOptions
from ccvid.loss_choices import IDENTITY_LOSSES, PAIR_LOSSES
from ccvid.method_choices import METHODS
from ccvid.model import CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.trained_model import configured_backbone
from ccvid.training.cal_update import BatchLoss, PairTerm
from ccvid.training.context import RunContext
from ccvid.training.passes import Training, TrainingBuilder
from ccvid.training.split import TrainingSplit
from ccvid.training.sync_batchnorm import synchronise_batchnorm


def build_training(recipe: Recipe, split: TrainingSplit, run: RunContext) -> Training:
    """What the recipe's method trains, on the run's device, and its passes."""
    builder: TrainingBuilder = resolve_name(f"ccvid.training.{METHODS[recipe.method.name].builder}")
    return builder(recipe, split, run)


def identity_loss_of(method: MethodOptions) -> BatchLoss:
    """L_id with the recipe's scale, margin and smoothing."""
    values = {
        "scale": method.identity_scale,
        "margin": method.identity_margin,
        "label_smoothing": method.label_smoothing,
    }
    return IDENTITY_LOSSES[method.identity_loss].bound(values)


def pair_term_of(method: MethodOptions, world_size: int) -> PairTerm | None:
    """L_pair with the recipe's weight, scale and margin."""
    if method.pair_loss == "none":
        return None
    loss = PAIR_LOSSES[method.pair_loss].bound({"scale": method.pair_scale, "margin": method.pair_margin})
    return PairTerm(loss=loss, weight=method.pair_weight, world_size=world_size)


def compile_network(trained: nn.Module, backbone: nn.Module) -> None:
    """torch.compile, block by block where the network is a list of blocks: all are compiled as one, in a fraction of
    the time."""
    blocks = getattr(backbone, "blocks", None)
    for module in blocks if isinstance(blocks, nn.ModuleList) else [trained]:
        module.compile()


def average_of(model: ReIdModel, train: TrainOptions) -> AveragedModel | None:
    """The moving average that the recipe asks for."""
    return None if train.ema_decay is None else moving_average(model, train.ema_decay)


def moving_average(model: ReIdModel, decay: float) -> AveragedModel:
    """An exponential moving average of the model; the first ``update_parameters`` copies the model's weights.

    BatchNorm's running statistics are averaged too, because the model's own fit only its current weights.
    """
    ema: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=ema, use_buffers=True)


def build_model(recipe: Recipe, person_count: int, run: RunContext) -> ReIdModel:
    """The recipe's backbone and identity classifier, from its seed, on the run's device."""
    torch.manual_seed(recipe.train.seed)
    backbone = configured_backbone(recipe.model, recipe.clip)
    classifier = CosineClassifier if IDENTITY_LOSSES[recipe.method.identity_loss].cosines else IdentityClassifier
    model = ReIdModel(
        backbone,
        classifier(backbone.feature_size, person_count),
        autocast_dtype=torch.bfloat16 if recipe.train.bf16 is True else None,
        parts=recipe.train.batch_parts,
    )
    if recipe.train.sync_batchnorm and run.world_size > 1:
        synchronise_batchnorm(model, run.device)
    return model.to(run.device)
