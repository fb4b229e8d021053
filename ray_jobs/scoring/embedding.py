"""Embedding stored tracklets with trained weights into an embedding store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import nn

from ccvid.config import ModelOptions, Recipe
from ccvid.exported_model import read_onnx_model
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store, read_embedder
from ccvid.trained_model import TrainedModel, find_checkpoint, read_trained_model
from data_tools.clips import ClipOptions
from data_tools.progress import message
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from ray_jobs.cluster.machines import decide_precision
from ray_jobs.cluster.workers import Workers
from ray_jobs.scoring.actors import EmbeddingOptions, embed_into


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome of an embedding job."""

    embeddings: EmbeddingStore
    ids: frozenset[str]
    """Tracklets that are new in the store."""
    unreadable: list[str]
    """A message for each tracklet that could not be read, which is left out."""


@dataclass(frozen=True, slots=True)
class UsedModel:
    """The embedding model: a network with trained weights, or an exported graph."""

    embedder: ClipEmbedder
    fingerprint: str
    options: ModelOptions
    clip: ClipOptions | None
    """The clips it was trained on; None if unknown."""
    bf16: bool = False

    def in_precision(self, bf16: bool) -> UsedModel:
        """The same model, computing in bfloat16 or float32; an exported graph stays in float32."""
        if not isinstance(self.embedder, ReIdModel):
            return self
        model = ReIdModel(self.embedder.backbone, nn.Identity(), autocast_dtype=torch.bfloat16 if bf16 else None)
        return replace(self, embedder=model.eval(), bf16=bf16)


def read_model(source: StorageFolder, options: ModelOptions) -> UsedModel:
    """Read the model in float32: trained weights (run folder, checkpoint or file) or an exported ``.onnx`` file.

    Raises the errors of ``read_trained_model`` and ``read_onnx_model``.
    """
    if source.name.endswith(".onnx"):
        with source.parent.fetched() as folder:
            onnx = read_onnx_model(folder / source.name)
        return UsedModel(onnx, onnx.fingerprint, onnx.card.model, onnx.card.clip)
    trained = read_weights(source, options)
    model = ReIdModel(trained.backbone, nn.Identity()).eval()
    return UsedModel(model, trained.fingerprint, trained.options, trained.clip)


def read_weights(source: StorageFolder, options: ModelOptions) -> TrainedModel:
    """Read trained weights of a run folder, a checkpoint or a file, see ``read_trained_model``."""
    checkpoint = find_checkpoint(source) if source.is_folder() else source
    with checkpoint.fetched() as path:
        return read_trained_model(path, options)


def describe(used: UsedModel, recipe: Recipe) -> EmbedderDescription:
    """What the embeddings of a recipe's data depend on besides the data; the model's clips override the recipe's."""
    return EmbedderDescription.of(
        used.fingerprint,
        used.embedder.feature_size,
        used.options,
        used.clip or recipe.clip,
        flip=recipe.score.flip,
        bf16=used.bf16,
    )


def keep_precision(used: UsedModel, recipe: Recipe, place: StorageFolder, others: Collection[str] = ()) -> Recipe:
    """If the recipe says auto, use the precision of the embeddings with which the new ones will be compared.

    Args:
        place: the embedding store, which may not exist yet.
        others: fingerprints of other embeddings' descriptions.
    """
    if recipe.train.bf16 == "auto":
        store = read_embedder(place)
        for bf16 in (False, True):
            own = describe(used.in_precision(bf16), recipe)
            if own == store or own.fingerprint in others:
                return recipe.with_bf16(bf16)
    return recipe


def decide_embedder(used: UsedModel, recipe: Recipe, workers: Workers) -> UsedModel:
    """Inspect the machines that embed, report the findings, and decide the precision, see ``decide_precision``."""
    own = recipe.model_copy(update={"model": used.options, "clip": used.clip or recipe.clip})
    if not isinstance(used.embedder, ReIdModel):
        own = own.with_bf16(False)
    return used.in_precision(decide_precision(own, workers).train.bf16 is True)


def embed_data(
    used: UsedModel, recipe: Recipe, shards: str, store: ShardFolder, rows: list[int], place: StorageFolder
) -> Embedded:
    """Embed the stored tracklets that the embedding store at ``place`` lacks, in its precision.

    Clips, frame size and network stored in the checkpoint override the recipe's.

    Raises:
        InputError: the store belongs to another model, or as ``embed_into``.
        OSError: the store cannot be written.
    """
    clip, workers, options = used.clip or recipe.clip, Workers(recipe.compute), used.options
    recipe = keep_precision(used, recipe, place)
    used = decide_embedder(used, recipe, workers)
    embeddings = open_store(place, describe(used, recipe))
    embeddings.add_source(shards)
    lacking = embeddings.missing({store.rows[row].id: store.fingerprint(row) for row in rows})
    message(
        f"embedding {len(lacking)} of {len(rows)} tracklets, clips of {clip.length} frames at stride {clip.stride}, "
        f"{options.height}x{options.width}, {workers}"
    )
    unreadable = embed_into(
        embeddings,
        lacking,
        used.embedder,
        store,
        rows,
        EmbeddingOptions(clip, options, recipe.loader, recipe.score, shards, recipe.data.cache),
        workers,
        log_every_seconds=recipe.train.log_every_seconds,
    )
    for problem in unreadable:
        message(f"left out: {problem}")
    return Embedded(embeddings, lacking, unreadable)
