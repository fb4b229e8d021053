"""CAL (Gu et al., CVPR 2022) as a recipe chooses it, and the identity baseline, which is CAL without a clothes head."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from ccvid.config import Recipe
from ccvid.model import ClothesMemory, CosineClassifier
from ccvid.run_files import CLOTHES_FILE
from ccvid.training.build import average_of, build_model, compile_network, identity_loss_of, pair_term_of
from ccvid.training.cal_update import CalUpdate
from ccvid.training.checkpoint import TrainedParts
from ccvid.training.clothes_heads import ClothesHead, ClothesMemoryHead
from ccvid.training.context import RunContext
from ccvid.training.distributed import wrap
from ccvid.training.optimizers import build_optimizer
from ccvid.training.passes import Training, TrainingPass
from ccvid.training.split import TrainingSplit
from ccvid.training.update_result import UpdateResult
from data_tools.loader import ClipBatch
from data_tools.transforms import normalise


def build_cal_training(recipe: Recipe, split: TrainingSplit, run: RunContext) -> Training:
    """One pass over clips, with both updates of CAL for each batch."""
    parts, update = build_cal(recipe, split, run)

    def update_from(batch: ClipBatch, epoch: int) -> UpdateResult:
        begun = epoch >= recipe.method.start_epoch
        frames_BTCHW = normalise(batch.frames_BTCHW)
        return update(frames_BTCHW, batch.person_B, batch.clothes_B, train_clothes=begun, adversarial=begun)

    return Training(parts, (TrainingPass.of(recipe, update_from),))


def build_cal(recipe: Recipe, split: TrainingSplit, run: RunContext) -> tuple[TrainedParts, CalUpdate]:
    """The parts that CAL trains, on the run's device, and the update that trains them."""
    method, optim = recipe.method, recipe.optim
    model = build_model(recipe, len(split.persons), run)
    average = average_of(model, recipe.train)
    trained = wrap(model, run.device, run.world_size)
    optimizer = build_optimizer(optim, optim.learning_rate, model)
    classifier, clothes_optimizer, head = _build_clothes(recipe, split, run, model.backbone.feature_size)
    if recipe.train.compile:
        compile_network(trained, model.backbone)
    update = CalUpdate(
        trained,
        optimizer,
        head,
        identity=identity_loss_of(method),
        adversarial_weight=method.weight,
        pair=pair_term_of(method, run.world_size),
        clip_norm=optim.clip_norm,
    )
    optimizers = {"model": optimizer} | ({} if clothes_optimizer is None else {"clothes": clothes_optimizer})
    heads: dict[str, nn.Module] = {} if classifier is None else {CLOTHES_FILE: classifier}
    return TrainedParts(model, optimizers, heads, average), update


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
