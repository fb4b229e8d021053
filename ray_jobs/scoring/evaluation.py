"""Scoring given distances or features, or a checkpoint on stored tracklets, into a folder of results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ccvid.config import Recipe, RunOptions
from ccvid.retrieval.embedding.store import EmbeddingStore, read_store
from ccvid.retrieval.ranking.distances import DistanceMatrix
from ccvid.retrieval.ranking.given import GivenRetrieval
from ccvid.retrieval.ranking.given_doubts import doubts_of_order, without_junk
from ccvid.retrieval.ranking.protocols import with_own
from ccvid.retrieval.ranking.scoring import labelled_rows, score
from ccvid.retrieval.report.mosaic import HeadHiding, read_hiding
from ccvid.retrieval.report.stored_pictures import StoredPictures, open_sources
from ccvid.retrieval.results import write_results, write_scores
from ccvid.run_files import CONFIG_FILE, METRICS_FILE, SCORED
from data_tools.documents import parse_json
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.shard_cache import open_shards
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring.changing_gallery import although_it_changes, delete_all
from ray_jobs.scoring.embedding import UsedModel, embed_data, read_model
from ray_jobs.scoring.evidence import facts_of, fuse_evidence, fuse_stored, fused_title
from ray_jobs.scoring.part_tasks import here, on_cluster
from ray_jobs.scoring.stored_retrieval import read_retrieval
from ray_jobs.sharding.shards import compare_checksums, ensure_shards

PARTS_FOLDER = "embeddings"
"""Subfolder of the results with finished embeddings, to resume a killed job."""
BYTES_WORTH_SHARING = 2**32
"""Of a gallery whose labels are read by the cluster."""


def results_folder(run: RunOptions, source: Path | StorageFolder) -> StorageFolder:
    """``storage/name``, if the scores of ``source`` may be written there.

    Raises:
        InputError: it contains a training run, or the scores of something else.
    """
    folder = StorageFolder(run.storage, run.patience_seconds) / run.name
    if folder.exists(CONFIG_FILE):
        raise InputError(f"{folder}: contains a training run, which is not overwritten; choose another --run.name")
    try:
        found = parse_json(folder.read(METRICS_FILE), folder / METRICS_FILE)
    except FileNotFoundError:
        return folder
    except InputError:
        found = {}
    if not isinstance(found, dict) or found.get("source") != str(source):
        raise InputError(f"{folder}: contains the scores of something else; choose another --run.name or remove it")
    return folder


def name_after(source: str) -> str:
    """A run name derived from what is scored."""
    return (re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-._")[:90] or "given") + "-scores"


def score_given(
    given: GivenRetrieval,
    recipe: Recipe,
    source: Path,
    folder: StorageFolder,
    *,
    keep_junk: bool = False,
    fuse: Sequence[Path] = (),
) -> None:
    """Score given distances or features; what looks wrong is printed and recorded among the facts.

    Args:
        keep_junk: treat persons -1 and 0 as ordinary persons, not as junk and distractors.
        fuse: files of others' evidence.

    Raises:
        InputError: no protocol can be scored.
    """
    warnings: list[str] = []
    try:
        if not keep_junk:
            given, warnings = without_junk(given)
        fused = fuse_evidence(given, fuse, model=source.name)
        scores = score(given.distances if fused is None else fused.distances, *given[1:], recipe.score)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    warnings += doubts_of_order(scores.evaluation, similarities=isinstance(given.distances, DistanceMatrix))
    for warning in warnings:
        message(f"warning: {source}: {warning}")
    fusion = None if fused is None else fused.fusion
    facts = {"source": str(source), "warnings": warnings, **facts_of(fused, scores, recipe.score)}
    model = source.name if fusion is None else fusion.fingerprint
    with folder.filled(last=METRICS_FILE) as path:
        write_results(
            path, scores, recipe.score, model=model, title=fused_title(source.name, fusion), facts=facts, fusion=fusion
        )


def score_checkpoint(
    recipe: Recipe, source: StorageFolder, folder: StorageFolder, *, fuse: Sequence[Path] = ()
) -> None:
    """Embed the recipe's query and gallery tracklets with trained weights, on the cluster, and score them.

    Clips, frame size and network stored in the checkpoint override the recipe's.

    Raises:
        InputError, WeightsError: the checkpoint, the data or the cluster does not allow it.
    """
    with_own(recipe.score.protocols)
    score_model(read_model(source, recipe.model), recipe, source, folder, fuse=fuse)


def score_model(
    used: UsedModel, recipe: Recipe, source: StorageFolder, folder: StorageFolder, *, fuse: Sequence[Path] = ()
) -> None:
    """``score_checkpoint`` with what was read from ``source``.

    Raises:
        InputError: the data or the cluster does not allow it.
    """
    with_own(recipe.score.protocols)
    hiding = read_hiding(recipe.report)
    recipe = used.applied_to(recipe)
    connect()
    shards = ensure_shards(recipe.data)
    compare_checksums(recipe.data)
    store = open_shards(shards, recipe.data.cache)
    query_rows, gallery_rows = labelled_sides(store, shards)
    folder.check_writable()
    done = embed_data(used, recipe, shards, store, [*query_rows, *gallery_rows], folder / PARTS_FOLDER)
    query_ids, gallery_ids = (store.rows.take(rows).columns["id"] for rows in (query_rows, gallery_rows))
    run = on_cluster if _is_large(done.embeddings) else here
    retrieval = read_retrieval(done.embeddings, order=(query_ids, gallery_ids), run=run)
    scores, fused = fuse_stored(retrieval, fuse, recipe.score)
    fusion = None if fused is None else fused.fusion
    dataset = store.manifest.dataset
    with folder.filled(last=METRICS_FILE) as path:
        write_scores(
            path,
            scores,
            retrieval.query,
            retrieval.gallery,
            retrieval.gallery_tables(),
            StoredPictures([store], hiding),
            recipe.score,
            weights=done.embeddings.embedder.model,
            title=fused_title(f"{dataset}, {used.name} of {source.name}", fusion),
            facts={
                "dataset": dataset,
                "shards": shards,
                "source": str(source),
                "unreadable": done.unreadable,
                "warnings": done.warnings,
                **facts_of(fused, scores, recipe.score),
            },
            fusion=fusion,
        )
    (folder / PARTS_FOLDER).delete("")  # everything is in embeddings.parquet


def labelled_sides(store: ShardFolder, shards: str) -> tuple[list[int], list[int]]:
    """The rows of query and gallery whose person is known.

    Raises:
        InputError: there are none, so that no metric can be computed.
    """
    query_rows, gallery_rows = labelled_rows(store, "query"), labelled_rows(store, "gallery")
    if not store.rows.is_known("person").any():
        raise InputError(
            f"{shards}: no tracklet has a person label, so no metric can be computed; label some, or rank them with "
            "ray_jobs/score.py, which needs no labels"
        )
    if not query_rows or not gallery_rows:
        raise InputError(
            f"{shards}: {len(query_rows)} query and {len(gallery_rows)} gallery tracklets with a person label; "
            "expected some of both"
        )
    return query_rows, gallery_rows


def _is_large(store: EmbeddingStore) -> bool:
    return sum(store.folder.sizes().values()) >= BYTES_WORTH_SHARING


def score_store(recipe: Recipe, source: StorageFolder, folder: StorageFolder, *, fuse: Sequence[Path] = ()) -> None:
    """Score the labelled tracklets of a gallery, as ``score.py`` keeps it, with pictures where its shards still exist.

    A large gallery is read by the cluster, and stays in its parts.

    Raises:
        InputError: there is no gallery, it has no labelled queries and entries, or the cluster cannot be used.
        PartsChangedError: others kept removing from the gallery, or merging in it; nothing is written then.
    """
    with_own(recipe.score.protocols)
    hiding = read_hiding(recipe.report)
    store = read_store(source, recipe.data.cache)

    def score_now(now: EmbeddingStore) -> None:
        _score_store(recipe, source, now, folder, fuse, hiding)

    although_it_changes(store, score_now, undo=lambda: delete_all(folder, SCORED))


def _score_store(
    recipe: Recipe,
    source: StorageFolder,
    store: EmbeddingStore,
    folder: StorageFolder,
    fuse: Sequence[Path],
    hiding: HeadHiding,
) -> None:
    if _is_large(store):
        connect()
    retrieval = read_retrieval(store, run=on_cluster if _is_large(store) else here)
    if retrieval.is_large:
        connect()
    folder.check_writable()
    scores, fused = fuse_stored(retrieval, fuse, recipe.score)
    fusion = None if fused is None else fused.fusion
    own = retrieval.query.model
    stores = open_sources(store.sources(), recipe.data.cache) if recipe.score.report else []
    pictures = StoredPictures(stores, hiding)
    with folder.filled(last=METRICS_FILE) as path:
        write_results(
            path,
            scores,
            recipe.score,
            model=own if fusion is None else fusion.fingerprint,
            title=fused_title(source.name, fusion),
            facts={
                "source": str(source),
                "model": store.embedder.model,
                "embedder": own,
                **facts_of(fused, scores, recipe.score),
            },
            thumbnails=(pictures.of(retrieval.query.rows), pictures.of(retrieval.gallery)),
            fusion=fusion,
        )
