"""Cluster contrast (Dai et al., ACCV 2022) as a recipe chooses it: learning without person labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ccvid.cluster_contrast_options import ClusterContrastOptions
from ccvid.config import Recipe
from ccvid.model import ReIdModel
from ccvid.other_clothes_options import OtherClothesOptions
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.retrieval.gallery.clusters import Presence
from ccvid.retrieval.ranking.distances import Indices
from ccvid.run_files import GROUPS_FILE
from ccvid.training.build import average_of, build_model, compile_network, pair_term_of
from ccvid.training.checkpoint import TrainedParts
from ccvid.training.cluster_contrast_update import ClusterContrastUpdate
from ccvid.training.context import RunContext
from ccvid.training.distributed import wrap
from ccvid.training.optimizers import build_optimizer
from ccvid.training.other_clothes import heads_alone
from ccvid.training.passes import Training, TrainingPass
from ccvid.training.pseudo_identities import PseudoIdentities, group_tracklets
from ccvid.training.split import TrainingSplit
from ccvid.training.update_result import UpdateResult
from data_tools.errors import InputError
from data_tools.loader import ClipBatch
from data_tools.progress import message


def build_cluster_contrast(recipe: Recipe, split: TrainingSplit, run: RunContext) -> Training:
    """One pass over clips, whose classes are found anew every few epochs."""
    options, optim = recipe.method.own, recipe.optim
    assert isinstance(options, ClusterContrastOptions)
    model = build_model(recipe, 1, run)
    model.identity_classifier = nn.Identity()  # classes change, so there is none
    average = average_of(model, recipe.train)
    trained = wrap(model, run.device, run.world_size)
    optimizer = build_optimizer(optim, optim.learning_rate, model)
    if recipe.train.compile:
        compile_network(trained, model.backbone)
    camera_N = _of_tracklets(split, split.items.camera_I)
    compared = torch.from_numpy(camera_N if options.by_camera else 0 * camera_N)
    identities = PseudoIdentities(model.feature_size, compared, momentum=options.momentum).to(run.device)
    update = ClusterContrastUpdate(
        trained,
        optimizer,
        identities,
        options,
        pair=pair_term_of(recipe.method, run.world_size),
        world_size=run.world_size,
        clip_norm=optim.clip_norm,
    )

    def update_from(batch: ClipBatch, epoch: int) -> UpdateResult:  # noqa: ARG001
        return update(batch.frames_BTCHW, batch.person_B)

    parts = TrainedParts(model, {"model": optimizer}, {GROUPS_FILE: identities}, average)
    scored = parts.scored_model
    found = FoundGroups(
        options,
        identities,
        HeadEmbedder(scored, options.other_clothes) if options.by_head else scored,
        _of_tracklets(split, split.items.row_I).tolist(),
        camera_N,
        _of_tracklets(split, split.items.clothes_I),
        split.presence or Presence.unknown(len(camera_N)),
        recipe.batch.identities * run.world_size,
    )
    return Training(parts, (TrainingPass.of(recipe, update_from),), found)


def _of_tracklets(split: TrainingSplit, value_I: Indices) -> Indices:
    """A value of each training tracklet, from those of its items; zeros where there are no items."""
    value_N = np.zeros(len(split.persons), np.int64)
    value_N[split.items.person_I] = value_I
    return value_N


@dataclass(frozen=True, slots=True)
class FoundGroups:
    """Groups of similar training tracklets as classes, see ``FoundClasses``."""

    options: ClusterContrastOptions
    identities: PseudoIdentities
    embedder: ClipEmbedder
    rows: Sequence[int]
    camera_N: Indices
    outfit_N: Indices
    presence: Presence
    least_classes: int
    """As many as a batch of all workers has."""

    def due(self, epoch: int) -> bool:
        since = epoch - self.options.start_epoch
        return epoch == 0 or (since >= 0 and since % self.options.renew_every == 0)

    def find(self, embedding_ND: Tensor, epoch: int) -> Indices:
        """Outfits, then persons; where a grouping fails, the classes before it are kept, with a warning."""
        if epoch < self.options.start_epoch:
            self._require_classes(self.outfit_N)
            return self.outfit_N
        embedded_ND = embedding_ND.numpy()
        try:
            class_N = group_tracklets(embedded_ND, self.camera_N, self.presence, self.options, self.outfit_N)
            self._require_classes(class_N)
        except InputError as error:
            if not self.identities.groupings:
                raise
            self.identities.refused.add_(1)
            times = int(self.identities.refused)
            message(f"WARNING: epoch {epoch + 1}: groups stay as they were (now {times} times): {error}")
            kept: Indices = self.identities.class_N.cpu().numpy()
            return kept
        self.identities.groupings.add_(1)
        size_C = np.bincount(class_N)
        message(f"epoch {epoch + 1}: {(size_C > 1).sum()} groups of tracklets, {(size_C == 1).sum()} in none")
        return class_N

    def renew(self, class_N: Indices, embedding_ND: Tensor) -> None:
        self.identities.set_classes(class_N, embedding_ND)

    def class_of(self, tracklet_I: Indices) -> Indices:
        found: Indices = self.identities.class_N.cpu().numpy()[tracklet_I]
        return found

    def _require_classes(self, class_N: Indices) -> None:
        classes = int(class_N.max()) + 1
        if classes < self.least_classes:
            raise InputError(
                f"{classes} groups and single tracklets in {len(class_N)} tracklets, but a batch of all workers needs "
                f"{self.least_classes} different ones: lower --batch.identities or the number of workers, or make "
                f"smaller groups with --method.cluster_contrast.reach below {self.options.reach}"
            )


@dataclass(frozen=True, slots=True)
class HeadEmbedder:
    """Embeds clips of which only heads are seen."""

    model: ReIdModel
    options: OtherClothesOptions

    @property
    def feature_size(self) -> int:
        return self.model.feature_size

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        return self.model.embed_frames(heads_alone(frames_BTCHW, self.options))
