"""Filmstrips of unlabelled tracklets: ranked matches of a search, and groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.filmstrips import Entries, Mark, Row, Tracklets, View, write_filmstrips
from ccvid.retrieval.report.folder import report_folder, write_page


@dataclass(frozen=True, slots=True)
class Group:
    """Tracklets that probably show one person: indices in the order shown, short notes, and how many are not shown."""

    name: str
    members: Sequence[int]
    notes: tuple[str, ...] = ()
    hidden: int = 0

    @property
    def size(self) -> int:
        return len(self.members) + self.hidden


def search_view(matches: RankedMatches, query_thumbnails: Thumbnails, gallery_thumbnails: Thumbnails) -> View:
    """Each query with its matches, highest top score first; whether they are right is not known."""
    query = Tracklets.of_rows(matches.query, query_thumbnails)
    gallery = Tracklets.of_rows(matches.gallery, gallery_thumbnails)
    orders = ("highest score first", "lowest score first")
    description = "Ranked by score; whether the matches are right is not known."
    return View("search", description, orders, query, gallery, _found(matches), "top score")


def group_view(groups: Sequence[Group], tracklets: Sequence[EmbeddingRow], thumbnails: Thumbnails) -> View:
    """Each group with its members, the largest first."""
    shown = Tracklets.of_rows(tracklets, thumbnails)
    orders = ("largest first", "smallest first")
    description = "Each group holds tracklets that probably show the same person."
    return View("groups", description, orders, shown, shown, _grouped(groups, tracklets), "size", counted="groups")


def write_views(
    views: Sequence[View], folder: Path, *, title: str, facts: Mapping[str, object], threshold: float | None = None
) -> None:
    """Write a report with only filmstrips, completely or not at all; raises InputError like ``write_report``."""
    with report_folder(folder) as new:
        write_filmstrips(new, views, threshold=threshold)
        write_page(new, "index.html", "filmstrips.html.j2", {"title": title, "facts": facts, "has_overview": False})


def _found(matches: RankedMatches) -> Iterator[Row]:
    first_Q = matches.score_QK[:, 0]
    rank_K = np.arange(1, matches.gallery_QK.shape[1] + 1)
    mark_K = np.full(len(rank_K), Mark.UNKNOWN)
    for query in np.argsort(-first_Q, kind="stable").tolist():
        asked = matches.query[query]
        count = np.count_nonzero(matches.gallery_QK[query] >= 0)
        probability_K = None if matches.probability_QK is None else matches.probability_QK[query]
        ranked = Entries(matches.gallery_QK[query], rank_K, matches.score_QK[query], probability_K, mark_K)
        notes = () if count else ("no gallery tracklet passes the filter",)
        value = round(float(first_Q[query]), 3) if count else None
        yield Row(asked.id, asked.person, (asked.camera,), query, ranked.part(slice(count)), notes, value=value)


def _grouped(groups: Sequence[Group], tracklets: Sequence[EmbeddingRow]) -> Iterator[Row]:
    labels = [(row.person, row.camera) for row in tracklets]  # once, because single rows are slow to get
    for group in sorted(groups, key=lambda group: -group.size):
        persons = {person for index in group.members if (person := labels[index][0]) is not None}
        cameras = tuple(sorted({labels[index][1] for index in group.members}))
        known = ", ".join(sorted(persons)) or None
        unranked = np.zeros(len(group.members), np.int64)
        size = f"{group.size} tracklet{'s' if group.size != 1 else ''}"
        shown = (f"{len(group.members)} are shown",) if group.hidden else ()
        entries = Entries(np.array(group.members, np.int64), unranked, None, None, unranked + Mark.UNKNOWN)
        yield Row(group.name, known, cameras, None, entries, (size, *shown, *group.notes), value=group.size)
