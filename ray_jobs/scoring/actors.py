"""Embedding stored tracklets with Ray Data: a pool of model actors; each chunk is saved when it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError
from ray.util import ActorPool

from ccvid.config import Recipe
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.batch_size import CPU_CLIPS, clips_that_fit
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.retrieval.embedding.store import EmbeddingStore
from ccvid.retrieval.embedding.table import EmbeddingTable
from data_tools.clips import count_clips
from data_tools.cpus import limit_threads
from data_tools.errors import InputError
from data_tools.loader import tracklet_clips
from data_tools.progress import Meter, message, note_kept
from data_tools.shard_cache import open_shards
from data_tools.shards import ShardFolder
from data_tools.wording import first_line
from ray_jobs.cluster.job_console import use_drivers_console
from ray_jobs.cluster.tasks import run_task
from ray_jobs.cluster.workers import Workers

BATCHES_PER_CHUNK = 8
"""A chunk is a few seconds of work, so that progress is visible and a lost worker costs little."""

Chunk: TypeAlias = dict[str, Any]
"""Tracklets to embed, or the outcome; see ``Embedder``."""


class Embedder:
    """One of the actors: it has the model on its device and the shards of its last chunk memory-mapped."""

    def __init__(self, model: Any, recipe: Recipe, embeddings: EmbeddingStore, cpus: int) -> None:
        use_drivers_console()
        self._recipe = recipe.within(limit_threads(cpus))
        shared: ClipEmbedder = ray.get(model)
        self._model = placed(shared, "cuda" if ray.get_gpu_ids() else "cpu")
        self._embeddings = embeddings
        self._shards = ""

    def __call__(self, chunk: Chunk) -> Chunk:
        """Embed the tracklets ``chunk["rows"]`` of ``chunk["shards"]`` and save those in ``chunk["wanted"]``.

        Batches are made of the whole chunk, so that a tracklet's embedding does not depend on what is already there.
        """
        rows, wanted = list(chunk["rows"]), set(chunk["wanted"])
        if chunk["shards"] != self._shards:
            self._store, self._shards = open_shards(chunk["shards"], self._recipe.data.cache), chunk["shards"]
        if self._store.manifest.index != chunk["index"]:
            self._shards = ""
            raise InputError(f"{chunk['shards']}: tracklets have been removed meanwhile; run the same command again")
        unreadable: dict[int, str] = {}
        try:
            table = self._embed(rows)
        except InputError:  # find the bad tracklets and continue without them
            unreadable = {row: problem for row in rows if (problem := self._problem(row))}
            if not unreadable:
                raise
            rows = [row for row in rows if row not in unreadable]
            table = self._embed(rows)
        if kept := [number for number, row in enumerate(rows) if row in wanted]:
            self._embeddings.add(table.take(kept))
        return {"rows": list(chunk["rows"]), "unreadable": [unreadable[row] for row in unreadable if row in wanted]}

    def _problem(self, row: int) -> str | None:
        """Why a tracklet's clips cannot be decoded; None if they can."""
        recipe = self._recipe
        size = recipe.model.height, recipe.model.width
        try:
            for _ in tracklet_clips(
                self._store, [row], clip=recipe.clip, image_size=size, clips_per_batch=1, options=recipe.loader
            ):
                pass
        except InputError as error:
            return str(error)
        return None

    def _embed(self, rows: list[int]) -> EmbeddingTable:
        embedded = embed_tracklets(self._model, self._store, rows, self._recipe)
        return EmbeddingTable.of(self._store, rows, *embedded, model=self._embeddings.embedder.fingerprint)


def placed(model: ClipEmbedder, device: str) -> ClipEmbedder:
    """The model on the device; an exported graph has one of its own."""
    return model.to(device) if isinstance(model, ReIdModel) else model


def _clips_that_fit(model: ClipEmbedder, recipe: Recipe) -> int:
    return clips_that_fit(placed(model, "cuda"), recipe.clip.length, recipe.model)


def embed_into(
    embeddings: EmbeddingStore,
    lacking: frozenset[str],
    model: ClipEmbedder,
    store: ShardFolder,
    rows: list[int],
    recipe: Recipe,
    shards: str,
    workers: Workers,
) -> list[str]:
    """Embed those of the rows whose ids are in ``lacking``, and add them to ``embeddings``.

    Chunks and batches depend only on ``rows``, so the embeddings depend neither on the number of workers nor on what
    was already there.

    Returns:
        A message for each tracklet that could not be read; these are left out.

    Raises:
        InputError: Ray gave up on the job.
        OSError: ``embeddings`` cannot be written.
    """
    recipe = with_batches(recipe, model, workers)
    arguments = ray.put(model), recipe, embeddings, workers.cpus

    def stream(chunks: list[Chunk]) -> Iterator[Chunk]:
        return _by_ray_data(chunks, arguments, workers)

    return _embed(stream, embeddings, lacking, store, rows, recipe, shards)


class _Resident:
    """An ``Embedder`` that is made by its first chunk, and again by the first after it died."""

    def __init__(self) -> None:
        self._embedder: Embedder | None = None

    def embed(self, arguments: tuple[Any, ...], chunk: Chunk) -> Chunk:
        """See ``Embedder``; ``arguments`` are its own."""
        self._embedder = self._embedder or Embedder(*arguments)
        return self._embedder(chunk)


class ResidentEmbedders:
    """Actors that keep the model between one call and the next, for work that arrives a little at a time.

    They reserve GPUs, but no CPUs: between their calls those are for the tasks that make the next shards.
    """

    def __init__(self, embeddings: EmbeddingStore, model: ClipEmbedder, recipe: Recipe, workers: Workers) -> None:
        self._embeddings, self._recipe = embeddings, with_batches(recipe, model, workers)
        self._arguments = ray.put(model), self._recipe, embeddings, workers.cpus
        self._actors = [resident_actor(_Resident, workers) for _ in range(workers.count)]

    def embed(self, lacking: frozenset[str], store: ShardFolder, rows: list[int], shards: str) -> list[str]:
        """As ``embed_into``."""
        return _embed(self._stream, self._embeddings, lacking, store, rows, self._recipe, shards)

    def _stream(self, chunks: list[Chunk]) -> Iterator[Chunk]:
        pool = ActorPool(self._actors)
        with _own_errors():
            yield from pool.map_unordered(lambda actor, chunk: actor.embed.remote(self._arguments, chunk), chunks)


def resident_actor(kind: type, workers: Workers) -> Any:
    """An actor with the GPU of a worker, but none of its CPUs, that is made anew where it dies."""
    gpus = workers.resources.get("GPU", 0)
    actor: Any = ray.remote(kind)
    settings = {"max_restarts": -1, "max_task_retries": 3, "scheduling_strategy": "SPREAD"}
    return actor.options(num_cpus=0, num_gpus=gpus, **settings).remote()


def with_batches(recipe: Recipe, model: ClipEmbedder, workers: Workers) -> Recipe:
    """The recipe with a number of clips per batch."""
    clips = recipe.score.clips_per_batch
    if clips is None:
        clips = CPU_CLIPS
        if workers.use_gpu:
            clips = run_task(_clips_that_fit, model, recipe, gpus=1)
            message(f"embedding {clips} clips at a time")
    return recipe.model_copy(update={"score": recipe.score.model_copy(update={"clips_per_batch": clips})})


def _embed(
    stream: Callable[[list[Chunk]], Iterator[Chunk]],
    embeddings: EmbeddingStore,
    lacking: frozenset[str],
    store: ShardFolder,
    rows: list[int],
    recipe: Recipe,
    shards: str,
) -> list[str]:
    """As ``embed_into``; ``stream`` yields what ``Embedder`` makes of chunks."""
    clips_R = count_clips(store.rows.frame_count_N[rows], recipe.clip).tolist()
    is_lacking_N = store.rows.is_in("id", lacking)
    least = BATCHES_PER_CHUNK * (recipe.score.clips_per_batch or CPU_CLIPS)
    chunks: list[Chunk] = [
        {"shards": shards, "index": store.manifest.index, "rows": part, "wanted": wanted}
        for part in (rows[cut] for cut in cut_chunks(clips_R, least))
        if (wanted := [row for row in part if is_lacking_N[row]])
    ]
    if not chunks:
        return []
    clips_of = dict(zip(rows, clips_R, strict=True))
    to_do = [clips_of[row] for chunk in chunks for row in chunk["rows"]]
    every = recipe.train.log_every_seconds
    meter = Meter("embedding", len(to_do), "tracklets", work=sum(to_do), every_seconds=every)
    unreadable: list[str] = []
    finished = 0
    for done in stream(chunks):
        embedded, clips = len(done["rows"]), sum(clips_of[row] for row in done["rows"])
        meter.add(embedded, work=clips, tracklets=embedded, clips=clips)
        finished += embedded
        note_kept("embeddings", f"embeddings of {finished} of {len(to_do)} tracklets under {embeddings.folder}")
        unreadable += done["unreadable"]
    return unreadable


def _by_ray_data(chunks: list[Chunk], arguments: tuple[Any, ...], workers: Workers) -> Iterator[Chunk]:
    """The actors' results as they arrive; Ray Data restarts an actor that died, and its chunk."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # our own lines are more informative
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    size = min(workers.count, len(chunks))
    actor: Any = Embedder
    results = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map(
        actor,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=workers.resources["CPU"],
        num_gpus=workers.resources.get("GPU", 0),
    )
    with _own_errors():
        yield from results.iter_rows()


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise an actor's input and storage errors as they are, and what befell it as an ``InputError``."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, InputError | OSError):
                raise cause from None
        if isinstance(error, RayError):
            raise InputError(f"embedding failed: {first_line(error)}") from None
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


def cut_chunks(clips_R: Sequence[int], least: int) -> list[slice]:
    """Cut rows into runs of at least ``least`` clips each (the last may have fewer), by their clip counts."""
    starts, clips = [0], 0
    for row, count in enumerate(clips_R):
        if clips >= least:
            starts.append(row)
            clips = 0
        clips += count
    return [slice(start, end) for start, end in pairwise([*starts, len(clips_R)])]
