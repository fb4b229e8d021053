"""Groups of probable persons, tracklets that cannot be one person, and scores against labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows
from ccvid.retrieval.gallery.clusters import (
    Clusters,
    Presence,
    _ordered,
    find_clusters,
    score_clusters,
    write_clusters,
)
from ccvid.retrieval.gallery.vectors import MatrixVectors
from data_tools.errors import InputError

ROW = EmbeddingRow("t", None, None, "east", "gallery", {}, 1, "s")


def at(*times: tuple[str, float, float] | None) -> Presence:
    attributes = [
        {} if time is None else {"video": time[0], "start_seconds": str(time[1]), "end_seconds": str(time[2])}
        for time in times
    ]
    return Presence.of(EmbeddingRows.of(replace(ROW, attributes=values) for values in attributes))


def people(persons: int, each: int, noise: float = 0.3) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(persons), each)
    embedding = random.standard_normal((persons, 32))[person] + noise * random.standard_normal((len(person), 32))
    return embedding.astype(np.float32), [f"p{number}" for number in person]


def test_people_are_found() -> None:
    embedding, person = people(20, 6)
    found = find_clusters(MatrixVectors(embedding), at(*[None] * len(person)), k1=5, k2=2)
    scores = score_clusters(found.group_N, person)
    assert (scores.persons, scores.groups, scores.purity) == (20, 20, 1.0)
    assert scores.recall > 0.95
    for group, members in enumerate(found.members()):
        assert members[0] == found.medoid_M[group]
        assert sorted(members) == np.flatnonzero(found.group_N == group).tolist()
        assert len({person[member] for member in members.tolist()}) == 1
    sizes = np.bincount(found.group_N[found.group_N >= 0])
    assert (np.diff(sizes) <= 0).all()


def test_two_in_one_picture_are_never_one_person() -> None:
    """Twins: one cloud of embeddings, two tracks at a time."""
    embedding, _ = people(1, 8, noise=0.1)
    others, _ = people(6, 8)
    times = [("gate", 10.0 * (number // 2), 10.0 * (number // 2) + 5) for number in range(8)]
    presence = at(*times, *[None] * len(others))
    assert (
        len(set(find_clusters(MatrixVectors(np.concatenate((embedding, others))), at(*[None] * 56), k1=7).group_N[:8]))
        == 1
    )
    found = find_clusters(MatrixVectors(np.concatenate((embedding, others))), presence, k1=7)
    for members in found.members():
        first, second = np.meshgrid(members, members)
        assert not presence.together(first.ravel(), second.ravel()).any()
    assert (found.group_N[:8] >= 0).sum() >= 4


def test_nobody_is_in_a_group() -> None:
    embedding = np.eye(12, dtype=np.float32)
    found = find_clusters(MatrixVectors(embedding), at(*[None] * 12), k1=1, k2=1)
    assert (found.groups, found.members()) == (0, [])
    assert (found.group_N == -1).all()


def test_the_medoid_is_nearest_to_the_others() -> None:
    """A distance of 0, here to itself, is one, unlike a pair that the sparse graph does not hold."""
    distance = np.array([[0.0, 0.2, 0.3, 9], [0.2, 1e-16, 0.4, 9], [0.3, 0.4, 1e-16, 9], [9, 9, 9, 0]])
    row, column = np.nonzero(distance < 1)
    graph = sp.csr_array((distance[row, column], (row, column)), shape=(4, 4))
    found = _ordered(np.array([5, 5, 5, -1]), graph)
    assert found.group_N.tolist() == [0, 0, 0, -1]
    assert found.medoid_M.tolist() == [0]


def test_presence() -> None:
    presence = at(("a", 0, 5), ("a", 5, 9), ("a", 6, 7), ("b", 0, 5), None)
    pairs = np.array([(0, 1), (0, 2), (1, 2), (0, 3), (0, 4), (0, 0)]).T
    assert presence.together(*pairs).tolist() == [True, False, True, False, False, False]


def test_figures_by_hand() -> None:
    group = np.array([0, 0, 0, 1, -1, -1, 1])
    scores = score_clusters(group, ["a", "a", "b", "b", "b", "c", None])
    assert (scores.persons, scores.groups) == (3, 2)
    assert scores.purity == pytest.approx((2 + 1 + 1 + 1) / 6)
    assert scores.precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 + 1 + 1) / 6)
    assert scores.recall == pytest.approx((1 + 1 + 1 / 3 + 1 / 3 + 1 / 3 + 1) / 6)
    assert scores.to_json()["groups"] == 2
    with pytest.raises(InputError, match="no tracklet has a person label"):
        score_clusters(group, [None] * 7)


def test_the_table(tmp_path: Path) -> None:
    rows = EmbeddingRows.of(replace(ROW, id=name) for name in "abc")
    write_clusters(Clusters(np.array([0, -1, 0]), np.array([2])), rows, tmp_path / "clusters.parquet")
    table = pq.read_table(tmp_path / "clusters.parquet").to_pydict()
    assert (table["group"], table["is_medoid"]) == ([0, None, 0], [False, False, True])


@pytest.mark.parametrize(("count", "reach"), [(1, 0.5), (4, 0.0), (4, 1.0)])
def test_what_is_refused(count: int, reach: float) -> None:
    with pytest.raises(InputError, match=f"cannot group {count} tracklets with reach {reach}"):
        find_clusters(MatrixVectors(np.eye(4, dtype=np.float32)[:count]), at(*[None] * count), reach=reach)
