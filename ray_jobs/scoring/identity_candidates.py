"""Whom new tracklets of a gallery may show: their most similar ones, but for those that cannot matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.identities.evidence import UNIT, Evidence, cosines
from ccvid.identities.grouping import DOUBTFUL
from ccvid.retrieval.embedding.store import EmbeddingStore
from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable, shared_codes
from ccvid.retrieval.ranking.distances import Indices
from data_tools.progress import message
from ray_jobs.scoring.entries import EntryFilter
from ray_jobs.scoring.gallery_search import GallerySearch, search_gallery


@dataclass(frozen=True, slots=True)
class Candidates:
    """P pairs: places of a new tracklet in ``asked``, and of one that may be its person in ``found``."""

    asked: Sequence[str]
    found: Sequence[str]
    first_P: Indices
    second_P: Indices

    def among(self, ids: Sequence[str]) -> tuple[Indices, Indices]:
        """The pairs as places in ``ids``, which have all of them."""
        place_of = {id: place for place, id in enumerate(ids)}
        asked_Q, found_F = (np.array([place_of[id] for id in each], np.int64) for each in (self.asked, self.found))
        return asked_Q[self.first_P], found_F[self.second_P]


def find_candidates(
    store: EmbeddingStore, new: Sequence[str], evidence: Evidence, prior: int, neighbours: int, *, approximate: bool
) -> Candidates:
    """The ``neighbours`` most similar tracklets of each new one that may be linked with it, or be a question.

    Args:
        new: ids.
        prior: log-odds in millionths.
        approximate: see ``GallerySearch``.
    """
    if not new:
        return Candidates([], [], np.empty(0, np.int64), np.empty(0, np.int64))
    queries = gathered(store, new)
    message(f"searching {neighbours} neighbours of {len(new)} new tracklets")
    # With itself among them: a gallery of one tracklet has nothing else to rank.
    asked = GallerySearch(
        store, queries, EntryFilter(without_queries=False), neighbours + 1, (), approximate=approximate
    )
    result = search_gallery(asked).found
    first_P, column_P = np.nonzero(result.nearest.gallery_QK >= 0)
    second_P = result.nearest.gallery_QK[first_P, column_P]
    kept_P = _in_one_video(queries.rows, result.rows, first_P, second_P)
    kept_P |= _most_log_odds(store, evidence, queries, result.rows, first_P, second_P) + prior >= -2 * DOUBTFUL * UNIT
    found, second_P = np.unique(second_P[kept_P], return_inverse=True)
    ids = queries.rows.text("id").to_pylist(), result.rows.take(found).text("id").to_pylist()
    return Candidates(*ids, first_P[kept_P], second_P)


def gathered(store: EmbeddingStore, ids: Sequence[str]) -> EmbeddingTable:
    """Some tracklets with their embeddings, by id."""
    tables = [part.table.take(np.flatnonzero(part.rows.is_in("id", ids))) for _, part in store.parts.each()]
    return EmbeddingTable.joined([table for table in tables if len(table.rows)] or tables[:1])


def _in_one_video(
    queries: EmbeddingRows, found: EmbeddingRows, first_P: Indices, second_P: Indices
) -> npt.NDArray[np.bool_]:
    """Pairs about which motion may say something."""
    video_Q, video_F = shared_codes(*(pa.chunked_array([rows.attribute("video")]) for rows in (queries, found)))
    same_P: npt.NDArray[np.bool_] = (video_Q[first_P] == video_F[second_P]) & (video_Q[first_P] >= 0)
    return same_P


def _most_log_odds(
    store: EmbeddingStore,
    evidence: Evidence,
    queries: EmbeddingTable,
    found: EmbeddingRows,
    first_P: Indices,
    second_P: Indices,
) -> Indices:
    """What no log-odds of the pairs exceed, in millionths, part by part; none of entries that are gone meanwhile."""
    most_P = np.full(len(first_P), np.iinfo(np.int64).min // 2)
    query = evidence.vectors(queries.embedding_ND)
    for _, part in store.parts.each():
        row_F = pc.fill_null(pc.index_in(found.columns["id"], part.rows.columns["id"].combine_chunks()), -1).to_numpy()
        in_part = np.flatnonzero(row_F >= 0)
        entry = evidence.vectors(part.embedding_ND[row_F[in_part]])
        place_F = np.full(len(row_F), -1)
        place_F[in_part] = np.arange(len(in_part))
        pairs = np.flatnonzero(place_F[second_P] >= 0)
        sides = (query.plain_ND, entry.plain_ND), (query.whitened_ND, entry.whitened_ND)
        both = (cosines(*side, first_P[pairs], place_F[second_P[pairs]]) for side in sides)
        most_P[pairs] = evidence.most_log_odds(*both)
    return most_P
