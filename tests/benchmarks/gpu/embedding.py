"""Embedding stored tracklets against the bare forward on ready clips, at the chosen batch size."""

from __future__ import annotations

import statistics

import torch
from torch import nn

from ccvid.config import ModelOptions
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.batch_size import clips_that_fit
from data_tools.clips import all_clips
from tests.benchmarks.bench_embedding import CLIP, bare_rate, stored_rate
from tests.benchmarks.gpu.device import cpu_cores
from tests.benchmarks.gpu.task import Task, stored_tracklets
from video_backbones.factory import build_backbone

OF_BARE, MOST_MEMORY = 0.95, 0.9
THREADS = 8
"""As in the recipe `ccvid_cal`."""


def run(task: Task) -> None:
    height, width = task.sizes.frame
    options = ModelOptions(backbone=task.sizes.backbone, weights="random", height=height, width=width)
    torch.manual_seed(0)
    backbone = build_backbone(options.backbone, weights="random")
    model = ReIdModel(backbone, nn.Identity(), autocast_dtype=torch.bfloat16).to(task.device).eval()
    batch = clips_that_fit(model, CLIP.length, options)
    task.results.fact("clips in a batch, as found", batch, "{:.0f}")
    _run_batch(task, model, batch, options)
    store = stored_tracklets(task)
    rows = list(range(min(task.sizes.embedded, len(store.rows))))
    clips = sum(len(all_clips(store.rows[row].frame_count, CLIP)) for row in rows)
    cores = cpu_cores()
    for threads in sorted({min(THREADS, cores), cores}):
        stored_rate(model, store, rows, options, batch, threads)  # allocates pinned memory, chooses kernels
        bare, stored = [], []
        for _ in range(3):
            bare.append(bare_rate(model, batch, max(clips, batch), options))
            stored.append(stored_rate(model, store, rows, options, batch, threads))
        task.results.fact(f"bare forward, bf16: clips/s (beside {threads} threads)", statistics.median(bare), "{:,.0f}")
        task.results.fact(f"embed_tracklets, {threads} threads: clips/s", statistics.median(stored), "{:,.0f}")
        ratio = statistics.median(here / forward for here, forward in zip(stored, bare, strict=True))
        task.results.at_least(f"embed_tracklets, {threads} threads: of the bare forward", ratio, OF_BARE)


def _run_batch(task: Task, model: ReIdModel, batch: int, options: ModelOptions) -> None:
    """One full batch of the chosen size: it must not run out of memory."""
    shape = (batch, CLIP.length, 3, options.height, options.width)
    frames_BTCHW = torch.zeros(shape, dtype=torch.uint8, device=task.device)
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    with torch.no_grad():
        feature_BD = model.embed_frames(frames_BTCHW)
    task.results.holds("a batch of that size runs, and its features are finite", bool(feature_BD.isfinite().all()))
    if task.device.type == "cuda":
        _, total = torch.cuda.mem_get_info(task.device)
        peak = torch.cuda.max_memory_reserved(task.device)
        task.results.at_most("most memory taken, of the card's", peak / total, MOST_MEMORY, "{:.0%}")
