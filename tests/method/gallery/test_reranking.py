"""k-reciprocal re-ranking against the published dense algorithm in plain loops."""

from __future__ import annotations

from operator import add

import numpy as np
import numpy.typing as npt
import pytest

from ccvid.retrieval.gallery import slices
from ccvid.retrieval.gallery.reranking import ReRankedDistances, jaccard_distances, re_rank, reciprocal_neighbours
from ccvid.retrieval.gallery.vectors import JoinedVectors, MatrixVectors
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceBlock
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]


def made(
    queries: int, gallery: int, persons: int, seed: int = 0
) -> tuple[Features, Features, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    centre = random.standard_normal((persons, 16))
    person = [random.integers(0, persons, size) for size in (queries, gallery)]
    sides = [(centre[who] + 0.7 * random.standard_normal((len(who), 16))).astype(np.float32) for who in person]
    return sides[0], sides[1], person[0], person[1]


def re_ranked(query: Features, gallery: Features, **options: float) -> ReRankedDistances:
    every = JoinedVectors(MatrixVectors(query), MatrixVectors(gallery))
    return re_rank(CosineDistances(query, gallery), every, **options)  # type: ignore[arg-type]


def blocks(distances: ReRankedDistances) -> list[DistanceBlock]:
    """Of a gallery in one part."""
    return distances.fold(lambda part: list(part.distances.blocks()), add)


def dense(query: Floats, gallery: Floats, k1: int, k2: int, share: float) -> Floats:
    every = np.concatenate((query, gallery)).astype(np.float64)
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    distance = 2 - 2 * every @ every.T
    distance = distance / distance.max(axis=1, keepdims=True)
    rank = np.argsort(np.round(distance, 12), axis=1, kind="stable")
    count = len(every)
    weights = np.zeros((count, count))

    def mutual(entry: int, k: int) -> set[int]:
        return {other for other in rank[entry, : k + 1].tolist() if entry in rank[other, : k + 1]}

    for entry in range(count):
        own = mutual(entry, k1)
        expanded = set(own)
        for candidate in own:
            theirs = mutual(candidate, int(np.around(k1 / 2)))
            if len(theirs & own) > 2 / 3 * len(theirs):
                expanded |= theirs
        chosen = sorted(expanded)
        weights[entry, chosen] = np.exp(-distance[entry, chosen])
        weights[entry] /= weights[entry].sum()
    if k2 > 1:
        weights = np.stack([weights[rank[entry, :k2]].mean(axis=0) for entry in range(count)])
    queries = len(query)
    result = np.zeros((queries, count - queries))
    for q in range(queries):
        for g in range(count - queries):
            least = np.minimum(weights[q], weights[queries + g]).sum()
            result[q, g] = (1 - share) * (1 - least / (2 - least)) + share * distance[q, queries + g]
    return result


@pytest.mark.parametrize(("k1", "k2", "share"), [(6, 3, 0.3), (5, 1, 0.0), (20, 6, 0.3), (7, 2, 1.0)])
@pytest.mark.parametrize("rows", [16, 4096])
def test_as_published(monkeypatch: pytest.MonkeyPatch, k1: int, k2: int, share: float, rows: int) -> None:
    monkeypatch.setattr(slices, "LEAST_ROWS", rows)
    query, gallery, *_ = made(12, 60, 9)
    found = re_ranked(query, gallery, k1=k1, k2=k2, share=share)
    expected = dense(query.astype(np.float64), gallery.astype(np.float64), k1, k2, share)
    matrix = np.full(found.shape, np.nan)
    for query_start, gallery_start, values in blocks(found):
        matrix[query_start : query_start + len(values), gallery_start : gallery_start + values.shape[1]] = values
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_pairs_blocks_and_parts_have_the_same_bits() -> None:
    query, gallery, *_ = made(9, 50, 6)
    found = re_ranked(query, gallery, k1=5, k2=3)
    (block,) = blocks(found)
    rows, columns = np.divmod(np.arange(9 * 50), 50)
    assert np.array_equal(found.pairs(rows, columns), block.values.ravel())
    some = np.array([2, 7]), np.array([40, 1, 13])
    (part,) = blocks(found.take(*some))
    assert np.array_equal(part.values, block.values[np.ix_(*some)])


def test_it_helps_where_neighbours_tell_more_than_one_distance() -> None:
    query, gallery, asked, there = made(40, 400, 40, seed=3)
    labels = [
        RetrievalLabels(
            tuple(f"{side}{n}" for n in range(len(who))),
            tuple(map(str, who)),
            tuple(camera for _ in who),
            (None,) * len(who),
        )
        for side, who, camera in (("q", asked, "1"), ("g", there, "2"))
    ]
    before, after = (
        evaluate(distances, *labels).results["general"].mean_average_precision
        for distances in (re_ranked(query, gallery, share=1.0), re_ranked(query, gallery))
    )
    assert after > before + 0.02


def test_jaccard_distances_of_near_entries() -> None:
    _, gallery, *_ = made(2, 40, 5)
    weight = reciprocal_neighbours(MatrixVectors(gallery), k1=5, k2=2).weight_NN
    full = weight.toarray()
    for rows in (slice(0, 40), slice(13, 20), slice(36, 99)):
        row, near, distance = jaccard_distances(weight, weight.tocsc(), rows)
        found = np.ones((40, 40))
        found[row, near] = distance
        for number in range(40):
            least = np.minimum(full[number], full).sum(axis=1)
            expected = 1 - least / (2 - least) if number in range(*rows.indices(40)) else np.ones(40)
            np.testing.assert_allclose(found[number], expected, atol=1e-12)
        assert np.array_equal(np.lexsort((near, row)), np.arange(len(row)))


def test_few_entries() -> None:
    query, gallery, *_ = made(1, 2, 2)
    (block,) = blocks(re_ranked(query, gallery))
    assert np.isfinite(block.values).all()
