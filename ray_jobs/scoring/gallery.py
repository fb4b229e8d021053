"""Ranking a live gallery for query tracklets, without labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ccvid.config import Recipe
from ccvid.retrieval.embedding.store import EmbeddingStore, read_store
from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.fusion.evidence_file import read_evidence
from ccvid.retrieval.gallery.decisions import Decisions, read_decisions
from ccvid.retrieval.gallery.fused_search import FusedEvidence
from ccvid.retrieval.gallery.matches import RankedMatches, write_matches
from ccvid.retrieval.gallery.part_search import keep_indexes
from ccvid.retrieval.report.mosaic import HeadHiding, read_hiding
from ccvid.retrieval.report.stored_pictures import StoredPictures, open_sources
from ccvid.retrieval.report.unlabelled import search_view, write_views
from ccvid.run_files import (
    CONFIG_FILE,
    MATCHES_FILE,
    RANKED,
    REPORT_FOLDER,
)
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.shard_cache import open_shards
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring.changing_gallery import although_it_changes, delete_all
from ray_jobs.scoring.embedding import Embedded, UsedModel, embed_data, keep_precision, read_model
from ray_jobs.scoring.entries import EntryFilter, queries_in, random_scores
from ray_jobs.scoring.gallery_groups import write_groups
from ray_jobs.scoring.gallery_search import GallerySearch, search_gallery
from ray_jobs.scoring.time_limits import TimeLimit, shown_limit
from ray_jobs.sharding.shards import compare_checksums, ensure_shards


@dataclass(frozen=True, slots=True)
class GalleryRequest:
    """What to rank, and for which queries."""

    gallery: StorageFolder
    """The store of embeddings."""
    queries: StorageFolder | None
    """Another gallery, all of whose tracklets are queries. Default: the tracklets with split query in ``gallery``."""
    top: int
    cameras: tuple[str, ...]
    """Only these cameras; () for all."""
    since: TimeLimit | None
    """Only tracklets that end at or after this: seconds of their video, or a time of day."""
    until: TimeLimit | None
    """Only tracklets that start at or before this."""
    other_cameras: bool
    """Exclude the query's own camera."""
    only_new: bool
    """Only tracklets that this call adds to the gallery."""
    approximate: bool = False
    """Search with an index, which may miss some matches."""
    decisions: StorageFolder | None = None
    """Results of train.py or evaluate.py, whose calibration and threshold are applied to the scores."""
    fuse: tuple[Path, ...] = ()
    """Others' evidence, which is fused with the embeddings as in ``decisions``."""
    groups: float | None = None
    """Also group all tracklets of the gallery, including queries, into probable people, with this reach."""


def score_gallery(recipe: Recipe, checkpoint: StorageFolder, request: GalleryRequest, folder: StorageFolder) -> None:
    """Embed the recipe's data into the gallery, rank it for the queries, and write the matches.

    Raises:
        InputError: the checkpoint, the data, the gallery or the cluster does not allow it, or there is nothing to rank.
        OSError: a place cannot be written, or others kept removing from the gallery, or merging in it.
    """
    if folder.exists(CONFIG_FILE):
        raise InputError(f"{folder}: contains a training run, which is not overwritten; choose another --run.name")
    hiding = read_hiding(recipe.report)
    used = read_model(checkpoint, recipe.model)
    decisions = None if request.decisions is None else read_decisions(request.decisions)
    recipe = matching_precision(used, used.applied_to(recipe), request, decisions)
    fused = None if decisions is None else decisions.with_tables(read_evidence(request.fuse))
    connect()
    shards = ensure_shards(recipe.data)
    compare_checksums(recipe.data)
    store = open_shards(shards, recipe.data.cache)
    folder.check_writable()
    rows = np.flatnonzero(~store.rows.is_in("split", ["train"])).tolist()
    added = embed_data(used, recipe, shards, store, rows, request.gallery, recipe.data.cache)
    added.embeddings.merge_small_parts()
    if request.approximate:
        keep_indexes(added.embeddings.parts)

    def rank_now(now: EmbeddingStore) -> None:
        _rank_and_write(recipe, checkpoint, request, folder, replace(added, embeddings=now), decisions, fused, hiding)

    also = [] if request.queries is None else [read_store(request.queries)]
    although_it_changes(added.embeddings, rank_now, also=also, undo=lambda: delete_all(folder, RANKED))


def _rank_and_write(
    recipe: Recipe,
    checkpoint: StorageFolder,
    request: GalleryRequest,
    folder: StorageFolder,
    added: Embedded,
    decisions: Decisions | None,
    fused: FusedEvidence | None,
    hiding: HeadHiding,
) -> None:
    queries = find_queries(request, added.embeddings)
    matches, ranked = rank(queries, added.embeddings, request, added.ids, fused)
    message(f"ranked {ranked} tracklets for {len(queries.rows)} queries")
    if decisions is not None:
        say_what_is_missing(decisions)
        if fused is None:  # random pairs are of cosines
            for line in decisions.compared(random_scores(queries, added.embeddings), matches.first_scores()):
                message(line)
        matches = decisions.add_probabilities(matches, model=queries.model, prior=recipe.score.threshold.prior)
    galleries = [request.gallery] if request.queries is None else [request.gallery, request.queries]
    stores = open_sources(
        {place for gallery in galleries for place in read_store(gallery).sources()}, recipe.data.cache
    )
    pictures = StoredPictures(stores, hiding)
    with folder.filled(last=MATCHES_FILE) as path:
        if recipe.score.report:
            write_pages(matches, ranked, pictures, request, checkpoint, decisions, path)
        if request.groups is not None:
            write_groups(added.embeddings, pictures, request.groups, path)
        write_matches(matches, path)


def write_pages(
    matches: RankedMatches,
    ranked: int,
    pictures: StoredPictures,
    request: GalleryRequest,
    checkpoint: StorageFolder,
    decisions: Decisions | None,
    folder: Path,
) -> None:
    """Write the matches among ``ranked`` tracklets as pages below ``folder``."""
    write_views(
        [search_view(matches, pictures.of(matches.query), pictures.of(matches.gallery))],
        folder / REPORT_FOLDER,
        title=f"Matches in {request.gallery.name}",
        facts=_facts(request, checkpoint, len(matches.query), ranked),
        threshold=None if decisions is None else decisions.threshold,
    )


def find_queries(request: GalleryRequest, store: EmbeddingStore) -> EmbeddingTable:
    """The queries, by id; NothingToRankError if there are none, InputError if they are from another model."""
    if request.queries is None:
        return queries_in(store)
    queries = read_store(request.queries).read()
    if queries.model != store.embedder.fingerprint:
        raise InputError(f"{request.queries}: embeddings of another model or other clips than those of the gallery")
    return queries


def say_what_is_missing(decisions: Decisions) -> None:
    """Show what the decisions lack."""
    for found, what in ((decisions.calibration, "calibration"), (decisions.threshold, "recommended threshold")):
        if found is None:
            message(f"{decisions.source}: has no {what}; its metrics.txt says why")


def rank(
    queries: EmbeddingTable,
    store: EmbeddingStore,
    request: GalleryRequest,
    added: frozenset[str],
    fused: FusedEvidence | None = None,
) -> tuple[RankedMatches, int]:
    """The top entries for each query, and the number of entries ranked; a tracklet is never its own match.

    Args:
        added: ids that are new in the gallery.
        fused: rank by this, not by cosine.

    Raises:
        NothingToRankError: there is nothing to rank, or a camera is unknown.
        InputError: a part is damaged.
    """
    entries = EntryFilter(
        request.cameras,
        request.since,
        request.until,
        ids=added if request.only_new else None,
        without_queries=request.queries is None,
    )
    exclude = ("id", "camera") if request.other_cameras else ("id",)
    asked = GallerySearch(store, queries, entries, request.top, exclude, request.approximate, fused)
    found = search_gallery(asked)
    rows, nearest = found.found.rows, found.found.nearest
    without = int(np.count_nonzero((nearest.gallery_QK < 0).all(axis=1)))
    if without:
        message(f"{without} of {len(queries.rows)} queries have no tracklets to rank")
    return RankedMatches(queries.rows, rows, nearest.gallery_QK, nearest.score_QK), found.ranked


def matching_precision(used: UsedModel, recipe: Recipe, request: GalleryRequest, decisions: Decisions | None) -> Recipe:
    """The recipe with the precision of existing embeddings, after checking that these have the same model and clips.

    Raises:
        InputError: they differ.
    """
    queries = None if request.queries is None else read_store(request.queries).embedder.fingerprint
    others = [] if decisions is None else [decisions.embedder]
    others += [] if queries is None else [queries]
    recipe = keep_precision(used, recipe, request.gallery, others)
    own = used.describe(recipe).fingerprint
    if decisions is not None:
        decisions.check(own)
    if queries not in (None, own):
        raise InputError(f"{request.queries}: embeddings of another model or other clips than those of the gallery")
    return recipe


def _facts(request: GalleryRequest, checkpoint: StorageFolder, queries: int, ranked: int) -> dict[str, object]:
    asked = {
        "cameras": ", ".join(request.cameras),
        "since": shown_limit(request.since),
        "until": shown_limit(request.until),
        "not the query's own camera": request.other_cameras or None,
        "only new tracklets": request.only_new or None,
        "queries of": request.queries,
        "threshold and probabilities of": request.decisions,
        "fused with": ", ".join(path.stem for path in request.fuse),
    }
    return {
        "gallery": request.gallery,
        "weights": checkpoint,
        "queries": queries,
        "tracklets ranked": ranked,
        **{name: value for name, value in asked.items() if value is not None and value != ""},
    }
