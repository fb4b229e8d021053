"""The batch size for embedding."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ccvid.config import ModelOptions
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder

CPU_CLIPS = 16
"""Larger batches are no faster on a CPU."""
MOST_CLIPS = 256
MEMORY_SHARE = 0.7
"""Share of the free memory to use; the rest is for prefetched clips and fragmentation."""


def clips_that_fit(model: ClipEmbedder, frames: int, options: ModelOptions) -> int:
    """Batch size for clips of ``frames`` frames on the model's device: 16 on a CPU, or what fits a GPU's memory.

    A power of two, estimated from the memory of small batches and not from timings, so that the same GPU with the same
    free memory always gives the same number: the last bits of embeddings depend on it.
    """
    place = model.device
    if place.type != "cuda":
        return CPU_CLIPS

    def peak_bytes(clips: int) -> int:
        torch.cuda.reset_peak_memory_stats(place)
        before = torch.cuda.memory_allocated(place)
        frames_BTCHW = torch.zeros((clips, frames, 3, options.height, options.width), dtype=torch.uint8, device=place)
        with torch.no_grad():
            model.embed_frames(frames_BTCHW)
        return torch.cuda.max_memory_allocated(place) - before

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(place)
    return largest_batch(peak_bytes, int(MEMORY_SHARE * free))


def largest_batch(peak_bytes: Callable[[int], int], room: int) -> int:
    """The largest power of two up to ``MOST_CLIPS`` that fits ``room`` bytes, extrapolated from batches of 2 and 4."""
    two, four = peak_bytes(2), peak_bytes(4)
    each = max(1, -(-(four - two) // 2))
    fixed = max(0, two - 2 * each)
    clips = 1
    while clips < MOST_CLIPS and fixed + 2 * clips * each <= room:
        clips *= 2
    return clips
