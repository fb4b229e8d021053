"""The input of each part of `bench_gpu`, and the trainer that several of them measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.trainer import Trainer
from data_tools.datasets.problems import Dataset
from data_tools.loader import ClipBatch
from data_tools.shard_index import ShardRows
from data_tools.shard_plan import ShardOptions
from data_tools.shards import ShardFolder
from tests.benchmarks.bench_loader import write_pictures
from tests.benchmarks.bench_step import recipe_values
from tests.benchmarks.gpu.results import Results
from tests.benchmarks.gpu.sizes import Sizes
from tests.made_shards import make_shards


@dataclass(frozen=True, slots=True)
class Task:
    """``work`` is a folder shared by all parts; ``compile``: try torch.compile too."""

    device: torch.device
    sizes: Sizes
    work: Path
    results: Results
    compile: bool


def stored_tracklets(task: Task) -> ShardFolder:
    """Made-up pictures as JPEG shards, made once for all parts; the rows repeat them under other names."""
    sizes, shards = task.sizes, task.work / "shards"
    if not (shards / "manifest.json").exists():
        pictures = task.work / "pictures"
        pictures.mkdir(exist_ok=True)
        made = write_pictures(pictures, *sizes.pictures)
        height, width = sizes.frame
        make_shards(Dataset("benchmark", made), shards, ShardOptions(height=height, width=width))
    store = ShardFolder(shards)
    store.rows = ShardRows.of(
        replace(row, id=f"{copy}-{row.id}", person=f"{copy}-{int(row.id) // 2}", clothes=str(int(row.id) % 2))
        for copy in range(sizes.copies)
        for row in store.rows
    )
    return store


def cal_trainer(task: Task, *, threads: int = 8) -> Trainer:
    """The trainer of `ccvid_cal`, with that many decoding threads."""
    sizes = task.sizes
    values = recipe_values(task.work / "shards", bf16=True)
    values["batch"]["identities"] = sizes.identities
    values["model"] |= {"backbone": sizes.backbone, "height": sizes.frame[0], "width": sizes.frame[1]}
    values["loader"]["threads"] = threads
    trainer = Trainer(Recipe.model_validate(values), stored_tracklets(task), LocalRun(task.work / "run", task.device))
    trainer.model.train()
    return trainer


def ready_batch(trainer: Trainer) -> ClipBatch:
    """A batch of the trainer's own loader, on its device."""
    batches = trainer.passes[0].loader.batches(trainer.sampler.schedule(0, 0))
    return next(iter(batches)).to(trainer.run.device)
