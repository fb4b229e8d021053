"""Embedding stored tracklets with a pool of Ray actors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool

from ccvid.config import ModelOptions, ScoreOptions
from ccvid.model import ReIdModel
from ccvid.retrieval.embed import embed_tracklets
from data_tools.clips import ClipOptions, all_clips
from data_tools.errors import InputError
from data_tools.loader import LoaderOptions
from data_tools.shard_cache import CacheOptions, open_shards
from data_tools.shards import ShardFolder
from ray_jobs.cluster import Workers

BATCHES_PER_CHUNK = 8
"""A chunk is some seconds of work, so that progress is told and a lost worker costs little."""

Embedded = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class EmbeddingOptions:
    """How tracklets are embedded; the same for every worker."""

    clip: ClipOptions
    model: ModelOptions
    loader: LoaderOptions
    score: ScoreOptions
    shards: str
    """Their place."""
    cache: CacheOptions


class Embedder:
    """An actor: the model on its device, the shards mapped."""

    def __init__(self, model: ReIdModel, options: EmbeddingOptions, cpus: int) -> None:
        torch.set_num_threads(cpus)
        self._model = model.to("cuda" if ray.get_gpu_ids() else "cpu")
        self._store, self._options = open_shards(options.shards, options.cache), options

    def embed(self, number: int, rows: list[int]) -> tuple[int, Embedded]:
        """The chunk's number, its embeddings (rows, D) and clip counts (rows,)."""
        options = self._options
        embedding_RD, count_R = embed_tracklets(
            self._model,
            self._store,
            rows,
            clip=options.clip,
            options=options.model,
            loader=options.loader,
            score=options.score,
        )
        return number, (embedding_RD.numpy(), count_R.numpy())


def embed_with_actors(
    model: ReIdModel,
    store: ShardFolder,
    rows: list[int],
    options: EmbeddingOptions,
    workers: Workers,
    *,
    max_failures: int,
    log_every_seconds: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed stored tracklets; the batches, and so the embeddings, do not depend on the number of workers.

    Returns:
        float32 (rows, D), L2-normalised, and int64 (rows,) clip counts, as ``embed_tracklets`` does.

    Raises:
        InputError: a frame cannot be decoded, or workers died more than ``max_failures`` times.
    """
    clips_R = [len(all_clips(store.rows[row].frame_count, options.clip)) for row in rows]
    chunks = cut_chunks(clips_R, BATCHES_PER_CHUNK * options.score.clips_per_batch)
    shared = ray.put(model)
    remote: Any = ray.remote(Embedder).options(
        num_cpus=workers.resources["CPU"],
        num_gpus=workers.resources.get("GPU", 0),
        max_restarts=max_failures,
        max_task_retries=max_failures,
    )
    actors = [remote.remote(shared, options, workers.cpus) for _ in range(min(workers.count, len(chunks)))]
    progress = _Progress(clips_R, log_every_seconds)
    embedded: dict[int, Embedded] = {}
    try:
        numbered = enumerate([rows[chunk] for chunk in chunks])
        for number, result in ActorPool(actors).map_unordered(_submit, list(numbered)):
            embedded[number] = result
            progress.add(chunks[number])
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | OSError) else error from None
    except RayActorError as error:
        raise InputError(f"embedding failed, its workers died: {str(error).strip().splitlines()[0]}") from None
    finally:
        for actor in actors:
            ray.kill(actor)
    parts = [embedded[number] for number in range(len(chunks))]
    embedding_RD, count_R = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return torch.from_numpy(embedding_RD), torch.from_numpy(count_R)


class _Progress:
    """Prints, every few seconds, how many tracklets are embedded."""

    def __init__(self, clips_R: Sequence[int], every_seconds: float) -> None:
        self._clips_R, self._every, self._tracklets, self._clips = clips_R, every_seconds, 0, 0
        self._started = self._printed = time.monotonic()

    def add(self, chunk: slice) -> None:
        clips_C = self._clips_R[chunk]
        self._tracklets, self._clips = self._tracklets + len(clips_C), self._clips + sum(clips_C)
        now, total = time.monotonic(), len(self._clips_R)
        if now - self._printed < self._every and self._tracklets < total:
            return
        self._printed, seconds = now, now - self._started
        left = timedelta(seconds=round(seconds * (sum(self._clips_R) / self._clips - 1)))
        speeds = f"{self._tracklets / seconds:.1f} tracklets/s  {self._clips / seconds:.0f} clips/s"
        print(f"embedding: {self._tracklets}/{total} tracklets  {speeds}  left {left}", flush=True)


def _submit(actor: Any, job: tuple[int, list[int]]) -> Any:
    return actor.embed.remote(*job)


def cut_chunks(clips_R: Sequence[int], least: int) -> list[slice]:
    """Cut rows into runs of at least ``least`` clips each (the last may have fewer), by their clip counts."""
    starts, clips = [0], 0
    for row, count in enumerate(clips_R):
        if clips >= least:
            starts.append(row)
            clips = 0
        clips += count
    return [slice(start, end) for start, end in pairwise([*starts, len(clips_R)])]
