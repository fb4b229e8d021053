"""Watching a folder: footage that arrives is embedded, ranked for the watched persons, and reported.

    arrivals ──a batch──▶ log: taken ──▶ shards ──▶ gallery ──▶ matches.jsonl ──▶ log: done ──▶ tables and pages

Each step is on disk before the next begins, and each can be repeated. After a kill the batch that is not done is done
again, and adds to the gallery and to the matches only what they lack.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ccvid.config import Recipe
from ccvid.retrieval.embedding.store import EmbeddingStore, open_store, read_store
from ccvid.retrieval.gallery.decisions import read_decisions
from ccvid.retrieval.gallery.matches import RankedMatches, write_matches
from ccvid.retrieval.report.mosaic import read_hiding
from ccvid.retrieval.report.stored_pictures import StoredPictures, open_sources
from ccvid.run_files import CONFIG_FILE, LIVE_MATCHES_FILE, WATCH_FILE
from ccvid.training.stopping import EndedOnRequestError
from data_tools.datasets.arrivals import look_at, require_arrivals_folder
from data_tools.datasets.footage_options import FootageOptions
from data_tools.errors import InputError
from data_tools.file_lock import locked
from data_tools.line_file import LineFile
from data_tools.progress import message, note_kept, state
from data_tools.shard_writer import remove_leftovers
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.cluster.machines import decide_precision
from ray_jobs.cluster.workers import Workers
from ray_jobs.scoring.actors import ResidentEmbedders
from ray_jobs.scoring.embedding import UsedModel, read_model
from ray_jobs.scoring.entries import NothingToRankError
from ray_jobs.scoring.gallery import (
    GalleryRequest,
    matching_precision,
    say_what_is_missing,
    write_pages,
)
from ray_jobs.scoring.intake import Intake, TakenIn
from ray_jobs.scoring.live_matches import MatchLines, Ranking
from ray_jobs.scoring.watch_log import Taken, WatchLog
from ray_jobs.training.guard import run_stoppable

POLL_SECONDS = 2.0
PAUSE_PER_LOOK = 4
"""A folder of many thousand videos takes seconds to look through: at most a fifth of the time goes into that."""
MOST_PER_BATCH = 64
PAGE_SECONDS = 60.0
"""The pages are written when nothing waits to be taken in, and after this time even if something does."""
LOCK_FILE = ".watching"


class Watch:
    """Takes in what arrives and reports its matches.

    Args:
        footage: the folder, and how its footage is read.
        settle_seconds: see ``look_at``.
        log, lines: what was done before.
        take_in: embeds a batch into ``embeddings``.
        ranking: what is reported.
        show: writes the tables and pages.
        ended: set when the watch is to end.
    """

    def __init__(
        self,
        footage: FootageOptions,
        settle_seconds: float,
        log: WatchLog,
        lines: MatchLines,
        take_in: Callable[[Taken], TakenIn],
        embeddings: EmbeddingStore,
        ranking: Ranking,
        show: Callable[[RankedMatches, int], None],
        ended: threading.Event,
    ) -> None:
        self._footage, self._settle_seconds = footage, settle_seconds
        self._log, self._lines, self._take_in = log, lines, take_in
        self._embeddings, self._ranking, self._show, self._ended = embeddings, ranking, show, ended
        self._told: set[str] = set()
        self._look_seconds = 0.0
        self._state = ""
        self._stale = True
        """Whether the pages lack something, as after a kill they may."""
        self._shown_at = time.monotonic()

    def run(self, *, once: bool) -> None:
        """Watch until the end is requested or, with ``once``, until no arrival is complete.

        Raises:
            EndedOnRequestError: the end was requested.
        """
        while True:
            self._end_if_asked()
            if batch := self._log.pending or self._next_batch():
                self._do(batch)
                if time.monotonic() - self._shown_at > PAGE_SECONDS:
                    self._show_matches()
                continue
            self._show_matches()
            if once:
                return
            self._ended.wait(max(POLL_SECONDS, PAUSE_PER_LOOK * self._look_seconds))

    def _next_batch(self) -> Taken | None:
        """Take what is complete, the oldest first."""
        began = time.monotonic()
        found = look_at(self._footage, self._settle_seconds, tracks_of=self._log.tracks_of)
        self._look_seconds = time.monotonic() - began
        for problem in found.problems:
            self._tell(problem)
        for arrival in filter(self._log.has_changed, found.complete):
            batch = self._log.batch_of(arrival.name)
            problem = f"has changed since it was taken in with batch {batch}; give new footage a name of its own"
            self._log.refuse(arrival, problem)
        new = list(filter(self._log.is_new, found.complete))[:MOST_PER_BATCH]
        if new:
            return self._log.take(new)
        waiting = f", {found.waiting} without tracks or still being written" if found.waiting else ""
        text = f"watching {self._footage.videos}: {self._log.videos} videos taken in{waiting}"
        if text != self._state:
            self._state = text
            state(text)
        return None

    def _do(self, batch: Taken) -> None:
        """Take in a batch, report its matches, and note that it is done."""
        names = [arrival.name for arrival in self._log.remaining(batch)]
        message(f"batch {batch.batch}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''}")
        taken_in = self._take_in(batch)
        self._end_if_asked()
        matches = self._ranking.of_new(self._embeddings, taken_in.ids) if taken_in.ids else []
        lines, end = self._lines.add(matches)
        for line in lines:
            message(line)
        counts = {"tracklets": len(taken_in.ids), "unreadable": taken_in.unreadable, "matches": len(matches)}
        self._log.finish(**counts, matches_end=end)
        self._embeddings.merge_small_parts()
        self._stale |= bool(taken_in.ids)
        note_kept("matches", f"{self._log.videos} videos taken in, {self._log.matches} matches reported")

    def _show_matches(self) -> None:
        if self._stale:
            try:
                self._show(*self._ranking.of_gallery(self._embeddings))
            except NothingToRankError as error:
                self._tell(str(error))
        self._stale, self._shown_at = False, time.monotonic()

    def _tell(self, text: str) -> None:
        """Say something once."""
        if text not in self._told:
            message(text)
        self._told.add(text)

    def _end_if_asked(self) -> None:
        if self._ended.is_set():
            raise EndedOnRequestError(f"stopped watching {self._footage.videos}")


def watch(
    recipe: Recipe,
    checkpoint: StorageFolder,
    request: GalleryRequest,
    folder: StorageFolder,
    *,
    settle_seconds: float,
    once: bool,
) -> None:
    """Watch the folder ``recipe.data.footage.videos`` with the run folder ``folder``, which remembers what was done.

    Raises:
        InputError: the checkpoint, the folders, the gallery or the cluster does not allow it, or another process
            watches with this run folder.
        EndedOnRequestError: a signal asked it to end.
        OSError: a place cannot be written.
    """
    assert recipe.data.footage is not None
    require_arrivals_folder(recipe.data.footage)
    if folder.exists(CONFIG_FILE):
        raise InputError(f"{folder}: contains a training run, which is not overwritten; choose another --run.name")
    own = folder.local
    if own is None:
        raise InputError(f"{folder}: a watch adds lines to files, so its --run.storage must be a folder, not a URI")
    used = read_model(checkpoint, recipe.model)
    decisions = None if request.decisions is None else read_decisions(request.decisions)
    recipe = matching_precision(used, used.applied_to(recipe), request, decisions)
    if decisions is not None:
        decisions.with_tables([])
        say_what_is_missing(decisions)
    own.mkdir(parents=True, exist_ok=True)
    with locked(own / LOCK_FILE, wait=False) as lock:
        if lock is None:
            raise InputError(f"{folder}: another process watches with this run folder; choose another --run.name")
        remove_leftovers(folder, records=False)
        connect()
        ended = threading.Event()
        ranking = Ranking(request, decisions, recipe.score.threshold.prior)
        watching = _make_watch(recipe, used, checkpoint, ranking, own, settle_seconds, ended)
        run_stoppable(lambda: watching.run(once=once), ended.set, "this step")


def _make_watch(
    recipe: Recipe,
    used: UsedModel,
    checkpoint: StorageFolder,
    ranking: Ranking,
    folder: Path,
    settle_seconds: float,
    ended: threading.Event,
) -> Watch:
    hiding = read_hiding(recipe.report)
    log = WatchLog(folder / WATCH_FILE)
    lines = MatchLines(LineFile(folder / LIVE_MATCHES_FILE), log.matches_end)
    places = _shard_folder(recipe, folder, log)
    workers = Workers(recipe.compute)
    recipe = decide_precision(recipe, workers)
    embeddings = open_store(ranking.request.gallery, used.describe(recipe), recipe.data.cache)
    embedders = ResidentEmbedders(embeddings, used.computing(recipe), recipe, workers)
    intake = Intake(log, recipe.data, places, embeddings, embedders)

    def show(matches: RankedMatches, ranked: int) -> None:
        """Only shards of which something is shown are opened, because each batch has its own."""
        rows = [*matches.query, *matches.gallery]
        batches = {log.batch_of(row.attributes.get("video", "")) for row in rows} - {None}
        shown = {str(intake.place_of(batch)) for batch in batches if batch is not None}
        galleries = [place for place in (ranking.request.gallery, ranking.request.queries) if place is not None]
        others = {place for gallery in galleries for place in read_store(gallery).sources()}
        others = {place for place in others if not place.startswith(f"{places}/")}
        if recipe.score.report:
            pictures = StoredPictures(open_sources(shown | others, recipe.data.cache), hiding)
            write_pages(matches, ranked, pictures, ranking.request, checkpoint, ranking.decisions, folder)
        write_matches(matches, folder)

    assert recipe.data.footage is not None
    return Watch(recipe.data.footage, settle_seconds, log, lines, intake, embeddings, ranking, show, ended)


def _shard_folder(recipe: Recipe, folder: Path, log: WatchLog) -> StorageFolder:
    """Where the batches' shards lie, apart from those of any other run folder.

    Raises:
        InputError: it holds batches that the log does not know.
    """
    place = StorageFolder(str(folder / "shards"))
    if recipe.data.shards is not None:
        own = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        place = StorageFolder(recipe.data.shards) / f"{folder.name}-{own}"
    unknown = [name for name in place.names() if name > f"batch-{log.batches:06d}"]
    if unknown:
        raise InputError(
            f"{place / unknown[0]}: is not in {folder / WATCH_FILE}; remove the shards of the earlier watch"
        )
    return place
