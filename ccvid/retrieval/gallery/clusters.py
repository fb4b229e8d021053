"""Group unlabelled tracklets into probable persons.

DBSCAN (Ester et al., KDD 1996; from scikit-learn) on Jaccard distances of k-reciprocal neighbours, of which only those
below 1 are kept, as a sparse graph. Two tracklets of one video that overlap in time show two persons: edges between
them are cut, and a group that still holds such a pair is rebuilt from its shortest edges, skipping each edge that would
join such a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ccvid.retrieval.embedding.parquet import write_table
from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.gallery.matches import TIMES, seconds
from ccvid.retrieval.gallery.own_neighbours import EXACT_ROWS
from ccvid.retrieval.gallery.reranking import jaccard_distances, reciprocal_neighbours
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner, over_rows, stacked
from ccvid.retrieval.gallery.vectors import Vectors
from ccvid.retrieval.ranking.distances import Indices
from data_tools.columnar_rows import ColumnarRows
from data_tools.errors import InputError

REACH = 0.5
"""With only six neighbours that must be mutual, it keeps groups pure but splits some persons into several groups."""
PAIRED_ROWS = 1024
"""Rows whose pairs are looked for at a time: there are hundreds a row before most are found too far."""


@dataclass(frozen=True, slots=True)
class Presence:
    """When tracklets are in view: (N,) int64 codes of videos, −1 unknown, and (N,) float64 seconds in them."""

    video_N: Indices
    start_N: npt.NDArray[np.float64]
    end_N: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: ColumnarRows[Any]) -> Presence:
        """From the attributes video, start_seconds and end_seconds."""
        start_N, end_N = (
            np.array([seconds(text) for text in rows.attribute(name).to_pylist()], np.float64) for name in TIMES
        )
        videos = rows.attribute("video").dictionary_encode().indices.fill_null(-1)
        timed_N = ~(np.isnan(start_N) | np.isnan(end_N))
        return cls(np.where(timed_N, videos.to_numpy(zero_copy_only=False), -1).astype(np.int64), start_N, end_N)

    @classmethod
    def unknown(cls, tracklets: int) -> Presence:
        """Of tracklets without video and times."""
        return cls(np.full(tracklets, -1), np.zeros(tracklets), np.zeros(tracklets))

    def together(self, first_P: Indices, second_P: Indices) -> npt.NDArray[np.bool_]:
        """Whether two different tracklets (P pairs) are in view at the same time in the same video."""
        same = (self.video_N[first_P] == self.video_N[second_P]) & (self.video_N[first_P] >= 0) & (first_P != second_P)
        meet = np.maximum(self.start_N[first_P], self.start_N[second_P]) <= np.minimum(
            self.end_N[first_P], self.end_N[second_P]
        )
        found: npt.NDArray[np.bool_] = same & meet
        return found


@dataclass(frozen=True, slots=True)
class Clusters:
    """``group_N`` int64 is the group of each tracklet, 0 being the largest; −1 for a tracklet in no group.

    ``medoid_M`` is the tracklet of each of the M groups that is nearest to the group's others.
    """

    group_N: Indices
    medoid_M: Indices

    @property
    def groups(self) -> int:
        return len(self.medoid_M)

    def members(self) -> list[Indices]:
        """Indices of the tracklets of each group, the medoid first."""
        grouped = np.flatnonzero(self.group_N >= 0)
        order = grouped[np.lexsort((grouped, ~np.isin(grouped, self.medoid_M), self.group_N[grouped]))]
        return np.split(order, np.cumsum(np.bincount(self.group_N[grouped])))[: self.groups]


@dataclass(frozen=True, slots=True)
class ClusterScores:
    """Scores of clusters over the tracklets whose person is known; a tracklet in no group is a group of its own.

    B-cubed precision: the share of a tracklet's group that is its person; recall: the share of its person that is in
    its group (Bagga and Baldwin, 1998). Purity: the share of tracklets that are their group's most frequent person.
    """

    persons: int
    groups: int
    purity: float
    precision: float
    recall: float
    adjusted_rand: float
    mutual_information: float

    def to_json(self) -> dict[str, float | int]:
        return {name: getattr(self, name) for name in self.__slots__}


def find_clusters(
    vectors: Vectors,
    presence: Presence,
    *,
    reach: float = REACH,
    least: int = 2,
    k1: int = 6,
    k2: int = 2,
    exact_rows: int = EXACT_ROWS,
    run: SliceRunner = IN_THREADS,
) -> Clusters:
    """Group tracklets with similar neighbourhoods.

    Args:
        reach: Jaccard distance up to which two tracklets are neighbours (DBSCAN's eps), in (0, 1).
        least: number of neighbours, itself included, that make a tracklet the core of a group (DBSCAN's min_samples).
        k1, k2: see ``reciprocal_neighbours``.
        exact_rows, run: see ``reciprocal_neighbours``.

    Memory of the caller: as ``reciprocal_neighbours``; then 24 bytes for each weight, about 7 a tracklet, 12 for each
    pair within ``reach``, and what scikit-learn makes of these.

    Raises:
        InputError: fewer than two tracklets, or a reach outside (0, 1).
    """
    tracklets = vectors.shape[0]
    if tracklets < 2 or not 0 < reach < 1:
        raise InputError(
            f"cannot group {tracklets} tracklets with reach {reach}: expected at least 2 tracklets and a reach between "
            "0 and 1"
        )
    weight_NN = reciprocal_neighbours(vectors, k1=k1, k2=k2, exact_rows=exact_rows, run=run).weight_NN
    near = partial(_near, weight_NN=weight_NN, columns_NN=weight_NN.tocsc(), presence=presence, reach=reach)
    graph = stacked(over_rows(run, "distances", near, tracklets), tracklets)
    del weight_NN, near
    label_N = DBSCAN(eps=reach, min_samples=least, metric="precomputed").fit_predict(graph).astype(np.int64)
    return _ordered(_separated(label_N, graph, presence), graph)


def score_clusters(group_N: Indices, person: Sequence[str | None]) -> ClusterScores:
    """Score groups against the known persons.

    Raises:
        InputError: no person is known.
    """
    known = np.array([name is not None for name in person])
    if not known.any():
        raise InputError("no tracklet has a person label, so the groups cannot be scored")
    alone = group_N < 0
    own = np.where(alone, group_N.max() + 1 + np.cumsum(alone), group_N)[known]
    _, group_K = np.unique(own, return_inverse=True)
    names, person_K = np.unique([name for name in person if name is not None], return_inverse=True)
    table = sp.coo_array((np.ones(len(own)), (group_K, person_K))).tocsr()
    together_K = np.asarray(table[group_K, person_K]).ravel()
    size_K, whole_K = np.bincount(group_K)[group_K], np.bincount(person_K)[person_K]
    return ClusterScores(
        persons=len(names),
        groups=len(np.unique(group_N[known][~alone[known]])),
        purity=float(table.max(axis=1).toarray().sum() / len(own)),
        precision=float((together_K / size_K).mean()),
        recall=float((together_K / whole_K).mean()),
        adjusted_rand=float(adjusted_rand_score(person_K, group_K)),
        mutual_information=float(normalized_mutual_info_score(person_K, group_K)),
    )


def write_clusters(clusters: Clusters, rows: EmbeddingRows, path: Path) -> None:
    """Write id, camera, group (null for a tracklet in no group) and is_medoid; InputError if writing fails."""
    columns = {
        "id": rows.text("id"),
        "camera": rows.text("camera"),
        "group": pa.array(clusters.group_N, mask=clusters.group_N < 0),
        "is_medoid": np.isin(np.arange(len(rows)), clusters.medoid_M),
    }
    write_table(pa.table(columns), path)


def _near(
    rows: slice, weight_NN: sp.csr_array, columns_NN: sp.csc_array, presence: Presence, reach: float
) -> sp.csr_array:
    """Some rows of distances of at most ``reach``, without those of pairs that are in view at the same time."""
    counts, columns, values = [np.zeros(1, np.int64)], [], []
    for start in range(rows.start, rows.stop, PAIRED_ROWS):
        part = slice(start, min(start + PAIRED_ROWS, rows.stop))
        row_P, near_P, distance_P = jaccard_distances(weight_NN, columns_NN, part)
        kept = (distance_P <= reach) & ~presence.together(row_P, near_P)
        counts.append(np.bincount(row_P[kept] - start, minlength=part.stop - start))
        columns.append(near_P[kept])
        values.append(distance_P[kept])
    first = np.cumsum(np.concatenate(counts))
    arrays = np.concatenate(values), np.concatenate(columns), first
    return sp.csr_array(arrays, shape=(len(first) - 1, weight_NN.shape[0]))


def _separated(label_N: Indices, graph: sp.csr_array, presence: Presence) -> Indices:
    """New labels: those of groups in which two tracklets meet are replaced by the labels of their parts."""
    label_N, more = label_N.copy(), int(label_N.max()) + 1
    everyone = np.argsort(label_N, kind="stable")
    labels = _meeting(presence, everyone, label_N[everyone])
    begins, ends = (np.searchsorted(label_N[everyone], labels, side=side) for side in ("left", "right"))
    for inside in map(everyone.__getitem__, map(slice, begins.tolist(), ends.tolist())):
        label_N[inside] = -1
        for part in _split(graph, inside, presence):
            label_N[part] = more
            more += 1
    return label_N


def _meeting(presence: Presence, tracklet_I: Indices, label_I: Indices) -> Indices:
    """The labels, from 0, of which two tracklets are in view at the same time, sorted.

    In order of video and start, two consecutive ones show it: if any two meet, so do the earlier one and its next.
    """
    known = (presence.video_N[tracklet_I] >= 0) & (label_I >= 0)
    tracklet_I, label_I = tracklet_I[known], label_I[known]
    order = np.lexsort((presence.start_N[tracklet_I], presence.video_N[tracklet_I], label_I))
    tracklet_I, label_I = tracklet_I[order], label_I[order]
    now, then = tracklet_I[:-1], tracklet_I[1:]
    same = (label_I[:-1] == label_I[1:]) & (presence.video_N[now] == presence.video_N[then])
    return np.unique(label_I[:-1][same & (presence.start_N[then] <= presence.end_N[now])])


def _split(graph: sp.csr_array, inside: Indices, presence: Presence) -> Iterable[Indices]:
    """Parts of two or more, joined by the shortest edges first, in which no two tracklets meet."""
    edges = graph[inside][:, inside].tocoo()
    upper = edges.row < edges.col
    order = np.lexsort((edges.col[upper], edges.row[upper], edges.data[upper]))
    part_of = list(range(len(inside)))
    parts = {number: [number] for number in part_of}
    for first, second in zip(edges.row[upper][order].tolist(), edges.col[upper][order].tolist(), strict=True):
        here, there = part_of[first], part_of[second]
        if here == there:
            continue
        both = inside[parts[here] + parts[there]]
        if len(_meeting(presence, both, np.zeros(len(both), np.int64))):
            continue
        for member in parts[there]:
            part_of[member] = here
        parts[here] += parts.pop(there)
    return [inside[members] for members in parts.values() if len(members) > 1]


def _ordered(label_N: Indices, graph: sp.csr_array) -> Clusters:
    """Groups renumbered by decreasing size, then by first tracklet; medoids have the least mean distance within."""
    grouped = np.flatnonzero(label_N >= 0)
    _, first_M, code, size_M = np.unique(label_N[grouped], return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first_M, -size_M))
    group_N = np.full(len(label_N), -1)
    group_N[grouped] = np.argsort(order)[code]
    row_E = np.repeat(np.arange(len(label_N)), np.diff(graph.indptr))
    within_E = (group_N[row_E] == group_N[graph.indices]) & (group_N[row_E] >= 0)
    count_N = np.bincount(row_E[within_E], minlength=len(label_N))
    sum_N = np.bincount(row_E[within_E], weights=graph.data[within_E], minlength=len(label_N))
    distance = (size_M[code] - count_N[grouped]) + sum_N[grouped]  # pairs out of reach: 1
    by_group = np.lexsort((grouped, distance, group_N[grouped]))
    begins = np.concatenate(([0], np.cumsum(size_M[order])))[: len(order)]
    return Clusters(group_N, grouped[by_group[begins]])
