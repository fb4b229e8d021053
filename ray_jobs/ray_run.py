"""A worker's place in a run, as Ray Train tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode


class RayRun:
    """Implements ``ccvid.training.context.RunContext`` inside a Ray Train worker."""

    def __init__(self, folder: Path) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.folder = folder
        self.scratch = Path.cwd()  # a worker's own, within Ray's session folder

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The run's last committed checkpoint, fetched to this node."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Report on all ranks; rank 0's checkpoint is uploaded while training goes on, then removed."""
        ray.train.report(
            dict(metrics),
            checkpoint=None if checkpoint is None else Checkpoint.from_directory(checkpoint),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )
