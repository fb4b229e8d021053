"""Group unlabelled tracklets into probable persons.

DBSCAN (Ester et al., KDD 1996; from scikit-learn) on Jaccard distances of k-reciprocal neighbours, of which only those
below 1 are kept, as a sparse graph. Two tracklets of one video that overlap in time show two persons: edges between
them are cut, and a group that still holds such a pair is rebuilt from its shortest edges, skipping each edge that would
join such a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ccvid.retrieval.embedding.parquet import write_table
from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.gallery.matches import TIMES, seconds
from ccvid.retrieval.gallery.reranking import ROWS, jaccard_distances, reciprocal_neighbours
from ccvid.retrieval.ranking.distances import Floats, Indices
from data_tools.errors import InputError

REACH = 0.5
"""With only six neighbours that must be mutual, it keeps groups pure but splits some persons into several groups."""


@dataclass(frozen=True, slots=True)
class Presence:
    """When tracklets are in view: (N,) int64 codes of videos, −1 unknown, and (N,) float64 seconds in them."""

    video_N: Indices
    start_N: npt.NDArray[np.float64]
    end_N: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Sequence[EmbeddingRow]) -> Presence:
        """From the attributes video, start_seconds and end_seconds."""
        times = [tuple(seconds(row.attributes.get(name)) for name in TIMES) for row in rows]
        videos = [
            row.attributes.get("video") if None not in time else None for row, time in zip(rows, times, strict=True)
        ]
        code = {video: number for number, video in enumerate(sorted({video for video in videos if video is not None}))}
        start_N, end_N = (np.array([time[side] for time in times], np.float64) for side in (0, 1))
        return cls(np.array([code.get(video or "", -1) for video in videos], np.int64), start_N, end_N)

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

    def members(self, group: int) -> Indices:
        """Indices of a group's tracklets, the medoid first."""
        inside = np.flatnonzero(self.group_N == group)
        return np.concatenate((self.medoid_M[group : group + 1], inside[inside != self.medoid_M[group]]))


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
    embedding_ND: Floats, presence: Presence, *, reach: float = REACH, least: int = 2, k1: int = 6, k2: int = 2
) -> Clusters:
    """Group tracklets with similar neighbourhoods.

    Args:
        reach: Jaccard distance up to which two tracklets are neighbours (DBSCAN's eps), in (0, 1).
        least: number of neighbours, itself included, that make a tracklet the core of a group (DBSCAN's min_samples).
        k1, k2: see ``reciprocal_neighbours``.

    Memory: as ``reciprocal_neighbours``, and the pairs below ``reach``.

    Raises:
        InputError: fewer than two tracklets, or a reach outside (0, 1).
    """
    if len(embedding_ND) < 2 or not 0 < reach < 1:
        raise InputError(
            f"cannot group {len(embedding_ND)} tracklets with reach {reach}: expected at least 2 tracklets and a reach "
            "between 0 and 1"
        )
    graph = _near_pairs(embedding_ND, presence, reach, k1, k2)
    label_N = DBSCAN(eps=reach, min_samples=least, metric="precomputed").fit_predict(graph).astype(np.int64)
    for label in range(label_N.max() + 1):
        inside = np.flatnonzero(label_N == label)
        if _meet(presence, inside):
            label_N[inside] = -1
            for part in _split(graph, inside, presence):
                label_N[part] = label_N.max() + 1
    return _ordered(label_N, graph)


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


def write_clusters(clusters: Clusters, rows: Sequence[EmbeddingRow], path: Path) -> None:
    """Write id, camera, group (null for a tracklet in no group) and is_medoid; InputError if writing fails."""
    medoids = set(clusters.medoid_M.tolist())
    columns = {
        "id": [row.id for row in rows],
        "camera": [row.camera for row in rows],
        "group": pa.array(clusters.group_N, mask=clusters.group_N < 0),
        "is_medoid": [number in medoids for number in range(len(rows))],
    }
    write_table(pa.table(columns), path)


def _near_pairs(embedding_ND: Floats, presence: Presence, reach: float, k1: int, k2: int) -> sp.csr_array:
    weight_NN = reciprocal_neighbours(embedding_ND, k1=k1, k2=k2).weight_NN
    rows, columns, values = [], [], []
    for start in range(0, len(embedding_ND), ROWS):
        for row, near, distance in jaccard_distances(weight_NN, slice(start, start + ROWS)):
            kept = (distance <= reach) & ~presence.together(np.full(len(near), row), near)
            rows.append(np.full(np.count_nonzero(kept), row))
            columns.append(near[kept])
            values.append(distance[kept])
    place = np.concatenate(rows), np.concatenate(columns)
    shape = len(embedding_ND), len(embedding_ND)
    return sp.csr_array((np.concatenate(values), place), shape=shape)


def _meet(presence: Presence, inside: Indices) -> bool:
    """Whether any two of a group are in view at the same time; compares neighbours in order of video and start."""
    known = inside[presence.video_N[inside] >= 0]
    order = known[np.lexsort((presence.start_N[known], presence.video_N[known]))]
    for video in np.unique(presence.video_N[order]):
        part = order[presence.video_N[order] == video]
        latest = np.maximum.accumulate(presence.end_N[part])
        if (presence.start_N[part[1:]] <= latest[:-1]).any():
            return True
    return False


def _split(graph: sp.csr_array, inside: Indices, presence: Presence) -> Iterable[Indices]:
    """Parts of two or more, joined by the shortest edges first, in which no two tracklets meet."""
    edges = graph[inside][:, inside].tocoo()
    upper = edges.row < edges.col
    order = np.lexsort((edges.col[upper], edges.row[upper], edges.data[upper]))
    part_of = list(range(len(inside)))
    parts = {number: [number] for number in part_of}
    for first, second in zip(edges.row[upper][order].tolist(), edges.col[upper][order].tolist(), strict=True):
        here, there = part_of[first], part_of[second]
        if here == there or _meet(presence, inside[parts[here] + parts[there]]):
            continue
        for member in parts[there]:
            part_of[member] = here
        parts[here] += parts.pop(there)
    return [inside[members] for members in parts.values() if len(members) > 1]


def _ordered(label_N: Indices, graph: sp.csr_array) -> Clusters:
    """Groups renumbered by decreasing size, then by first tracklet; medoids have the least mean distance within."""
    found = [np.flatnonzero(label_N == label) for label in np.unique(label_N[label_N >= 0])]
    found.sort(key=lambda inside: (-len(inside), inside[0]))
    group_N = np.full(len(label_N), -1)
    medoids = []
    for group, inside in enumerate(found):
        group_N[inside] = group
        within = graph[inside][:, inside]
        distance = len(inside) - within.astype(bool).sum(axis=1) + within.sum(axis=1)  # pairs out of reach: 1
        medoids.append(int(inside[np.argmin(distance)]))
    return Clusters(group_N, np.array(medoids, np.int64))
