"""From trained weights and stored tracklets to an embedding store."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ccvid.config import ModelOptions, Recipe
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding_store import EmbedderDescription, EmbeddingStore, open_store
from ccvid.trained_model import TrainedModel, find_checkpoint, read_trained_model
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


def read_model(source: StorageFolder, options: ModelOptions) -> TrainedModel:
    """Trained weights of a run folder, a checkpoint or a file, see ``read_trained_model``; raises as that does."""
    checkpoint = find_checkpoint(source) if source.is_folder() else source
    with checkpoint.fetched() as path:
        return read_trained_model(path, options)


def embed_data(
    trained: TrainedModel, recipe: Recipe, shards: str, store: ShardFolder, rows: list[int], place: StorageFolder
) -> Embedded:
    """Embed stored tracklets into the embedding store at ``place``, those that it lacks.

    The checkpoint's own clips, frame size and network go before the recipe's, where it holds them.

    Raises:
        InputError: the store is another embedder's, or as ``embed_into``.
        OSError: the store cannot be written.
    """
    clip, workers, options = trained.clip or recipe.clip, Workers(recipe.compute), trained.options
    embeddings = open_store(
        place,
        EmbedderDescription.of(
            trained.fingerprint,
            trained.backbone.feature_size,
            options,
            clip,
            flip=recipe.score.flip,
            bf16=recipe.train.bf16,
        ),
    )
    embeddings.add_source(shards)
    model = ReIdModel(
        trained.backbone, nn.Identity(), autocast_dtype=torch.bfloat16 if recipe.train.bf16 else None
    ).eval()
    lacking = embeddings.missing({store.rows[row].id: store.fingerprint(row) for row in rows})
    print(
        f"embedding {len(lacking)} of {len(rows)} tracklets, clips of {clip.length} frames at stride {clip.stride}, "
        f"{options.height}x{options.width}, {workers}",
        flush=True,
    )
    unreadable = embed_into(
        embeddings,
        lacking,
        model,
        store,
        rows,
        EmbeddingOptions(clip, options, recipe.loader, recipe.score, shards, recipe.data.cache),
        workers,
        log_every_seconds=recipe.train.log_every_seconds,
    )
    for message in unreadable:
        print(f"left out: {message}", flush=True)
    return Embedded(embeddings, lacking, unreadable)
