"""What the training loop needs from its environment: Ray Train on a cluster, or a plain process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, rmtree
from typing import Protocol

import torch

from ccvid.run_files import CHECKPOINT_PREFIX
from ccvid.training.held_out import HeldOut, HeldOutScores
from ccvid.training.step_log import MetricSink
from data_tools.loader import ClipDecoders, TrainingClips


class Validators(Protocol):
    """Processes that score weights on the held-out identities while training goes on."""

    @property
    def number(self) -> int:
        """How many there are, at least 1; each scores one epoch at a time."""

    def submit(self, epoch: int, weights: Path) -> None:
        """Begin to score the weights in a safetensors file, which is read before this returns."""

    def is_done(self, epoch: int, seconds: float) -> bool:
        """Whether a submitted epoch is scored or given up; waits for that up to ``seconds``."""

    def result(self, epoch: int) -> HeldOutScores | None:
        """The scores of an epoch that is done, which are then forgotten here; None: no validator could score it.

        Raises:
            InputError: the data cannot be read.
        """

    def close(self) -> None:
        """Stop the processes."""


class RunContext(Protocol):
    """One worker's place in a run."""

    rank: int
    world_size: int
    device: torch.device
    folder: Path
    """The run folder, storage/name; only rank 0 writes to it."""
    sinks: Sequence[MetricSink]
    """Where metrics go besides the run folder."""
    scratch: Path
    """A local folder for checkpoints before upload; removed with the session, even if the run is killed."""

    def decoders(self, clips: TrainingClips) -> ClipDecoders | None:
        """Processes that decode this rank's clips; None: the rank decodes them itself."""

    def validators(self, held_out: HeldOut) -> Validators | None:
        """What scores beside training, on rank 0; None on the other ranks, or if the ranks score and wait."""

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The folder of the last committed checkpoint, None at the start of a run."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, *, wait: bool = False) -> None:
        """Report a validation or a checkpoint; every rank must call it equally often.

        ``checkpoint`` is a temporary folder on rank 0, None on the other ranks or without a checkpoint. It is uploaded
        while training continues, or before this returns if ``wait`` is set, and is then removed.
        """

    def publish(self) -> None:
        """Upload what rank 0 wrote to ``folder``, if the run is stored elsewhere."""

    def alive(self) -> None:
        """Signal progress; called at each step and each embedded batch."""

    def rest(self) -> None:
        """Signal that the next ``alive`` may take long."""

    def stop_requested(self) -> bool:
        """Whether this rank was asked to save a last checkpoint and end the run."""


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

    def validators(self, held_out: HeldOut) -> Validators | None:  # noqa: ARG002
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
