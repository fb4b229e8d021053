"""Exact ranks of a query's own person in the gallery, without sorting the gallery.

For one query, order the gallery by distance, and equal distances by gallery index (so that every machine agrees).
Under any protocol, junk and matches are entries of the query's own person. Hence the k-th match of *every* protocol
has rank

    k + number of other persons' entries before it,

and that number, ``wrong_before``, is counted once for each entry of the query's person.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch

from ccvid.retrieval.ranking.distances import DistanceBlock, Distances, Floats, Indices
from ccvid.retrieval.ranking.nearest import Codes, NearestOthers
from ccvid.retrieval.ranking.quick_counts import applies_to, count_quickly
from ccvid.retrieval.ranking.quick_scores import core_threads
from ccvid.retrieval.ranking.threshold_counts import MOST_THRESHOLDS, Thresholds

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


class Ranker(Protocol):
    """Counts ranks: ``rank_persons`` in this process, or several processes for parts of the queries."""

    def __call__(
        self, distances: Distances, query_person: Indices, gallery_person: Indices, nearest: int
    ) -> tuple[PersonPairs, NearestOthers]: ...


def rank_persons(
    distances: Distances, query_person: Indices, gallery_person: Indices, nearest: int
) -> tuple[PersonPairs, NearestOthers]:
    """Count ``wrong_before`` of all same-person pairs and keep the ``nearest`` others, in one pass.

    Persons are integer codes, (Q,) and (G,), shared by both sides. The queries are divided among as many threads as
    torch uses; the result is the same for any number. Memory besides the blocks of distances: a few numbers per pair,
    ``nearest`` entries per query, and see ``count_quickly``.
    """
    query, gallery, first = same_person(query_person, gallery_person)
    with core_threads() as threads:
        parts = zip(*(np.array_split(column, 8 * torch.get_num_threads()) for column in (query, gallery)), strict=True)
        distance = np.concatenate(list(threads.map(lambda part: distances.pairs(*part), parts)))
    order = np.lexsort((gallery, distance, query))
    gallery, distance = gallery[order], distance[order]
    persons = query_person, gallery_person
    before, others = _count(distances, Thresholds(first, distance, gallery), persons, nearest)
    own_before = np.arange(len(query)) - first[query]
    return PersonPairs(query, gallery, distance, before - own_before, first), others


def count_before(distances: Distances, thresholds: Thresholds) -> Indices:
    """How many entries come before each threshold, (P,).

    The gallery of ``distances`` may be a part of the whole: the counts of all parts add up.
    """
    queries, entries = distances.shape
    nobody = np.zeros(queries, np.int64), np.ones(entries, np.int64)
    return _count(distances, thresholds, nobody, nearest=0)[0]


def _count(distances: Distances, thresholds: Thresholds, persons: Codes, nearest: int) -> tuple[Indices, NearestOthers]:
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
    distances: Distances, thresholds: Thresholds, _persons: Codes, nearest: int
) -> tuple[Indices, NearestOthers]:
    """``_count`` from the exact distances of all pairs; the thresholds are the entries of the query's person."""
    first, before = thresholds.first, np.zeros(len(thresholds.distance), np.int64)
    others = NearestOthers.none(distances.shape[0], nearest)

    def count(block: DistanceBlock, row: int) -> None:
        values, own = block.values[row - block.query_start], slice(first[row], first[row + 1])
        before[own] += _count_before(values, thresholds.distance[own], thresholds.index[own] - block.gallery_start)
        if nearest:
            _keep_nearest(others, row, values, block.gallery_start, thresholds.index[own])

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
    rank: Ranker = rank_persons,
) -> tuple[PersonPairs, NearestOthers]:
    """``rank_persons`` among some rows only, with indices into the whole sets.

    Both lists of rows are ascending and not empty. Queries outside have no pairs and no nearest entries.
    """
    part = distances.take(query_rows, gallery_rows)
    pairs, others = rank(part, query_person[query_rows], gallery_person[gallery_rows], nearest)
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


def join_queries(parts: Sequence[tuple[PersonPairs, NearestOthers]]) -> tuple[PersonPairs, NearestOthers]:
    """The result of ``rank_persons`` for all queries, joined from its results for consecutive parts of them."""
    every = [pairs for pairs, _ in parts]
    starts = np.cumsum([0, *(len(pairs.first) - 1 for pairs in every)])[:-1]
    joined = PersonPairs(
        query=np.concatenate([pairs.query + start for pairs, start in zip(every, starts, strict=True)]),
        gallery=np.concatenate([pairs.gallery for pairs in every]),
        distance=np.concatenate([pairs.distance for pairs in every]),
        wrong_before=np.concatenate([pairs.wrong_before for pairs in every]),
        first=np.cumsum(np.concatenate([[0], *(np.diff(pairs.first) for pairs in every)])),
    )
    others = NearestOthers(
        np.concatenate([others.gallery_QK for _, others in parts]),
        np.concatenate([others.distance_QK for _, others in parts]),
    )
    return joined, others


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
    """How many of ``values`` come before each entry: smaller, or equal at a lower index.

    An entry is given by its distance in ``threshold_P`` (ascending) and its index in ``index_P``, which is relative to
    the start of ``values`` and may be outside.
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
    itself_P = (index_P >= 0) & (index_P < len(values))
    for entry in np.flatnonzero(equal_P > itself_P):
        before_P[entry] += np.count_nonzero(values[: cut_P[entry]] == threshold_P[entry])
    return before_P


def _keep_nearest(others: NearestOthers, row: int, values: Floats, gallery_start: int, own: Indices) -> None:
    """Merge one row of a block into the row's nearest others; ``own`` holds the gallery indices to leave out."""
    nearest = others.gallery_QK.shape[1]
    enough = min(nearest + len(own), len(values)) - 1
    near = gallery_start + np.flatnonzero(values <= np.partition(values, enough)[enough])
    near = near[~np.isin(near, own)]
    gallery = np.concatenate((others.gallery_QK[row], near))
    distance = np.concatenate((others.distance_QK[row], values[near - gallery_start]))
    best = np.lexsort((gallery, distance))[:nearest]
    others.gallery_QK[row], others.distance_QK[row] = gallery[best], distance[best]
