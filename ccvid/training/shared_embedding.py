"""Embedding stored tracklets by all training workers together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ccvid.config import Recipe
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.training.context import RunContext
from ccvid.training.distributed import Agreement, broadcast_state, gather_rows
from data_tools.clips import count_clips
from data_tools.errors import InputError
from data_tools.progress import Meter
from data_tools.shards import ShardFolder


def embed_together(
    model: ReIdModel,
    store: ShardFolder,
    rows: Sequence[int],
    recipe: Recipe,
    run: RunContext,
    agreement: Agreement,
    *,
    within: str = "",
    embedder: ClipEmbedder | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed with rank 0's weights, each rank its share; every rank must call it.

    Args:
        rows: indices into ``store.rows``.
        within: title of the work that this is a part of, for progress lines.
        embedder: what embeds, with the model; default: the model itself.

    Returns:
        float32 embeddings (rows, D) and int64 clip counts (rows,) of all rows, on every rank's CPU.

    Raises:
        StoppedTogetherError: a rank could not decode a frame.
    """
    broadcast_state(model, run.world_size)
    own = list(rows[run.rank :: run.world_size])
    clips = int(count_clips(store.rows.frame_count_N[own], recipe.clip).sum())
    every = recipe.train.log_every_seconds
    meter = (
        Meter("embedding", clips, "clips", within=within, every_seconds=every, brief=True) if run.rank == 0 else None
    )

    def progress(clips: int) -> None:
        run.alive()
        if meter is not None:
            meter.add(clips, clips=clips)

    problem = None
    was_training = model.training
    model.eval()
    try:
        embedding, count = embed_tracklets(embedder or model, store, own, recipe, progress)
    except InputError as error:
        problem = str(error)
    model.train(was_training)
    agreement.stop_if_any(problem)
    run.rest()  # rank 0 may now spend long on scoring
    return gather_rows(embedding, run.world_size), gather_rows(count, run.world_size)
