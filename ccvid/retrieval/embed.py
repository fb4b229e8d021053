"""From stored tracklets to embeddings: every clip through the model, averaged. Labels play no part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ccvid.config import ModelOptions
from ccvid.model import ReIdModel
from ccvid.retrieval.embeddings import ClipPool
from data_tools.clips import ClipOptions
from data_tools.loader import LoaderOptions, tracklet_clips
from data_tools.shards import ShardFolder
from data_tools.transforms import normalise


def embed_tracklets(
    model: ReIdModel,
    store: ShardFolder,
    rows: Sequence[int],
    *,
    clip: ClipOptions,
    options: ModelOptions,
    loader: LoaderOptions,
    clips_per_batch: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed stored tracklets in eval mode.

    Args:
        rows: indices into ``store.rows``.
        progress: told how many clips each batch added.

    Returns:
        float32 (rows, D) on the CPU, L2-normalised means of the clips' features, and int64 (rows,) clip counts.
    """
    device = next(model.parameters()).device
    number_of = torch.full((len(store.rows),), -1)
    number_of[list(rows)] = torch.arange(len(rows))
    pool = ClipPool(len(rows), model.backbone.feature_size, device)
    batches = tracklet_clips(
        store,
        rows,
        clip=clip,
        image_size=(options.height, options.width),
        clips_per_batch=clips_per_batch,
        options=loader,
        pin_memory=device.type == "cuda",
    )
    was_training = model.training
    model.eval()
    with torch.no_grad():  # inference mode would mark the frames, which the loader's threads fill
        for batch in batches:
            feature_BD = model.embed(normalise(batch.to(device, non_blocking=True).frames_BTCHW))
            pool.add(feature_BD, number_of[batch.tracklet_B])
            if progress is not None:
                progress(len(batch))
    model.train(was_training)
    return pool.embeddings(), pool.clip_count_T
