"""Filmstrips of two results side by side: the queries whose average precision changed, each as both ranked it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ccvid.retrieval.comparison import Comparison, QueryScores
from ccvid.retrieval.report.filmstrips import Entry, Mark, Row, State, Tracklets, View


@dataclass(frozen=True, slots=True)
class RankedResult:
    """One protocol's scores in a result that is called ``name``."""

    name: str
    scores: QueryScores


def change_view(
    name: str,
    comparison: Comparison,
    results: tuple[RankedResult, RankedResult],
    tracklets: Tracklets,
    number_of: Mapping[str, int],
) -> View:
    """The queries that got worse, the most first, then those that got better, the most last; unchanged ones are absent.

    Args:
        name: of the view.
        tracklets: queries and gallery entries of both results; ``number_of`` tells which by id.
    """
    first, second = results
    description = (
        f"Queries whose average precision changed from “{first.name}” to “{second.name}”, each as both ranked it: "
        f"{len(comparison.worse)} got worse, {len(comparison.better)} better, of {len(comparison.ids)}. "
        "Junk is left out."
    )
    rows = list(_rows(comparison, results, number_of))
    return View(name, description, ("most lost first", "most gained first"), tracklets, tracklets, rows)


def _rows(
    comparison: Comparison, results: tuple[RankedResult, RankedResult], number_of: Mapping[str, int]
) -> Iterator[Row]:
    place_in = [{id: place for place, id in enumerate(result.scores.ids)} for result in results]
    for query in [*comparison.worse, *reversed(comparison.better)]:
        id, change = comparison.ids[query], comparison.change_Q[query]
        for result, place in zip(results, place_in, strict=True):
            yield _row(result, place[id], f"average precision {100 * change:+.1f}", number_of)


def _row(result: RankedResult, place: int, change: str, number_of: Mapping[str, int]) -> Row:
    scores = result.scores
    ranked = [found for found in scores.ranked[place] if found[0] in number_of]
    entries = [
        Entry(number_of[id], rank, 1 - distance, None, Mark.RIGHT if is_match else Mark.WRONG)
        for rank, (id, distance, is_match) in enumerate(ranked, start=1)
    ]
    precision = f"average precision {100 * scores.figures['map'][place]:.1f} %"
    state = State.RIGHT if scores.figures["top-1"][place] else State.WRONG
    notes = (result.name, precision, change)
    id = scores.ids[place]
    return Row(id, scores.person[place], (), number_of.get(id), entries, notes, state)
