"""The run context of a Ray Train worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from ccvid.config import Recipe
from ccvid.run_files import CHECKPOINT_PREFIX, TENSORBOARD_FOLDER
from ccvid.training.context import Validators
from ccvid.training.held_out import HeldOut
from ccvid.training.step_log import MetricSink
from data_tools.loader import ClipDecoders, TrainingClips
from data_tools.progress import PlainConsole, using_console
from data_tools.shard_cache import open_shards
from data_tools.storage import StorageFolder
from ray_jobs.cluster.job_console import drivers_console
from ray_jobs.training.decoders import RemoteDecoders
from ray_jobs.training.guard import stop_check
from ray_jobs.training.validators import RemoteValidators
from ray_jobs.training.watchdog import Watchdog


class RayRun:
    """Implements ``ccvid.training.context.RunContext`` inside a Ray Train worker.

    If the run's storage is remote, rank 0 writes to a local folder, and ``publish`` uploads it.

    Args:
        cpus: of this worker.
    """

    def __init__(self, recipe: Recipe, shards: str, stop_requested: Callable[[], bool], *, cpus: int = 1) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.scratch = Path.cwd()  # the worker's own folder within Ray's session folder
        self.stop_requested = stop_requested
        self.sinks: Sequence[MetricSink] = ()
        self._recipe, self._shards, self._cpus = recipe, shards, cpus
        self._stored = StorageFolder(recipe.run.storage, recipe.run.patience_seconds) / recipe.run.name
        self._storage = context.get_storage()
        self.folder = self._stored.local or self.scratch / "run"
        self._published: dict[str, tuple[int, int]] = {}
        self._watchdog = Watchdog(recipe.compute.hang_seconds)
        self.alive, self.rest = self._watchdog.alive, self._watchdog.rest

    @classmethod
    @contextmanager
    def of(cls, recipe: Recipe, shards: str, guard: Any, *, cpus: int = 1, shown: bool = True) -> Iterator[Self]:
        """The run of this worker; ``guard`` tells it when to stop (None: never).

        Args:
            cpus: of this worker.
            shown: whether the driver shows this worker's news.
        """
        run = cls(recipe, shards, stop_check(guard), cpus=cpus)
        console = drivers_console(f"worker {run.rank}" if run.rank else "") if shown else None
        with using_console(console or PlainConsole()):
            if run.rank == 0:
                run._fetch()
            try:
                yield run
            finally:
                run.rest()
                if console is not None:
                    console.flush()

    def decoders(self, clips: TrainingClips) -> ClipDecoders | None:
        """Actors on nodes with spare CPUs, if the recipe asks for them."""
        recipe = self._recipe
        if not recipe.compute.decoders:
            return None
        return RemoteDecoders(
            clips,
            partial(open_shards, self._shards, recipe.data.cache),
            number=recipe.compute.decoders,
            rank=self.rank,
            threads=recipe.loader.threads,
        )

    def validators(self, held_out: HeldOut) -> Validators | None:
        """Rank 0's actors, if the recipe asks for them."""
        recipe, compute = self._recipe, self._recipe.compute
        if not compute.validators or self.rank != 0:
            return None
        gpu = {"GPU": 1.0} if self.device.type == "cuda" else {}
        return RemoteValidators(
            replace(held_out, model=deepcopy(held_out.model).cpu()),
            partial(open_shards, self._shards, recipe.data.cache),
            number=compute.validators,
            resources={"CPU": float(self._cpus), **gpu},
            hang_seconds=compute.hang_seconds,
        )

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The run's last committed checkpoint, fetched to this node."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None, *, wait: bool = False) -> None:
        """Report on all ranks; rank 0's checkpoint is uploaded while training continues, then removed."""
        ray.train.report(
            dict(metrics),
            checkpoint=None if checkpoint is None else Checkpoint.from_directory(checkpoint),
            checkpoint_upload_fn=self._upload,
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def publish(self) -> None:
        """Upload the files of ``folder`` that changed since the last call."""
        if self._stored.local is not None:
            return
        states = self._states()
        for name, state in states.items():
            if self._published.get(name) != state:
                self._stored.upload(self.folder / name, name)
        self._published = states

    def _upload(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        self._stored.upload_folder(Path(checkpoint.path), name)
        return Checkpoint(f"{self._storage.experiment_fs_path}/{name}", self._storage.storage_filesystem)

    def _fetch(self) -> None:
        """Download what an earlier attempt published, to resume from it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._stored.local is not None:
            return
        for name in self._stored.names():
            if name.startswith((CHECKPOINT_PREFIX, TENSORBOARD_FOLDER, ".")):
                continue
            if self._stored.size(name) is None:
                self._stored.download_folder(name, self.folder / name)
            else:
                self._stored.download(name, self.folder / name)
        self._published = self._states()

    def _states(self) -> dict[str, tuple[int, int]]:
        """Modification time and size of each file in ``folder``, by name."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        facts = ((path.relative_to(self.folder).as_posix(), path.stat()) for path in sorted(files))
        return {name: (fact.st_mtime_ns, fact.st_size) for name, fact in facts}
