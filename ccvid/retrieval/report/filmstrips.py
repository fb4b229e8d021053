"""Filmstrips: rows of tracklets in the order of a search, a scored ranking or a group.

    data/index.js        what the page needs to sort, filter and find the rows of all views, and the pictures' widths
    data/VIEW-CHUNK.js   ``CHUNK_ROWS`` rows of one view, with the captions of their tracklets
    pictures/            one JPEG per tracklet

The page loads the index, then only the chunks and pictures that are viewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows
from ccvid.retrieval.gallery.matches import TIMES, seconds
from ccvid.retrieval.ranking.distances import Floats, Indices
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.folder import write_data
from ccvid.retrieval.report.pictures import PictureFolder, in_parts

CHUNK_ROWS = 50


class Mark(IntEnum):
    """What is known about an entry; junk is left out of ranks and metrics."""

    UNKNOWN = 0
    RIGHT = 1
    WRONG = 2
    JUNK = 3


class State(IntEnum):
    """The verdict on a row: rank 1 is right or wrong, there is no match, or it is not known."""

    UNKNOWN = 0
    RIGHT = 1
    WRONG = 2
    NO_MATCH = 3


class Caption(NamedTuple):
    """The text below a picture; ``time`` is within its video."""

    id: str
    person: str | None
    camera: str
    clothes: str | None
    time: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Tracklets:
    """Tracklets that can be shown, by index; captions and frames are read when they are written."""

    captions: Callable[[Sequence[int]], Sequence[Caption]]
    thumbnails: Thumbnails

    @classmethod
    def of_labels(cls, labels: RetrievalLabels, thumbnails: Thumbnails) -> Tracklets:
        """From labels; times come from the attributes ``TIMES``."""

        times = {name: labels.column(name) for name in TIMES}

        @cache  # a tracklet is shown by several views
        def caption(index: int) -> Caption:
            known = {name: value for name, column in times.items() if (value := column[index]) is not None}
            id, person, camera = labels.ids[index], labels.person[index], labels.camera[index]
            return Caption(id, person, camera, labels.clothes[index], shown_time(known))

        return cls(lambda indices: [caption(index) for index in indices], thumbnails)

    @classmethod
    def of_rows(cls, rows: Sequence[EmbeddingRow], thumbnails: Thumbnails) -> Tracklets:
        """From rows of embeddings, labelled or not."""

        def captions(indices: Sequence[int]) -> list[Caption]:
            chosen = rows.take(indices) if isinstance(rows, EmbeddingRows) else [rows[index] for index in indices]
            return [Caption(row.id, row.person, row.camera, row.clothes, shown_time(row.attributes)) for row in chosen]

        return cls(captions, thumbnails)


class Entries(NamedTuple):
    """E gallery tracklets of a row in order, as columns: int64 indices, ranks from 1, 0 where there is none.

    ``score_E`` and ``probability_E`` are float64, None if they are not known; ``mark_E`` holds a ``Mark`` each.
    """

    gallery_E: Indices
    rank_E: Indices
    score_E: Floats | None
    probability_E: Floats | None
    mark_E: Indices

    def part(self, places: slice) -> Entries:
        """Some of them."""
        return Entries(*(None if column is None else column[places] for column in self))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Row:
    """A query (None for a group) and its gallery tracklets in order; ``name`` identifies the row in a view.

    ``notes`` are short texts for the row's head; ``value`` is what the view's ``measure`` says of it. The page shows a
    gap where ranks are left out.
    """

    name: str
    person: str | None
    cameras: tuple[str, ...]
    query: int | None
    entries: Entries
    notes: tuple[str, ...] = ()
    state: State = State.UNKNOWN
    value: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Rows that belong together (a protocol, a search, groups), created while they are written.

    ``orders`` names the order of ``rows`` and its reverse, ``measure`` the rows' values, by which the page can filter,
    and ``counted`` is the noun for their number.
    """

    name: str
    description: str
    orders: tuple[str, str]
    query: Tracklets
    gallery: Tracklets
    rows: Iterable[Row]
    measure: str
    counted: str = "queries"


def write_filmstrips(folder: Path, views: Iterable[View], *, threshold: float | None = None) -> None:
    """Write the data and pictures of ``views`` to ``folder``, a view at a time, and then the pictures of all.

    ``threshold``: the least score of an accepted entry, shown as a line in each ranking.
    Memory: a view; a name and a few numbers per row, and a caption per tracklet that is shown.
    """
    data = folder / "data"
    data.mkdir()
    pictures = PictureFolder(folder / "pictures")
    subjects: dict[tuple[str, str | None, tuple[str, ...]], int] = {}
    described = []
    for number, view in enumerate(views):
        numbers, states, values = [], [], []
        for chunk, rows in enumerate(in_parts(view.rows, CHUNK_ROWS)):
            key = f"{number}-{chunk}"
            write_data(data / f"{key}.js", f'REPORT.chunks["{key}"]', _chunk(view, rows, pictures))
            numbers += [subjects.setdefault((row.name, row.person, row.cameras), len(subjects)) for row in rows]
            states += [str(int(row.state)) for row in rows]
            values += [row.value for row in rows]
        described.append(
            {
                "name": view.name,
                "title": view.name.replace("_", "-"),
                "description": view.description,
                "orders": view.orders,
                "measure": view.measure,
                "counted": view.counted,
                "subjects": numbers,
                "states": "".join(states),
                "values": values,
            }
        )
    widths = pictures.write()
    index = {
        "views": described,
        "subjects": list(subjects),
        "chunkRows": CHUNK_ROWS,
        "threshold": threshold,
        "widths": {"most": widths.most, "others": widths.others},
    }
    write_data(data / "index.js", "globalThis.REPORT", {**index, "chunks": {}})


def shown_time(attributes: Mapping[str, str]) -> str | None:
    """Start and end in the video, such as 1:02:03–1:02:09; None if the start is unknown."""
    start, end = (seconds(attributes.get(name)) for name in TIMES)
    if start is None:
        return None
    return clock(start) if end is None else f"{clock(start)}–{clock(end)}"


def clock(seconds: float) -> str:
    """Whole seconds as h:mm:ss, or m:ss below an hour."""
    minutes, second = divmod(int(abs(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    sign = "−" if seconds <= -1 else ""
    return f"{sign}{hours}:{minute:02d}:{second:02d}" if hours else f"{sign}{minute}:{second:02d}"


def _chunk(view: View, rows: Sequence[Row], pictures: PictureFolder) -> dict[str, object]:
    """Rows as the page reads them; tracklets are written once per chunk and referred to by index."""
    asked = sorted({row.query for row in rows if row.query is not None})
    found, place_E = np.unique(np.concatenate([row.entries.gallery_E for row in rows]), return_inverse=True)
    captions = [
        (pictures.number(side.thumbnails, index), *caption)
        for side, indices in ((view.query, asked), (view.gallery, found.tolist()))
        for index, caption in zip(indices, side.captions(indices), strict=True)
    ]
    place_of = {query: place for place, query in enumerate(asked)}
    end_R = np.cumsum([len(row.entries.gallery_E) for row in rows])
    placed = np.split(place_E + len(asked), end_R[:-1])
    written = [
        (row.notes, None if row.query is None else place_of[row.query], _entries(row.entries, places.tolist()))
        for row, places in zip(rows, placed, strict=True)
    ]
    return {"tracklets": captions, "rows": written}


def _entries(entries: Entries, places: list[int]) -> list[tuple[object, ...]]:
    """For each its place among the chunk's tracklets, rank, score, probability and mark."""
    ranks = [rank or None for rank in entries.rank_E.tolist()]
    numbers = [
        [None] * len(places) if column_E is None else column_E.round(4).tolist()
        for column_E in (entries.score_E, entries.probability_E)
    ]
    return list(zip(places, ranks, *numbers, entries.mark_E.tolist(), strict=True))
