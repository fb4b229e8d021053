"""What the training loop asks of whoever runs it: Ray Train on a cluster, or a plain process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, rmtree
from typing import Protocol

import torch

from ccvid.run_files import CHECKPOINT_PREFIX
from ccvid.training.step_log import MetricSink
from data_tools.loader import ClipDecoders, TrainingClips


class RunContext(Protocol):
    """One worker's place in a run."""

    rank: int
    world_size: int
    device: torch.device
    folder: Path
    """The run folder, storage/name; only rank 0 writes to it."""
    sinks: Sequence[MetricSink]
    """Where metrics go beside the run folder."""
    scratch: Path
    """A local folder for checkpoints on their way; it outlives no session, so that a kill leaves nothing behind."""

    def decoders(self, clips: TrainingClips) -> ClipDecoders | None:
        """Who decodes this rank's clips for it; None: it does so itself."""

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The folder of the last committed checkpoint, None at the start of a run."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, *, wait: bool = False) -> None:
        """Report a validation or a checkpoint; every rank calls it equally often.

        ``checkpoint`` (rank 0's; None on the others and without one) is a temporary folder whose upload goes on
        beside training, unless told to ``wait`` for it, and which is removed afterwards.
        """

    def publish(self) -> None:
        """Make what rank 0 wrote to ``folder`` last, where the run is stored elsewhere."""

    def alive(self) -> None:
        """Tell that work goes on: called at each step and each embedded batch."""

    def rest(self) -> None:
        """Tell that the next ``alive`` may be long in coming."""

    def stop_requested(self) -> bool:
        """Whether this rank was asked to end the run with a last checkpoint."""


class LocalRun:
    """A run in this process alone: keeps the last checkpoint under ``folder/checkpoint``."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.rank, self.world_size, self.device, self.folder = 0, 1, torch.device(device), folder
        self.scratch = folder / "scratch"
        self.sinks: Sequence[MetricSink] = ()
        self.reports: list[dict[str, float]] = []
        rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    def decoders(self, clips: TrainingClips) -> ClipDecoders | None:  # noqa: ARG002
        return None

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        checkpoint = self.folder / CHECKPOINT_PREFIX
        yield checkpoint if checkpoint.is_dir() else None

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, *, wait: bool = False) -> None:  # noqa: ARG002
        self.reports.append(dict(metrics))
        if checkpoint is not None:
            fresh = self.folder / "checkpoint.new"
            rmtree(fresh, ignore_errors=True)
            copytree(checkpoint, fresh)
            rmtree(self.folder / CHECKPOINT_PREFIX, ignore_errors=True)
            fresh.rename(self.folder / CHECKPOINT_PREFIX)
            rmtree(checkpoint)

    def publish(self) -> None:
        pass

    def alive(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def stop_requested(self) -> bool:
        return False
