"""Embedding stored tracklets with trained weights into an embedding store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import nn

from ccvid.config import ModelOptions, Recipe
from ccvid.model import ReIdModel
from ccvid.model_cost import ModelCost, measure_cost
from ccvid.onnx_model import OnnxModel, read_onnx_model
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.retrieval.embedding.embedder_doubts import doubts_of_embedder
from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store, read_embedder
from ccvid.trained_model import TrainedModel, find_checkpoint, read_trained_model
from data_tools.clips import ClipOptions
from data_tools.progress import message
from data_tools.shard_cache import CacheOptions
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from ray_jobs.cluster.machines import decide_precision
from ray_jobs.cluster.workers import Workers
from ray_jobs.scoring.actors import embed_into


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome of an embedding job."""

    embeddings: EmbeddingStore
    ids: frozenset[str]
    """Tracklets that are new in the store."""
    unreadable: list[str]
    """A message for each tracklet that could not be read, which is left out."""
    warnings: list[str]
    """What looks wrong with the features of a graph."""


@dataclass(frozen=True, slots=True)
class UsedModel:
    """The embedding model: a network with trained weights, or a graph in ONNX."""

    embedder: ClipEmbedder
    fingerprint: str
    options: ModelOptions
    clip: ClipOptions | None
    """The clips it embeds; None: those of the recipe."""
    name: str
    """Of the network, for titles."""

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe with the model's own network, frame size and clips; a graph computes in its own precision."""
        own = recipe.model_copy(update={"model": self.options, "clip": self.clip or recipe.clip})
        return own if isinstance(self.embedder, ReIdModel) else own.with_bf16(False)

    def describe(self, recipe: Recipe) -> EmbedderDescription:
        """What embeddings depend on besides the data; ``recipe`` is what ``applied_to`` returns."""
        return EmbedderDescription.of(self.fingerprint, self.embedder.feature_size, recipe)

    def computing(self, recipe: Recipe) -> ClipEmbedder:
        """The embedder in the recipe's precision."""
        if not isinstance(self.embedder, ReIdModel):
            return self.embedder
        autocast = torch.bfloat16 if recipe.train.bf16 is True else None
        return ReIdModel(self.embedder.backbone, nn.Identity(), autocast_dtype=autocast).eval()


def read_model(source: StorageFolder, options: ModelOptions) -> UsedModel:
    """Read the model in float32: trained weights (run folder, checkpoint or file), or an ``.onnx`` file with its card.

    Raises the errors of ``read_trained_model`` and ``read_onnx_model``.
    """
    if source.name.endswith(".onnx"):
        with source.parent.fetched() as folder:
            return _used_graph(read_onnx_model(folder / source.name), options, source.name)
    trained = read_weights(source, options)
    model = ReIdModel(trained.backbone, nn.Identity()).eval()
    return UsedModel(model, trained.fingerprint, trained.options, trained.clip, trained.options.backbone)


def _used_graph(onnx: OnnxModel, options: ModelOptions, file: str) -> UsedModel:
    """A graph, with its own size of frames."""
    card = onnx.card
    own = {"height": card.height, "width": card.width, "resize_filter": card.resize_filter}
    return UsedModel(onnx, onnx.fingerprint, options.model_copy(update=own), onnx.clip, card.name or file)


def read_weights(source: StorageFolder, options: ModelOptions) -> TrainedModel:
    """Read trained weights of a run folder, a checkpoint or a file, see ``read_trained_model``."""
    checkpoint = find_checkpoint(source) if source.is_folder() else source
    with checkpoint.fetched() as path:
        return read_trained_model(path, options)


def keep_precision(used: UsedModel, recipe: Recipe, place: StorageFolder, others: Collection[str] = ()) -> Recipe:
    """If the recipe says auto, use the precision of the embeddings with which the new ones will be compared.

    Args:
        place: the embedding store, which may not exist yet.
        others: fingerprints of other embeddings' descriptions.
    """
    if recipe.train.bf16 == "auto":
        store = read_embedder(place)
        for decided in (recipe.with_bf16(False), recipe.with_bf16(True)):
            own = used.describe(decided)
            if own == store or own.fingerprint in others:
                return decided
    return recipe


def embed_data(
    used: UsedModel,
    recipe: Recipe,
    shards: str,
    store: ShardFolder,
    rows: list[int],
    place: StorageFolder,
    cache: CacheOptions | None = None,
) -> Embedded:
    """Embed the stored tracklets that the embedding store at ``place`` lacks, in its precision.

    Args:
        recipe: what ``used.applied_to`` returns.
        cache: where nodes keep copies of the store's parts; None for a store that is soon deleted.

    Raises:
        InputError: the store belongs to another model, or as ``embed_into``.
        OSError: the store cannot be written.
    """
    workers, clip = Workers(recipe.compute), recipe.clip
    recipe = decide_precision(keep_precision(used, recipe, place), workers)
    embeddings = open_store(place, used.describe(recipe), cache)
    embeddings.add_source(shards)
    stored = store.rows.take(rows)
    fingerprints = store.fingerprints(stored).cast(pa.string()).to_pylist()
    with embeddings.adding():
        lacking = embeddings.missing(dict(zip(stored.values("id"), fingerprints, strict=True)))
        message(
            f"embedding {len(lacking)} of {len(rows)} tracklets, clips of {clip.length} frames at stride "
            f"{clip.stride}, {recipe.model.height}x{recipe.model.width}, {workers}"
        )
        warnings = _doubts(used, store, rows, recipe) if lacking else []
        unreadable = embed_into(embeddings, lacking, used.computing(recipe), store, rows, recipe, shards, workers)
    for problem in unreadable:
        message(f"left out: {problem}")
    return Embedded(embeddings, lacking, unreadable, warnings)


def _doubts(used: UsedModel, store: ShardFolder, rows: list[int], recipe: Recipe) -> list[str]:
    """What looks wrong with the features of a graph, whose card may not tell how it was trained."""
    if not isinstance(used.embedder, OnnxModel):
        return []
    doubts = doubts_of_embedder(used.embedder, store, rows, recipe)
    warnings = [f"{used.name}: {doubt}; check colours, range, mean and std in its card" for doubt in doubts]
    for warning in warnings:
        message(f"warning: {warning}")
    return warnings


def cost_of(used: UsedModel, recipe: Recipe) -> ModelCost:
    """What a clip costs in this process, on its GPU if the recipe uses one.

    Raises:
        InputError: a graph does not take such clips.
    """
    recipe = used.applied_to(recipe)
    device = "cuda" if torch.cuda.is_available() and recipe.compute.use_gpu is not False else "cpu"
    clip_size = recipe.clip.length, recipe.model.height, recipe.model.width
    return measure_cost(used.computing(recipe), clip_size, device)
