"""Forgetting persons or tracklets, with a certificate of what was removed where.

    find ──▶ forgetting.json ──▶ remove, place by place ──▶ find again: nothing ──▶ forgotten-TIME.json

``forgetting.json`` beside the results lists the tracklets, and the files that hold something of them, before anything
is removed. The same command, run again after a kill, goes on from it. The certificate is written only when nothing is
found any more; it names nobody, and tracklets by the SHA-256 of their ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ccvid.config import Recipe
from ccvid.retrieval.embedding.store import digest_of, read_store
from ccvid.retrieval.gallery.times import moments
from data_tools.datasets.start_times import time_attribute
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.file_lock import locked
from data_tools.manifest import MANIFEST_NAME, to_json
from data_tools.options import Options
from data_tools.progress import message, state
from data_tools.shard_removal import read_labels
from data_tools.storage import StorageFolder
from ray_jobs.scoring.kept_data import KEPT, LEFT_BY_REMOVAL, Held, Places, ids_by_names, look_at
from ray_jobs.scoring.named_rows import Named
from ray_jobs.scoring.unreached import Unreached, unreached
from ray_jobs.scoring.watch_log import now
from ray_jobs.scoring.watching import LOCK_FILE

JOURNAL_FILE, CERTIFICATE = "forgetting.json", "forgotten-"
"""The second is followed by the time of the beginning."""
MOST_SHOWN = 20
"""Places that were removed from, on the console; the certificate has all."""


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Whom to forget: all that is given."""

    persons: Sequence[str] = ()
    ids: Sequence[str] = ()
    before: datetime | None = None
    """Also every tracklet that starts earlier, by its attribute ``start_time``."""

    def __str__(self) -> str:
        names = [*self.persons, *self.ids]
        return ", ".join(names if self.before is None else [*names, f"a time before {self.before.isoformat()}"])


class Journal(Options):
    """What is being forgotten; kept until it is done."""

    begun: str
    persons: tuple[str, ...]
    ids: tuple[str, ...]
    before: str | None
    without_start_time: int | None
    """Tracklets without a start time, which ``before`` cannot reach; None where it was not asked for."""
    held: tuple[Held, ...]
    present: dict[str, tuple[str, ...]]
    """The files that were in the folders of these."""

    @property
    def named(self) -> Named:
        return Named(frozenset(self.ids), frozenset(self.persons))


class Removed(Held):
    """What was held, as it was before."""

    after: Held | None
    """The file as it is now; None if it is gone."""


class Certificate(Options):
    """What was removed where. It names neither persons nor tracklets."""

    format_version: int = 1
    begun: str
    finished: str
    persons: int
    """How many were asked for by name."""
    before: str | None
    without_start_time: int | None
    tracklets: tuple[str, ...]
    """SHA-256 of the id of each."""
    removed: tuple[Removed, ...]
    written: tuple[Held, ...]
    """New files in place of removed ones, without what was removed."""
    looked_through: tuple[str, ...]
    """Where, after the removal, nothing was found any more."""
    not_reached: tuple[Unreached, ...]
    """Copies that this command neither saw nor removed."""


def forget(recipe: Recipe, gallery: StorageFolder, results: StorageFolder, request: ForgetRequest) -> None:
    """Remove everything that is kept about persons or tracklets, and write a certificate into ``results``.

    The videos or pictures that the shards were made from are not touched.

    Raises:
        InputError: there is no gallery, nothing of them is found, a place is damaged, a watch is running with these
            results, or something is in use and stays.
        OSError: a place does not answer or cannot be written.
    """
    places, missing = _places(recipe, gallery, results)
    with _alone(results):
        state(f"looking for what is kept of {request}")
        journal = _begin(places, request)
        if journal is None:
            message(f"{gallery}: has no tracklets of {request}")
            return
        results.write(JOURNAL_FILE, to_json(journal))
        for kept in KEPT:
            state(f"removing {kept.what}")
            kept.remove(places, journal.named)
        if left := list(_held(places, journal.named)):
            more = f" (and {len(left) - 1} more places)" if len(left) > 1 else ""
            raise InputError(
                f"{left[0].place}{more}: still holds {left[0].what}, because it is in use or has changed meanwhile; "
                "end what uses it and run the same command again"
            )
        certificate = _certificate(journal, unreached(recipe, places, missing))
        name = f"{CERTIFICATE}{re.sub('[^0-9T]', '', journal.begun.partition('+')[0])}Z.json"
        results.write(name, to_json(certificate))
        results.delete(JOURNAL_FILE)
    _tell(request, certificate, gallery, results / name)


def _places(recipe: Recipe, gallery: StorageFolder, results: StorageFolder) -> tuple[Places, list[str]]:
    """Where something may be kept, and the shards of the gallery that are no longer there."""
    store = read_store(gallery)
    sources = {*store.sources(), *([] if recipe.data.shards is None else [recipe.data.shards])}
    folders = [StorageFolder(place, recipe.run.patience_seconds) for place in sorted(sources)]
    there = [folder for folder in folders if folder.exists(MANIFEST_NAME)]
    missing = [str(folder) for folder in folders if folder not in there]
    for place in missing:
        message(f"{place}: no shards there any more")
    return Places(store, results, tuple(there), recipe.data.cache), missing


@contextmanager
def _alone(results: StorageFolder) -> Iterator[None]:
    """Keep a watch, and another of these commands, from using the results meanwhile."""
    if (local := results.local) is None:
        yield
        return
    local.mkdir(parents=True, exist_ok=True)
    with locked(local / LOCK_FILE, wait=False) as lock:
        if lock is None:
            raise InputError(f"{results}: a watch or another removal uses these results; end it first")
        yield


def _begin(places: Places, request: ForgetRequest) -> Journal | None:
    """What is to be forgotten, together with what an interrupted command had begun; None for nothing.

    Raises:
        InputError: nothing is found of one of the persons or ids.
    """
    earlier = _interrupted(places.results)
    before = Named(frozenset(), frozenset()) if earlier is None else earlier.named
    found, undated = _find(places, request)
    unknown = [
        *sorted({*request.persons} - found.persons - before.persons),
        *sorted({*request.ids} - found.ids - before.ids),
    ]
    if unknown:
        names = ", ".join(unknown)
        raise InputError(f"{places.gallery.folder}: has no tracklets of {names}, nor have its shards")
    named = Named(found.ids | before.ids, frozenset(request.persons) | before.persons)
    if not named.ids:
        return None
    known = {} if earlier is None else {held.place: held for held in earlier.held}
    there = (held for held in _held(places, named) if earlier is None or held.what != LEFT_BY_REMOVAL)
    held = {**known, **{one.place: one for one in there if one.place not in known}}
    folders = {str(StorageFolder(one.place).parent) for one in held.values() if one.sha256 is not None}
    return Journal(
        begun=now() if earlier is None else earlier.begun,
        persons=tuple(sorted(named.persons)),
        ids=tuple(sorted(named.ids)),
        before=None if request.before is None else time_attribute(request.before, 0),
        without_start_time=undated,
        held=tuple(held.values()),
        present={
            **{place: tuple(StorageFolder(place).sizes()) for place in sorted(folders)},
            **({} if earlier is None else earlier.present),
        },
    )


def _interrupted(results: StorageFolder) -> Journal | None:
    try:
        content = results.read(JOURNAL_FILE)
    except FileNotFoundError:
        return None
    message(f"{results}: completing a removal that was interrupted")
    return parse_model(Journal, content, results / JOURNAL_FILE)


def _find(places: Places, request: ForgetRequest) -> tuple[Named, int | None]:
    """The tracklets in gallery, shards and tables of identities, and the persons that they were found by.

    Also how many of the others have no start time, if a time was given.
    """
    found = ids_by_names(places, frozenset(request.persons))
    ids, persons = {id for each in found.values() for id in each}, {*found}
    undated: set[str] = set()
    parts = (part.rows for _, part in places.gallery.parts.each())
    shards = (read_labels(folder).rows for folder in places.shards)
    for rows in (row for some in (parts, shards) for row in some):
        chosen_N = rows.is_in("id", [*request.ids, *ids]) | rows.is_in("person", request.persons)
        persons.update(rows.take(np.flatnonzero(rows.is_in("person", request.persons))).values("person"))
        if request.before is not None:
            start_N = moments(rows, "start")
            chosen_N |= start_N < request.before.timestamp()
            undated.update(rows.take(np.flatnonzero(np.isnan(start_N))).values("id"))
        ids.update(rows.take(np.flatnonzero(chosen_N)).values("id"))
    return Named(frozenset(ids), frozenset(persons)), None if request.before is None else len(undated - ids)


def _held(places: Places, named: Named) -> Iterator[Held]:
    for kept in KEPT:
        yield from kept.find(places, named)


def _certificate(journal: Journal, not_reached: Iterable[Unreached]) -> Certificate:
    removed = [Removed(**held.model_dump(), after=_now(held)) for held in journal.held]
    return Certificate(
        begun=journal.begun,
        finished=now(),
        persons=len(journal.persons),
        before=journal.before,
        without_start_time=journal.without_start_time,
        tracklets=tuple(sorted(map(digest_of, journal.ids))),
        removed=tuple(removed),
        written=tuple(_written(journal)),
        looked_through=tuple(kept.what for kept in KEPT),
        not_reached=tuple(not_reached),
    )


def _now(held: Held) -> Held | None:
    file = StorageFolder(held.place) if held.sha256 is not None else None
    return look_at(file.parent, file.name, held.what) if file is not None and file.exists() else None


def _written(journal: Journal) -> Iterator[Held]:
    """The files that are new in the folders."""
    for place, before in journal.present.items():
        folder = StorageFolder(place)
        for name in sorted({*folder.sizes()} - {*before, JOURNAL_FILE}):
            if not name.startswith((".", CERTIFICATE)):
                yield look_at(folder, name, "written without it")


def _tell(request: ForgetRequest, certificate: Certificate, gallery: StorageFolder, place: StorageFolder) -> None:
    message(f"{gallery}: removed {len(certificate.tracklets)} tracklets of {request}")
    for held in certificate.removed[:MOST_SHOWN]:
        rows = "" if held.rows is None else f", {held.rows} of its rows"
        message(f"  {held.place}: {held.what}{rows}")
    if len(certificate.removed) > MOST_SHOWN:
        message(f"  and {len(certificate.removed) - MOST_SHOWN} more places")
    if certificate.without_start_time:
        message(f"{certificate.without_start_time} tracklets have no start time and stay; remove them with --remove-id")
    message("not reached:")
    for copy in certificate.not_reached:
        message(f"  {copy.what}: {copy.place}")
    message(f"certificate: {place}")
