"""Embed stored tracklets: the mean feature of all clips of each. Labels are not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

import torch
from torch import Tensor

from ccvid.config import Recipe
from ccvid.retrieval.embedding.batch_size import clips_that_fit
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.retrieval.embedding.table import ClipPool
from data_tools.loader import tracklet_clips
from data_tools.stored_frames import FrameStore


def embed_tracklets(
    model: ClipEmbedder,
    store: FrameStore,
    rows: Sequence[int],
    recipe: Recipe,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed stored tracklets.

    Args:
        rows: indices into ``store.rows``.
        recipe: its clips, frame size, loader and scoring options. With ``score.flip``, a clip's feature is the sum of
            its own and that of its mirror image.
        progress: called with the number of clips of each batch.

    Returns:
        float32 (rows, D) on the CPU, L2-normalised means of the clips' features, and int64 (rows,) clip counts.
    """
    device, clip, options = model.device, recipe.clip, recipe.model
    number_of = torch.full((len(store.rows),), -1)
    number_of[list(rows)] = torch.arange(len(rows))
    pool = ClipPool(len(rows), model.feature_size, device)
    batches = tracklet_clips(
        store,
        rows,
        clip=clip,
        image_size=(options.height, options.width),
        clips_per_batch=recipe.score.clips_per_batch or clips_that_fit(model, clip.length, options),
        options=recipe.loader,
        resize_filter=options.resize_filter,
        pin_memory=device.type == "cuda",
    )
    with closing(batches), torch.no_grad():  # not inference mode: the loader's threads reuse the frames
        for batch in batches:
            frames_BTCHW = batch.to(device, non_blocking=True).frames_BTCHW
            feature_BD = model.embed_frames(frames_BTCHW)
            if recipe.score.flip:
                feature_BD = feature_BD + model.embed_frames(frames_BTCHW.flip(-1))
            pool.add(feature_BD, number_of[batch.tracklet_B])
            if progress is not None:
                progress(len(batch))
    return pool.embeddings(), pool.clip_count_T
