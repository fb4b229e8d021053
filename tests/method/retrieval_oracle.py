"""Retrieval by plain loops over plain lists: the evaluator must equal it to the last digit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import Protocol


@dataclass
class QueryFigures:
    average_precision: float
    inverse_negative_penalty: float
    first_match_rank: int
    ranking: list[int]
    """Gallery indices in rank order, junk removed."""
    matches: list[int]


def loop_over_queries(
    distance: Sequence[Sequence[float]], query: RetrievalLabels, gallery: RetrievalLabels, protocol: Protocol
) -> list[QueryFigures | None]:
    """The metrics of each query; None for one without a match or outside the protocol."""
    figures: list[QueryFigures | None] = []
    for q in range(len(query)):
        if not takes_part(query, q, protocol):
            figures.append(None)
            continue
        kind = [_kind(query, q, gallery, g, protocol) for g in range(len(gallery))]
        order = sorted(range(len(gallery)), key=lambda g: (distance[q][g], g))
        ranking = [g for g in order if kind[g] != "junk"]
        ranks = [rank for rank, g in enumerate(ranking, start=1) if kind[g] == "match"]
        if not ranks:
            figures.append(None)
            continue
        total = 0.0
        for k, rank in enumerate(ranks, start=1):
            total += k / rank
        matches = [g for g in ranking if kind[g] == "match"]
        figures.append(QueryFigures(total / len(ranks), len(ranks) / ranks[-1], ranks[0], ranking, matches))
    return figures


def takes_part(labels: RetrievalLabels, row: int, protocol: Protocol) -> bool:
    return all(labels.column(column)[row] in chosen for column, chosen in protocol.within.items())


def mean(values: Sequence[float]) -> float:
    """The exact sum, rounded once, divided."""
    return float(sum(map(Fraction, values))) / len(values)


def _kind(query: RetrievalLabels, q: int, gallery: RetrievalLabels, g: int, protocol: Protocol) -> str:
    if not takes_part(gallery, g, protocol):
        return "junk"  # left out, whichever person it is
    if query.person[q] != gallery.person[g]:
        return "wrong"
    if query.ids[q] == gallery.ids[g]:
        return "junk"
    for column in protocol.agree:
        mine, theirs = query.column(column)[q], gallery.column(column)[g]
        if mine is None or theirs is None or mine != theirs:
            return "junk"
    for column in protocol.differ:
        mine, theirs = query.column(column)[q], gallery.column(column)[g]
        if mine is None or theirs is None or mine == theirs:
            return "junk"
    return "match"
