"""How many clips are embedded at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ccvid.config import ModelOptions
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder

CPU_CLIPS = 16
"""More are no faster on a CPU."""
MOST_CLIPS = 256
MEMORY_SHARE = 0.7
"""Of what is free; the rest is for clips on their way and for the allocator's gaps."""


def clips_that_fit(model: ClipEmbedder, frames: int, options: ModelOptions) -> int:
    """Clips of so many frames that ``model`` embeds at a time where it is: 16, or what a GPU's memory holds.

    A power of two, found by the memory that small batches take and not by a timing, so that the same GPU with the
    same free memory gives the same number: embeddings depend on it in their last bits.
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
    """The largest power of two up to ``MOST_CLIPS`` whose batch takes at most ``room`` bytes, by those of 2 and 4."""
    two, four = peak_bytes(2), peak_bytes(4)
    each = max(1, -(-(four - two) // 2))
    fixed = max(0, two - 2 * each)
    clips = 1
    while clips < MOST_CLIPS and fixed + 2 * clips * each <= room:
        clips *= 2
    return clips
