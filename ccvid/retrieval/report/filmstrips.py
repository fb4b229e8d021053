"""Filmstrips: rows of tracklets in the order that a search, a scored ranking or a group puts them in.

    data/index.js        what is needed to sort, filter and find the rows of all views
    data/VIEW-CHUNK.js   ``CHUNK_ROWS`` rows of one view, with the captions of the tracklets in them
    pictures/            one JPEG a tracklet

The page loads the index, then only the chunks and pictures that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.gallery.matches import TIMES, seconds
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.folder import write_data
from ccvid.retrieval.report.pictures import PictureFolder

CHUNK_ROWS = 50


class Mark(IntEnum):
    """What is known of an entry; junk is left out of ranking and figures."""

    UNKNOWN = 0
    RIGHT = 1
    WRONG = 2
    JUNK = 3


class State(IntEnum):
    """How a row was judged: by its first place, or not at all."""

    UNKNOWN = 0
    RIGHT = 1
    WRONG = 2
    NO_MATCH = 3


class Caption(NamedTuple):
    """What stands below a picture; ``time`` is within its video."""

    id: str
    person: str | None
    camera: str
    clothes: str | None
    time: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Tracklets:
    """Tracklets that can be shown, by index; captions and frames are asked for when they are written."""

    caption: Callable[[int], Caption]
    thumbnails: Thumbnails

    @classmethod
    def of_labels(cls, labels: RetrievalLabels, thumbnails: Thumbnails) -> Tracklets:
        """Of labelled ones; times come from the attributes ``TIMES``."""

        times = {name: labels.column(name) for name in TIMES}

        def caption(index: int) -> Caption:
            known = {name: value for name, column in times.items() if (value := column[index]) is not None}
            id, person, camera = labels.ids[index], labels.person[index], labels.camera[index]
            return Caption(id, person, camera, labels.clothes[index], shown_time(known))

        return cls(caption, thumbnails)

    @classmethod
    def of_rows(cls, rows: Sequence[EmbeddingRow], thumbnails: Thumbnails) -> Tracklets:
        """Of embedded ones, labelled or not."""

        def caption(index: int) -> Caption:
            row = rows[index]
            return Caption(row.id, row.person, row.camera, row.clothes, shown_time(row.attributes))

        return cls(caption, thumbnails)


class Entry(NamedTuple):
    """A gallery tracklet in a row: its index, its rank from 1 (None: it has none), score and probability if known."""

    gallery: int
    rank: int | None
    score: float | None = None
    probability: float | None = None
    mark: Mark = Mark.UNKNOWN


@dataclass(frozen=True, slots=True)
class Row:
    """A query (None: a group has none) and its gallery tracklets as they stand; ``name`` identifies it in a view.

    ``notes`` are short statements for the row's head. Where ranks are left out, the page shows a gap.
    """

    name: str
    person: str | None
    cameras: tuple[str, ...]
    query: int | None
    entries: Sequence[Entry]
    notes: tuple[str, ...] = ()
    state: State = State.UNKNOWN


@dataclass(frozen=True, slots=True)
class View:
    """Rows that belong together (a protocol, a search, groups), made as they are written.

    ``orders`` names the order of ``rows`` and its reverse, ``counted`` what they are.
    """

    name: str
    description: str
    orders: tuple[str, str]
    query: Tracklets
    gallery: Tracklets
    rows: Iterable[Row]
    counted: str = "queries"


def write_filmstrips(folder: Path, views: Sequence[View], *, threshold: float | None = None) -> None:
    """Write the data and pictures of ``views`` below ``folder``.

    ``threshold``: the score from which on an entry is accepted, shown as a line in each ranking.
    Memory: a chunk of rows, and the index: a name and a few numbers a row.
    """
    data = folder / "data"
    data.mkdir()
    pictures = PictureFolder(folder / "pictures")
    subjects: dict[tuple[str, str | None, tuple[str, ...]], int] = {}
    described = []
    for number, view in enumerate(views):
        numbers, states = [], []
        for chunk, rows in enumerate(_chunks(view.rows)):
            write_data(
                data / f"{number}-{chunk}.js", f'REPORT.chunks["{number}-{chunk}"]', _chunk(view, rows, pictures)
            )
            numbers += [subjects.setdefault((row.name, row.person, row.cameras), len(subjects)) for row in rows]
            states += [str(int(row.state)) for row in rows]
        described.append(
            {
                "name": view.name,
                "title": view.name.replace("_", "-"),
                "description": view.description,
                "orders": view.orders,
                "counted": view.counted,
                "subjects": numbers,
                "states": "".join(states),
            }
        )
    index = {"views": described, "subjects": list(subjects), "chunkRows": CHUNK_ROWS, "threshold": threshold}
    write_data(data / "index.js", "globalThis.REPORT", {**index, "chunks": {}})


def shown_time(attributes: Mapping[str, str]) -> str | None:
    """From when to when in its video, such as 1:02:03–1:02:09; None where the start is unknown."""
    start, end = (seconds(attributes, name) for name in TIMES)
    if start is None:
        return None
    return clock(start) if end is None else f"{clock(start)}–{clock(end)}"


def clock(seconds: float) -> str:
    """Whole seconds as h:mm:ss, below an hour as m:ss."""
    minutes, second = divmod(int(abs(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    sign = "−" if seconds <= -1 else ""
    return f"{sign}{hours}:{minute:02d}:{second:02d}" if hours else f"{sign}{minute}:{second:02d}"


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, CHUNK_ROWS)):
        yield chunk


def _chunk(view: View, rows: Sequence[Row], pictures: PictureFolder) -> dict[str, object]:
    """Rows as the page reads them; tracklets are told once a chunk and referred to by their place."""
    place: dict[tuple[bool, int], int] = {}
    captions: list[tuple[object, ...]] = []

    def placed(is_query: bool, index: int) -> int:
        if (is_query, index) not in place:
            place[is_query, index] = len(captions)
            side = view.query if is_query else view.gallery
            captions.append((*pictures.picture(side.thumbnails, index), *side.caption(index)))
        return place[is_query, index]

    told = []
    for row in rows:
        query = None if row.query is None else placed(True, row.query)
        entries = [
            (placed(False, entry.gallery), entry.rank, _rounded(entry.score), _rounded(entry.probability), entry.mark)
            for entry in row.entries
        ]
        told.append((row.notes, query, entries))
    return {"tracklets": captions, "rows": told}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
