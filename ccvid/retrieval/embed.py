"""From stored tracklets to embeddings: every clip through the model, averaged. Labels play no part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ccvid.config import ModelOptions
from ccvid.model import ReIdModel
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
    position = torch.full((len(store.rows),), -1)
    position[list(rows)] = torch.arange(len(rows))
    total_RD = torch.zeros(len(rows), model.backbone.feature_size, dtype=torch.float64, device=device)
    count_R = torch.zeros(len(rows), dtype=torch.int64)
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
            row_B = position[batch.tracklet_B]
            count_R += torch.bincount(row_B, minlength=len(rows))
            feature_BD = model.embed(normalise(batch.to(device, non_blocking=True).frames_BTCHW))
            total_RD.index_add_(0, row_B.to(device), feature_BD.double())
            if progress is not None:
                progress(len(batch))
    model.train(was_training)
    # The mean has the direction of the sum.
    return nn.functional.normalize(total_RD, dim=1).float().cpu(), count_R
