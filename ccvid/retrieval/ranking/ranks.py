"""Exact ranks of a query's own person in the gallery, without sorting the gallery.

For one query, order the gallery by distance, and equal distances by gallery index (so that every machine agrees).
Under any protocol, junk and matches are entries of the query's own person. Hence the k-th match of *every* protocol
has rank

    k + number of other persons' entries before it,

and that number, ``wrong_before``, is counted once for each entry of the query's person.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from ccvid.retrieval.ranking.distances import DistanceBlock, Distances, Floats, GalleryPart, Indices, LocalDistances
from ccvid.retrieval.ranking.nearest import Codes, NearestOthers
from ccvid.retrieval.ranking.quick_counts import applies_to, count_quickly
from ccvid.retrieval.ranking.quick_scores import core_threads, row_groups
from ccvid.retrieval.ranking.threshold_counts import MOST_THRESHOLDS, Thresholds

PAIRS = 2**12
"""Pairs whose distances a thread takes at a time."""
FEW_ENTRIES = 128
"""Up to this number, comparing the row with every threshold is faster than sorting the row."""


@dataclass(frozen=True, slots=True)
class PersonPairs:
    """The P pairs (query, gallery entry of the same person), by query, then distance, then gallery index.

    The pairs of query q are ``first[q] : first[q + 1]``.
    """

    query: Indices
    gallery: Indices
    distance: Floats
    wrong_before: Indices
    first: Indices


def rank_persons(
    distances: Distances, query_person: Indices, gallery_person: Indices, nearest: int
) -> tuple[PersonPairs, NearestOthers]:
    """Count ``wrong_before`` of all same-person pairs and keep the ``nearest`` others, in one pass.

    Persons are integer codes, (Q,) and (G,), shared by both sides. The queries are divided among as many threads as
    torch uses; the result is the same for any number, and for any parts of the gallery. Memory besides the blocks of
    distances: a few numbers per pair, ``nearest`` entries per query, and see ``count_quickly``.
    """
    query, gallery, first = same_person(query_person, gallery_person)
    distance = distances_of_pairs(distances, query, gallery)
    order = np.lexsort((gallery, distance, query))
    gallery, distance = gallery[order], distance[order]
    count = partial(
        _count_in_part,
        thresholds=Thresholds(first, distance, gallery),
        persons=(query_person, gallery_person),
        nearest=nearest,
    )
    before, others = distances.fold(count, _both_counts)
    own_before = np.arange(len(query)) - first[query]
    return PersonPairs(query, gallery, distance, before - own_before, first), others


def distances_of_pairs(distances: Distances, query_P: Indices, gallery_P: Indices) -> Floats:
    """The distances of P pairs, part by part, each on all threads."""
    work = partial(_pairs_in_part, query_P=query_P, gallery_P=gallery_P)
    pair_F, distance_F = distances.fold(work, _both_found)
    distance_P = np.empty_like(distance_F)
    distance_P[pair_F] = distance_F
    return distance_P


def _pairs_in_part(part: GalleryPart, query_P: Indices, gallery_P: Indices) -> tuple[Indices, Floats]:
    """Which of the pairs are in the part, and their distances."""
    place_P = np.searchsorted(part.entry_N, gallery_P)
    found = np.flatnonzero(np.append(part.entry_N, -1)[place_P] == gallery_P)
    query_F, place_F = query_P[found], place_P[found]
    shares = [slice(rows.start, rows.stop) for rows in row_groups(range(len(found)), PAIRS)]
    if len(shares) <= 1:
        return found, part.distances.pairs(query_F, place_F)
    with core_threads() as threads:
        distances = threads.map(lambda share: part.distances.pairs(query_F[share], place_F[share]), shares)
        return found, np.concatenate(list(distances))


def _both_found(first: tuple[Indices, Floats], second: tuple[Indices, Floats]) -> tuple[Indices, Floats]:
    return np.concatenate((first[0], second[0])), np.concatenate((first[1], second[1]))


def count_before(distances: LocalDistances, thresholds: Thresholds) -> Indices:
    """How many entries come before each threshold, (P,).

    The gallery of ``distances`` may be a part of the whole: the counts of all parts add up.
    """
    queries, entries = distances.shape
    nobody = np.zeros(queries, np.int64), np.ones(entries, np.int64)
    return _count(distances, thresholds, nobody, nearest=0)[0]


def _count_in_part(
    part: GalleryPart, thresholds: Thresholds, persons: Codes, nearest: int
) -> tuple[Indices, NearestOthers]:
    """``_count`` in a part, where thresholds and persons are those of the whole gallery."""
    own = replace(thresholds, index=np.searchsorted(part.entry_N, thresholds.index))
    before, others = _count(part.distances, own, (persons[0].copy(), persons[1][part.entry_N]), nearest)
    gallery_QK = np.append(part.entry_N, -1)[others.gallery_QK]  # −1 stays −1
    return before, NearestOthers(gallery_QK, others.distance_QK)


def _both_counts(
    first: tuple[Indices, NearestOthers], second: tuple[Indices, NearestOthers]
) -> tuple[Indices, NearestOthers]:
    """Counts and nearest others of two parts together."""
    (before, others), (also_before, more) = first, second
    gallery_QK = np.concatenate((others.gallery_QK, more.gallery_QK), axis=1)
    distance_QK = np.concatenate((others.distance_QK, more.distance_QK), axis=1)
    best_QK = np.lexsort((gallery_QK, distance_QK), axis=1)[:, : others.gallery_QK.shape[1]]
    nearest = NearestOthers(
        np.take_along_axis(gallery_QK, best_QK, axis=1), np.take_along_axis(distance_QK, best_QK, axis=1)
    )
    return before + also_before, nearest


def _count(
    distances: LocalDistances, thresholds: Thresholds, persons: Codes, nearest: int
) -> tuple[Indices, NearestOthers]:
    """``count_before``, and the ``nearest`` entries of other persons."""
    queries, entries = distances.shape
    quick_Q = np.full(queries, applies_to(distances)) & (thresholds.count <= MOST_THRESHOLDS)
    before, others = np.zeros(len(thresholds.distance), np.int64), NearestOthers.none(queries, nearest)
    for count, chosen_Q in ((count_quickly, quick_Q), (_count_in_blocks, ~quick_Q)):
        rows = np.flatnonzero(chosen_Q)
        if len(rows):
            part = distances if len(rows) == queries else distances.take(rows, np.arange(entries))
            own = np.repeat(chosen_Q, thresholds.count)
            before[own], found = count(part, thresholds.take(rows), (persons[0][rows], persons[1]), nearest)
            others.gallery_QK[rows], others.distance_QK[rows] = found.gallery_QK, found.distance_QK
    return before, others


def _count_in_blocks(
    distances: LocalDistances, thresholds: Thresholds, persons: Codes, nearest: int
) -> tuple[Indices, NearestOthers]:
    """``_count`` from the exact distances of all pairs; a query has as many thresholds as its person has entries."""
    first, before = thresholds.first, np.zeros(len(thresholds.distance), np.int64)
    others = NearestOthers.none(distances.shape[0], nearest)
    person_Q, person_N = persons

    def count(block: DistanceBlock, row: int) -> None:
        values, own = block.values[row - block.query_start], slice(first[row], first[row + 1])
        before[own] += _count_before(values, thresholds.distance[own], thresholds.index[own] - block.gallery_start)
        if nearest:
            is_own = person_N[block.gallery_start : block.gallery_start + len(values)] == person_Q[row]
            _keep_nearest(others, row, values, block.gallery_start, is_own)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for block in distances.blocks():
            rows = range(block.query_start, block.query_start + len(block.values))
            for _ in threads.map(partial(count, block), rows):
                pass
    return before, others


def rank_part(
    distances: Distances,
    query_person: Indices,
    gallery_person: Indices,
    query_rows: Indices,
    gallery_rows: Indices,
    nearest: int,
) -> tuple[PersonPairs, NearestOthers]:
    """``rank_persons`` among some rows only, with indices into the whole sets.

    Both lists of rows are ascending and not empty. Queries outside have no pairs and no nearest entries.
    """
    part = distances.take(query_rows, gallery_rows)
    pairs, others = rank_persons(part, query_person[query_rows], gallery_person[gallery_rows], nearest)
    count_Q = np.zeros(len(query_person), np.int64)
    count_Q[query_rows] = np.diff(pairs.first)
    whole = NearestOthers.none(len(query_person), nearest)
    whole.gallery_QK[query_rows] = np.where(others.gallery_QK < 0, -1, gallery_rows[others.gallery_QK])
    whole.distance_QK[query_rows] = others.distance_QK
    first = np.concatenate(([0], np.cumsum(count_Q)))
    return (
        PersonPairs(query_rows[pairs.query], gallery_rows[pairs.gallery], pairs.distance, pairs.wrong_before, first),
        whole,
    )


def same_person(query_person: Indices, gallery_person: Indices) -> tuple[Indices, Indices, Indices]:
    """Query and gallery index of every same-person pair, by query, and where each query's pairs begin (Q + 1,)."""
    by_person = np.argsort(gallery_person, kind="stable")
    begin = np.searchsorted(gallery_person, query_person, side="left", sorter=by_person)
    count = np.searchsorted(gallery_person, query_person, side="right", sorter=by_person) - begin
    first = np.concatenate(([0], np.cumsum(count)))
    query = np.repeat(np.arange(len(query_person)), count)
    within = np.arange(first[-1]) - first[query]
    return query, by_person[begin[query] + within], first


def _count_before(values: Floats, threshold_P: Floats, index_P: Indices) -> Indices:
    """How many of ``values`` come before each threshold: smaller, or equal at a lower index.

    A threshold is a distance in ``threshold_P`` (ascending) and an index in ``index_P``, which is relative to the start
    of ``values`` and may be outside.
    """
    cut_P = np.clip(index_P, 0, len(values))
    if len(threshold_P) <= FEW_ENTRIES:
        return np.array(
            [
                np.count_nonzero(values[:cut] <= threshold) + np.count_nonzero(values[cut:] < threshold)
                for threshold, cut in zip(threshold_P, cut_P, strict=True)
            ],
            np.int64,
        )
    in_order = np.sort(values)
    before_P = np.searchsorted(in_order, threshold_P, side="left")
    equal_P = np.searchsorted(in_order, threshold_P, side="right") - before_P
    at_index_P = (index_P >= 0) & (np.append(values, np.nan)[cut_P] == threshold_P)  # it does not come before itself
    for entry in np.flatnonzero(equal_P > at_index_P):
        before_P[entry] += np.count_nonzero(values[: cut_P[entry]] == threshold_P[entry])
    return before_P


def _keep_nearest(
    others: NearestOthers, row: int, values: Floats, gallery_start: int, is_own_N: npt.NDArray[np.bool_]
) -> None:
    """Merge one row of a block into the row's nearest others, without the query's own person."""
    nearest = others.gallery_QK.shape[1]
    enough = min(nearest + np.count_nonzero(is_own_N), len(values)) - 1
    near = np.flatnonzero((values <= np.partition(values, enough)[enough]) & ~is_own_N)
    gallery = np.concatenate((others.gallery_QK[row], gallery_start + near))
    distance = np.concatenate((others.distance_QK[row], values[near]))
    best = np.lexsort((gallery, distance))[:nearest]
    others.gallery_QK[row], others.distance_QK[row] = gallery[best], distance[best]
