"""Filmstrips that compare two results: the queries whose average precision changed, with both rankings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ccvid.retrieval.ranking.comparison import Comparison, QueryScores
from ccvid.retrieval.report.filmstrips import Entries, Mark, Row, State, Tracklets, View


@dataclass(frozen=True, slots=True)
class RankedResult:
    """One protocol's scores in the result ``name``."""

    name: str
    scores: QueryScores


def change_view(
    name: str,
    comparison: Comparison,
    results: tuple[RankedResult, RankedResult],
    tracklets: Tracklets,
    number_of: Mapping[str, int],
) -> View:
    """Queries from the largest loss to the largest gain in average precision; unchanged ones are left out.

    Args:
        name: of the view.
        tracklets: queries and gallery entries of both results; ``number_of`` gives their indices by id.
    """
    first, second = results
    description = (
        f"Queries whose average precision changed from “{first.name}” to “{second.name}”, with both rankings: of "
        f"{len(comparison.ids)} queries, {len(comparison.worse)} got worse and {len(comparison.better)} got better. "
        "Junk is not shown."
    )
    rows = _rows(comparison, results, tracklets, number_of)
    orders = ("largest loss first", "largest gain first")
    return View(name, description, orders, tracklets, tracklets, rows, "change in per cent", counted="rankings")


def _rows(
    comparison: Comparison,
    results: tuple[RankedResult, RankedResult],
    tracklets: Tracklets,
    number_of: Mapping[str, int],
) -> Iterator[Row]:
    place_in = [{id: place for place, id in enumerate(result.scores.ids)} for result in results]
    for query in [*comparison.worse, *reversed(comparison.better)]:
        id, change = comparison.ids[query], f"{100 * comparison.change_Q[query]:+.1f}".replace("-", "−")
        for result, place, notes in zip(results, (places[id] for places in place_in), ((), (change,)), strict=True):
            value = round(100 * float(comparison.change_Q[query]), 1)
            yield ranked_row(result, place, tracklets, number_of, notes=notes, value=value)


def ranked_row(
    result: RankedResult,
    place: int,
    tracklets: Tracklets,
    number_of: Mapping[str, int],
    *,
    notes: tuple[str, ...] = (),
    value: float | None = None,
) -> Row:
    """The ranking of one query, ``place`` in its result; ``number_of`` gives the indices of ``tracklets`` by id."""
    scores = result.scores
    asked = number_of.get(scores.ids[place])
    precision = f"average precision {100 * scores.figures['map'][place]:.1f} %"
    return Row(
        scores.ids[place],
        scores.person[place],
        () if asked is None else (tracklets.captions([asked])[0].camera,),
        asked,
        _entries(scores, place, number_of),
        (result.name, precision, *notes),
        State.RIGHT if scores.figures["top-1"][place] else State.WRONG,
        value,
    )


def _entries(scores: QueryScores, place: int, number_of: Mapping[str, int]) -> Entries:
    """The ranked entries whose labels are known."""
    ranked = [
        (number_of[id], rank, 1 - distance, Mark.RIGHT if is_match else Mark.WRONG)
        for rank, (id, distance, is_match) in enumerate(scores.ranked[place], start=1)
        if id in number_of
    ]
    gallery, rank, score, mark = zip(*ranked, strict=True) if ranked else ((),) * 4
    whole = (np.array(column, np.int64) for column in (gallery, rank, mark))
    gallery_E, rank_E, mark_E = whole
    return Entries(gallery_E, rank_E, np.array(score, np.float64), None, mark_E)
