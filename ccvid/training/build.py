"""Build what a recipe trains: the model, its moving average, heads, optimizers and the update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ccvid.config import MethodOptions, Recipe
from ccvid.loss_choices import IDENTITY_LOSSES, PAIR_LOSSES
from ccvid.model import ClothesMemory, CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.trained_model import configured_backbone
from ccvid.training.checkpoint import TrainedParts
from ccvid.training.clothes_heads import ClothesHead, ClothesMemoryHead
from ccvid.training.context import RunContext
from ccvid.training.distributed import wrap
from ccvid.training.optimizers import build_optimizer
from ccvid.training.split import TrainingSplit
from ccvid.training.sync_batchnorm import synchronise_batchnorm
from ccvid.training.update import BatchLoss, CalUpdate, PairTerm


def build_training(recipe: Recipe, split: TrainingSplit, run: RunContext) -> tuple[TrainedParts, CalUpdate]:
    """The parts that the recipe trains, on the run's device, and the update that trains them."""
    method, optim = recipe.method, recipe.optim
    model = _build_model(recipe, len(split.persons), run)
    average = None if recipe.train.ema_decay is None else moving_average(model, recipe.train.ema_decay)
    trained = wrap(model, run.device, run.world_size)
    optimizer = build_optimizer(optim, optim.learning_rate, model)
    clothes, clothes_optimizer, head = _build_clothes(recipe, split, run, model.backbone.feature_size)
    if recipe.train.compile:
        trained.compile()
    update = CalUpdate(
        trained,
        optimizer,
        head,
        identity=identity_loss_of(method),
        adversarial_weight=method.weight,
        pair=pair_term_of(method, run.world_size),
        clip_norm=optim.clip_norm,
    )
    return TrainedParts(model, optimizer, clothes, clothes_optimizer, average), update


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


def moving_average(model: ReIdModel, decay: float) -> AveragedModel:
    """An exponential moving average of the model; the first ``update_parameters`` copies the model's weights.

    BatchNorm's running statistics are averaged too, because the model's own fit only its current weights.
    """
    ema: Callable[..., None] = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=ema, use_buffers=True)


def _build_model(recipe: Recipe, person_count: int, run: RunContext) -> ReIdModel:
    torch.manual_seed(recipe.train.seed)
    backbone = configured_backbone(recipe.model, recipe.clip)
    classifier = CosineClassifier if IDENTITY_LOSSES[recipe.method.identity_loss].cosines else IdentityClassifier
    model = ReIdModel(
        backbone,
        classifier(backbone.feature_size, person_count),
        autocast_dtype=torch.bfloat16 if recipe.train.bf16 is True else None,
    )
    if recipe.train.sync_batchnorm and run.world_size > 1:
        synchronise_batchnorm(model, run.device)
    return model.to(run.device)


def _build_clothes(
    recipe: Recipe, split: TrainingSplit, run: RunContext, feature_size: int
) -> tuple[CosineClassifier | ClothesMemory | None, Optimizer | None, ClothesHead | ClothesMemoryHead | None]:
    """The clothes classifier or memory, its optimizer, and the head that the update uses."""
    method, device, optim = recipe.method, run.device, recipe.optim
    if not method.clothes_loss:
        return None, None, None
    owner_N = torch.from_numpy(split.owner_N).to(device)
    scale, epsilon, classes = method.scale, method.epsilon, len(split.clothes)
    if method.clothes_memory:
        memory = ClothesMemory(feature_size, classes, momentum=method.memory_momentum).to(device)
        head = ClothesMemoryHead(memory, owner_N, scale=scale, epsilon=epsilon, world_size=run.world_size)
        return memory, None, head
    classifier = CosineClassifier(feature_size, classes).to(device)
    optimizer = build_optimizer(optim, optim.clothes_learning_rate or optim.learning_rate, classifier)
    wrapped = wrap(classifier, device, run.world_size)
    return classifier, optimizer, ClothesHead(wrapped, optimizer, owner_N, scale=scale, epsilon=epsilon)
