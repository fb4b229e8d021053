"""A problem on one of several ranks stops them all, at the same step and with the same message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.stopping import StoppedTogetherError
from ccvid.training.trainer import Trainer
from ccvid.training.update_result import UpdateResult
from data_tools.errors import InputError
from data_tools.loader import ClipBatch
from data_tools.shards import ShardFolder


def _recipe(shards: str) -> Recipe:
    return Recipe.model_validate(
        {
            "data": {"kind": "footage", "shards": shards},
            "clip": {"length": 2, "stride": 2, "piece": 0},
            "batch": {"identities": 2, "clips": 1},
            "model": {"backbone": "c2d_resnet18_slim", "weights": "random", "height": 32, "width": 16},
            "method": {"start_epoch": 1},
            "train": {"epochs": 30, "log_every_seconds": 0.001, "held_out_share": 0.34, "test_weights": "last"},
        }
    )


def _unreadable_frame(trainer: Trainer) -> None:
    batches = trainer.passes[0].loader.batches

    def broken(*arguments: Any) -> Iterator[Any]:
        yield next(batches(*arguments))
        raise InputError("rank 1: a frame cannot be decoded")

    trainer.passes[0].loader.batches = broken  # type: ignore[method-assign, assignment]


def _infinite_loss(trainer: Trainer) -> None:
    update = trainer.passes[0].update

    def broken(batch: ClipBatch, epoch: int) -> UpdateResult:
        return replace(update(batch, epoch), losses={"identity": torch.tensor(torch.inf)})

    trainer.passes[0].update = broken


FAULTS = {"frame": _unreadable_frame, "loss": _infinite_loss}


def _rank(rank: int, folder: str, shards: str, fault: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    run = LocalRun(Path(folder) / str(rank))
    run.rank, run.world_size = rank, 2
    trainer = Trainer(_recipe(shards), ShardFolder(Path(shards)), run)
    if rank == 1:
        FAULTS[fault](trainer)
    try:
        trainer.fit()
    except StoppedTogetherError as error:
        Path(folder, f"{rank}.json").write_text(json.dumps(str(error)))
    dist.destroy_process_group()


@pytest.mark.parametrize(("fault", "message"), [("frame", "a frame cannot be decoded"), ("loss", "loss not finite")])
def test_a_fault_of_one_rank_stops_both(tiny_shards: Path, tmp_path: Path, fault: str, message: str) -> None:
    spawn(_rank, args=(str(tmp_path), str(tiny_shards), fault), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert message in first
