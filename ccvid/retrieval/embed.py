"""From stored tracklets to embeddings: every clip through the model, averaged. Labels play no part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ccvid.config import ModelOptions, ScoreOptions
from ccvid.model import ReIdModel
from ccvid.retrieval.batch_size import clips_that_fit
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
    score: ScoreOptions,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Embed stored tracklets in eval mode.

    Args:
        rows: indices into ``store.rows``.
        score: with ``flip``, a clip's feature is the sum of its own and that of its mirror image.
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
        clips_per_batch=score.clips_per_batch or clips_that_fit(model, clip.length, options, device),
        options=loader,
        resize_filter=options.resize_filter,
        pin_memory=device.type == "cuda",
    )
    was_training = model.training
    model.eval()
    with torch.no_grad():  # inference mode would mark the frames, which the loader's threads fill
        for batch in batches:
            frames_BTCHW = normalise(batch.to(device, non_blocking=True).frames_BTCHW)
            feature_BD = model.embed(frames_BTCHW)
            if score.flip:
                feature_BD = feature_BD + model.embed(frames_BTCHW.flip(-1))
            pool.add(feature_BD, number_of[batch.tracklet_B])
            if progress is not None:
                progress(len(batch))
    model.train(was_training)
    return pool.embeddings(), pool.clip_count_T
