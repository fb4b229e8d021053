"""Filmstrips of unlabelled tracklets: ranked matches of a search, and groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.filmstrips import Entry, Row, Tracklets, View, write_filmstrips
from ccvid.retrieval.report.folder import report_folder, write_page


@dataclass(frozen=True, slots=True)
class Group:
    """Tracklets that probably show one person: indices in the order shown, and short notes (its purity, its size)."""

    name: str
    members: Sequence[int]
    notes: tuple[str, ...] = ()


def search_view(matches: RankedMatches, query_thumbnails: Thumbnails, gallery_thumbnails: Thumbnails) -> View:
    """Each query with its matches, highest top score first; whether they are right is not known."""
    query = Tracklets.of_rows(matches.query, query_thumbnails)
    gallery = Tracklets.of_rows(matches.gallery, gallery_thumbnails)
    orders = ("highest score first", "lowest score first")
    description = "Ranked by score; whether the matches are right is not known."
    return View("search", description, orders, query, gallery, _found(matches))


def group_view(groups: Sequence[Group], tracklets: Sequence[EmbeddingRow], thumbnails: Thumbnails) -> View:
    """Each group with its members, the largest first."""
    shown = Tracklets.of_rows(tracklets, thumbnails)
    orders = ("largest first", "smallest first")
    description = "Each group holds tracklets that probably show the same person."
    return View("groups", description, orders, shown, shown, _grouped(groups, tracklets), counted="groups")


def write_views(
    views: Sequence[View], folder: Path, *, title: str, facts: Mapping[str, object], threshold: float | None = None
) -> None:
    """Write a report with only filmstrips, completely or not at all; raises InputError like ``write_report``."""
    with report_folder(folder) as new:
        write_filmstrips(new, views, threshold=threshold)
        write_page(new, "index.html", "filmstrips.html.j2", {"title": title, "facts": facts, "has_overview": False})


def _found(matches: RankedMatches) -> Iterator[Row]:
    first_Q = matches.score_QK[:, 0]
    for query in np.argsort(-first_Q, kind="stable").tolist():
        asked = matches.query[query]
        there = matches.gallery_QK[query] >= 0
        score = matches.score_QK[query][there].tolist()
        chance = (
            [None] * len(score) if matches.probability_QK is None else matches.probability_QK[query][there].tolist()
        )
        found = zip(matches.gallery_QK[query][there].tolist(), score, chance, strict=True)
        entries = [Entry(index, rank, *values) for rank, (index, *values) in enumerate(found, start=1)]
        notes = () if entries else ("no gallery tracklet passes the filter",)
        yield Row(asked.id, asked.person, (asked.camera,), query, entries, notes)


def _grouped(groups: Sequence[Group], tracklets: Sequence[EmbeddingRow]) -> Iterator[Row]:
    for group in sorted(groups, key=lambda group: -len(group.members)):
        persons = {tracklets[index].person for index in group.members} - {None}
        cameras = tuple(sorted({tracklets[index].camera for index in group.members}))
        known = ", ".join(sorted(person for person in persons if person is not None)) or None
        size = f"{len(group.members)} tracklet{'s' if len(group.members) != 1 else ''}"
        entries = [Entry(index, None) for index in group.members]
        yield Row(group.name, known, cameras, None, entries, (size, *group.notes))
