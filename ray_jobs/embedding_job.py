"""From trained weights and stored tracklets to an embedding store."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ccvid.config import ModelOptions, Recipe
from ccvid.exported_model import read_onnx_model
from ccvid.model import ReIdModel
from ccvid.retrieval.clip_embedder import ClipEmbedder
from ccvid.retrieval.embedding_store import EmbedderDescription, EmbeddingStore, open_store
from ccvid.trained_model import TrainedModel, find_checkpoint, read_trained_model
from data_tools.clips import ClipOptions
from data_tools.progress import message
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from ray_jobs.cluster import Workers
from ray_jobs.embedding import EmbeddingOptions, embed_into


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an embedding job did."""

    embeddings: EmbeddingStore
    ids: frozenset[str]
    """Tracklets that were not in the store before."""
    unreadable: list[str]
    """A message for each tracklet that could not be read, which is left out."""


@dataclass(frozen=True, slots=True)
class UsedModel:
    """What embeds: a network of trained weights, or an exported graph."""

    embedder: ClipEmbedder
    fingerprint: str
    options: ModelOptions
    clip: ClipOptions | None
    """The clips it was trained on; None where that is not known."""
    bf16: bool


def read_model(source: StorageFolder, options: ModelOptions, *, bf16: bool) -> UsedModel:
    """What embeds: trained weights of a run folder, a checkpoint or a file, or an exported ``.onnx`` file.

    An exported graph computes in float32, whatever ``bf16`` says. Raises as ``read_trained_model`` and
    ``read_onnx_model`` do.
    """
    if source.name.endswith(".onnx"):
        with source.parent.fetched() as folder:
            onnx = read_onnx_model(folder / source.name)
        return UsedModel(onnx, onnx.fingerprint, onnx.card.model, onnx.card.clip, bf16=False)
    trained = read_weights(source, options)
    dtype = torch.bfloat16 if bf16 else None
    model = ReIdModel(trained.backbone, nn.Identity(), autocast_dtype=dtype).eval()
    return UsedModel(model, trained.fingerprint, trained.options, trained.clip, bf16)


def read_weights(source: StorageFolder, options: ModelOptions) -> TrainedModel:
    """Trained weights of a run folder, a checkpoint or a file, see ``read_trained_model``; raises as that does."""
    checkpoint = find_checkpoint(source) if source.is_folder() else source
    with checkpoint.fetched() as path:
        return read_trained_model(path, options)


def describe(used: UsedModel, recipe: Recipe) -> EmbedderDescription:
    """What the embeddings of a recipe's data depend on but the data; the model's own clips go before the recipe's."""
    return EmbedderDescription.of(
        used.fingerprint,
        used.embedder.feature_size,
        used.options,
        used.clip or recipe.clip,
        flip=recipe.score.flip,
        bf16=used.bf16,
    )


def embed_data(
    used: UsedModel, recipe: Recipe, shards: str, store: ShardFolder, rows: list[int], place: StorageFolder
) -> Embedded:
    """Embed stored tracklets into the embedding store at ``place``, those that it lacks.

    The checkpoint's own clips, frame size and network go before the recipe's, where it holds them.

    Raises:
        InputError: the store is another embedder's, or as ``embed_into``.
        OSError: the store cannot be written.
    """
    clip, workers, options = used.clip or recipe.clip, Workers(recipe.compute), used.options
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
