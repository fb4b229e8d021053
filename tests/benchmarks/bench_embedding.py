"""Embedding stored tracklets against the bare forward of the same network on ready tensors, turn by turn.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_embedding [--rounds 3] [--backbone c2d_resnet50] [--bf16] [--ray]

Both take every clip of the same tracklets (JPEG shards, 256 x 128, 8 frames), in the same batches. With --ray the
stored side is the job's own: Ray Data with one actor of all CPUs; its start and its first chunk are left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ccvid.config import ModelOptions, Recipe, ScoreOptions, TrainOptions
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.batch_size import clips_that_fit
from ccvid.retrieval.embedding.embed import embed_tracklets
from data_tools.clips import ClipOptions, all_clips
from data_tools.loading_options import LoaderOptions
from data_tools.shards import ShardFolder
from data_tools.transforms import normalise
from tests.benchmarks.bench_loader import shards_of, write_pictures
from video_backbones.factory import build_backbone

CLIP = ClipOptions(length=8, stride=4, piece=0)
TARGET = 0.9


def bare_rate(model: ReIdModel, batch: int, clips: int, options: ModelOptions) -> float:
    """Clips/s of the forward alone, repeated on one ready batch."""
    device, shape = model.device, (batch, CLIP.length, options.height, options.width, 3)
    frames_BTHWC = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    ready = normalise(frames_BTHWC.permute(0, 1, 4, 2, 3))
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(clips // batch):
            model.embed(ready)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clips // batch * batch / (time.perf_counter() - started)


def recipe(options: ModelOptions, batch: int, threads: int) -> Recipe:
    loader, score = LoaderOptions(threads=threads), ScoreOptions(clips_per_batch=batch)
    train = TrainOptions(log_every_seconds=1e9)
    return Recipe(clip=CLIP, model=options, loader=loader, score=score, train=train)


def stored_rate(
    model: ReIdModel, store: ShardFolder, rows: list[int], options: ModelOptions, batch: int, threads: int = 2
) -> float:
    """Clips/s of ``embed_tracklets``."""
    started = time.perf_counter()
    _, count_T = embed_tracklets(model, store, rows, recipe(options, batch, threads))
    return int(count_T.sum()) / (time.perf_counter() - started)


def ray_rate(model: ReIdModel, shards: Path, rows: list[int], options: ModelOptions, batch: int, place: Path) -> float:
    """Clips/s of the job's actor pool, between its first and its last chunk."""
    from ccvid.config import ComputeOptions
    from ccvid.retrieval.embedding.store import EmbedderDescription, open_store
    from ccvid.retrieval.embedding.table import read_embeddings
    from data_tools.storage import StorageFolder
    from ray_jobs.cluster.connection import connect
    from ray_jobs.cluster.workers import Workers
    from ray_jobs.scoring import actors as embedding

    connect()
    store = ShardFolder(shards)
    asked = recipe(options, batch, LoaderOptions().threads)
    embedder = EmbedderDescription.of("m", model.backbone.feature_size, asked)
    embedding.BATCHES_PER_CHUNK = 1
    embedding.embed_into(
        open_store(StorageFolder(str(place)), embedder),
        frozenset(store.rows[row].id for row in rows),
        model,
        store,
        rows,
        asked,
        str(shards),
        Workers(ComputeOptions(workers=1)),
    )
    written = sorted((part.stat().st_mtime, part) for part in place.glob("part-*.parquet"))
    clips = sum(row.clip_count for _, part in written[1:] for row in read_embeddings(part).rows)
    return clips / (written[-1][0] - written[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tracklets", type=int, default=8)
    parser.add_argument("--backbone", default="c2d_resnet50")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--ray", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = ModelOptions(backbone=arguments.backbone, weights="random")
    model = ReIdModel(
        build_backbone(arguments.backbone, weights="random"),
        nn.Identity(),
        autocast_dtype=torch.bfloat16 if arguments.bf16 else None,
    ).eval()
    model.to(device)
    batch = clips_that_fit(model, CLIP.length, options)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "pictures").mkdir()
        store = shards_of(write_pictures(root / "pictures"), root / "shards", "jpeg")
        rows = list(range(min(arguments.tracklets, len(store.rows))))
        clips = sum(len(all_clips(store.rows[row].frame_count, CLIP)) for row in rows)
        ways: list[Callable[[], float]] = [
            lambda: bare_rate(model, batch, clips, options),
            lambda: stored_rate(model, store, rows, options, batch),
        ]
        if arguments.ray:
            ways.append(
                lambda: ray_rate(model, root / "shards", rows, options, batch, Path(tempfile.mkdtemp(dir=root)))
            )
        rounds = [[way() for way in ways] for _ in range(arguments.rounds + 1)][1:]
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    precision = "bf16" if arguments.bf16 else "float32"
    print(
        f"\n{name}, torch {torch.__version__}, {arguments.backbone}, {precision}, {clips} clips a round, batches of "
        f"{batch}, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| what | clips/s | of the bare forward | lowest … highest | target | |\n|---|---|---|---|---|---|")
    print(f"| bare forward | {statistics.median(rates[0] for rates in rounds):.2f} |")
    for number, what in enumerate(("embed_tracklets", "Ray Data actor")[: len(ways) - 1], start=1):
        ratios = sorted(rates[number] / rates[0] for rates in rounds)
        ratio = statistics.median(ratios)
        verdict = "met" if ratio >= TARGET else "MISSED"
        rate = statistics.median(rates[number] for rates in rounds)
        print(f"| {what} | {rate:.2f} | {ratio:.2f} | {ratios[0]:.2f} … {ratios[-1]:.2f} | {TARGET} | {verdict} |")


if __name__ == "__main__":
    main()
