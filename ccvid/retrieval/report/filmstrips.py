"""Filmstrips: rows of tracklets in the order of a search, a scored ranking or a group.

    data/index.js        what the page needs to sort, filter and find the rows of all views
    data/VIEW-CHUNK.js   ``CHUNK_ROWS`` rows of one view, with the captions of their tracklets
    pictures/            one JPEG per tracklet

The page loads the index, then only the chunks and pictures that are viewed.
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

    caption: Callable[[int], Caption]
    thumbnails: Thumbnails

    @classmethod
    def of_labels(cls, labels: RetrievalLabels, thumbnails: Thumbnails) -> Tracklets:
        """From labels; times come from the attributes ``TIMES``."""

        times = {name: labels.column(name) for name in TIMES}

        def caption(index: int) -> Caption:
            known = {name: value for name, column in times.items() if (value := column[index]) is not None}
            id, person, camera = labels.ids[index], labels.person[index], labels.camera[index]
            return Caption(id, person, camera, labels.clothes[index], shown_time(known))

        return cls(caption, thumbnails)

    @classmethod
    def of_rows(cls, rows: Sequence[EmbeddingRow], thumbnails: Thumbnails) -> Tracklets:
        """From rows of embeddings, labelled or not."""

        def caption(index: int) -> Caption:
            row = rows[index]
            return Caption(row.id, row.person, row.camera, row.clothes, shown_time(row.attributes))

        return cls(caption, thumbnails)


class Entry(NamedTuple):
    """A gallery tracklet in a row: its index, its rank from 1 (None if it has none), score and probability if known."""

    gallery: int
    rank: int | None
    score: float | None = None
    probability: float | None = None
    mark: Mark = Mark.UNKNOWN


@dataclass(frozen=True, slots=True)
class Row:
    """A query (None for a group) and its gallery tracklets in order; ``name`` identifies the row in a view.

    ``notes`` are short texts for the row's head. The page shows a gap where ranks are left out.
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
    """Rows that belong together (a protocol, a search, groups), created while they are written.

    ``orders`` names the order of ``rows`` and its reverse; ``counted`` is the noun for the number of rows.
    """

    name: str
    description: str
    orders: tuple[str, str]
    query: Tracklets
    gallery: Tracklets
    rows: Iterable[Row]
    counted: str = "queries"


def write_filmstrips(folder: Path, views: Sequence[View], *, threshold: float | None = None) -> None:
    """Write the data and pictures of ``views`` to ``folder``.

    ``threshold``: the least score of an accepted entry, shown as a line in each ranking.
    Memory: a chunk of rows, and the index: a name and a few numbers per row.
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


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, CHUNK_ROWS)):
        yield chunk


def _chunk(view: View, rows: Sequence[Row], pictures: PictureFolder) -> dict[str, object]:
    """Rows as the page reads them; tracklets are written once per chunk and referred to by index."""
    place: dict[tuple[bool, int], int] = {}
    captions: list[tuple[object, ...]] = []

    def placed(is_query: bool, index: int) -> int:
        if (is_query, index) not in place:
            place[is_query, index] = len(captions)
            side = view.query if is_query else view.gallery
            captions.append((*pictures.picture(side.thumbnails, index), *side.caption(index)))
        return place[is_query, index]

    written = []
    for row in rows:
        query = None if row.query is None else placed(True, row.query)
        entries = [
            (placed(False, entry.gallery), entry.rank, _rounded(entry.score), _rounded(entry.probability), entry.mark)
            for entry in row.entries
        ]
        written.append((row.notes, query, entries))
    return {"tracklets": captions, "rows": written}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
