"""What a run of identify.py writes: tables, pages, tracks and videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from ccvid.config import Recipe
from ccvid.identities.pages import PersonPages, write_person_pages
from ccvid.identities.persons import Question
from ccvid.identities.tracks import write_tracks
from ccvid.identities.videos import annotate_video, boxes_by_frame
from ccvid.retrieval.embedding.parquet import write_table
from ccvid.retrieval.embedding.store import read_store
from ccvid.retrieval.gallery.matches import MOMENTS, TIMES
from ccvid.retrieval.report.mosaic import read_hiding
from ccvid.retrieval.report.stored_pictures import StoredPictures, open_sources
from ccvid.run_files import ANNOTATED_FOLDER, IDENTITIES_FILE, PERSONS_FOLDER, QUESTIONS_FILE, TRACKS_FOLDER
from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.progress import message
from data_tools.storage import StorageFolder
from data_tools.tracklet import Tracklet
from data_tools.wording import shown
from ray_jobs.scoring.identities import Found, IdentityRequest
from ray_jobs.sharding.sources import read_dataset


def write_identities(found: Found, recipe: Recipe, request: IdentityRequest, folder: StorageFolder) -> None:
    """Write everything that was asked for; ``identities.parquet`` last.

    Raises:
        InputError: a video that is to be annotated is not in the footage, or something cannot be read or written.
        OSError: the folder cannot be written.
    """
    hiding = read_hiding(recipe.report)
    with folder.filled(last=IDENTITIES_FILE) as path:
        write_questions(found.questions, path / QUESTIONS_FILE)
        if recipe.score.report:
            stores = open_sources(set(read_store(request.gallery).sources()), recipe.data.cache)
            thumbnails = StoredPictures(stores, hiding).of(found.rows)
            pages = PersonPages(found.rows, found.persons, found.questions, thumbnails, found.met)
            facts = {"gallery": request.gallery, "tracklets": len(found.persons), "corrections": request.corrections}
            known = {name: value for name, value in facts.items() if value is not None}
            write_person_pages(pages, path / PERSONS_FOLDER, title=f"Who is who in {request.gallery.name}", facts=known)
        if request.tracks is not None or request.annotate:
            write_footage(found, read_dataset(recipe.data).tracklets, request, path, hide_heads=hiding.wanted is True)
        write_table(identities_table(found), path / IDENTITIES_FILE)


def identities_table(found: Found) -> pa.Table:
    """One row per tracklet, by id."""
    rows, table = found.rows, found.persons.table()
    more: dict[str, object] = {
        "camera": rows.text("camera"),
        **{name: rows.attribute(name) for name in ("video", "track", *MOMENTS)},
        **{
            name: pa.array([_number(text) for text in rows.attribute(name).to_pylist()], pa.float64()) for name in TIMES
        },
        "met": pa.array([id in found.met for id in found.persons.ids], pa.bool_()),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    return table


def write_questions(questions: Sequence[Question], path: Path) -> None:
    """A row for each, the most valuable first: what to copy into a file of corrections, once ``verdict`` is filled in.

    Raises:
        InputError: it cannot be written.
    """
    columns = {
        "verdict": [""] * len(questions),
        "tracklet": [question.first for question in questions],
        "other": [question.second for question in questions],
        "probability": [round(question.probability, 4) for question in questions],
        "together": [question.together for question in questions],
    }
    kinds = (pa.string(), pa.string(), pa.string(), pa.float64(), pa.bool_())
    table = pa.table(
        {name: pa.array(values, kind) for (name, values), kind in zip(columns.items(), kinds, strict=True)}
    )
    try:
        with atomic_file(path) as file:
            pa_csv.write_csv(table, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def write_footage(
    found: Found, tracklets: Sequence[Tracklet], request: IdentityRequest, folder: Path, *, hide_heads: bool = False
) -> None:
    """The tracks with persons, and annotated videos; in these the heads in all boxes may be hidden.

    Raises:
        InputError: there is no such video, or one cannot be read or written.
    """
    person_of = dict(zip(found.persons.ids, found.persons.person_N.tolist(), strict=True))
    if not any(tracklet.id in person_of for tracklet in tracklets):
        raise InputError(f"{request.gallery}: holds no tracklet of this footage; its tracks have no persons")
    if request.tracks is not None:
        write_tracks(tracklets, person_of, folder / TRACKS_FOLDER, request.tracks)
    chosen = _of_videos(tracklets, request.annotate)
    boxes = boxes_by_frame(chosen, person_of, found.persons.names)
    for name, video in {one.attributes["video"]: one.source for one in chosen}.items():
        path = getattr(video, "video", None)
        if path is None:
            continue
        target = folder / ANNOTATED_FOLDER / f"{name}.mp4"
        count = annotate_video(path, boxes.get(path, {}), target, hide_heads=hide_heads)
        message(f"{target}: {count} frames")


def _of_videos(tracklets: Sequence[Tracklet], names: Sequence[str]) -> list[Tracklet]:
    known = {tracklet.attributes.get("video") for tracklet in tracklets}
    if unknown := sorted(set(names) - known):
        some = ", ".join(sorted(name for name in known if name)[:20])
        raise InputError(f"--annotate {shown(unknown[0])}: no such video with tracklets; there are {some}")
    return [tracklet for tracklet in tracklets if tracklet.attributes.get("video") in names]


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
