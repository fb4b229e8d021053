"""From a batch of arrivals to embeddings in a gallery: one data set of shards a batch, embedded by resident actors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccvid.config import DataOptions
from ccvid.retrieval.embedding.store import EmbeddingStore
from data_tools.datasets.arrivals import Arrival
from data_tools.datasets.checks import check_dataset
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import Dataset, list_problems, split_origin
from data_tools.errors import InputError, UnreadableSourceError
from data_tools.manifest import MANIFEST_NAME
from data_tools.progress import message
from data_tools.shard_cache import open_shards
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from data_tools.video import FrameTable
from ray_jobs.scoring.actors import ResidentEmbedders
from ray_jobs.scoring.watch_log import Taken, WatchLog
from ray_jobs.sharding.frame_tables import make_tables
from ray_jobs.sharding.shards import write_dataset

MOST_PROBLEMS = 5
"""Of an arrival, told when it is refused."""


class LabelsError(InputError):
    """Not an arrival, but the labels cannot be used: the watch ends, and its next start takes the batch again."""


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What a batch has brought."""

    ids: frozenset[str]
    """Its tracklets, whenever they were embedded."""
    unreadable: int


class Intake:
    """Takes batches into a gallery; a batch that was interrupted is completed, with the same tracklets.

    Args:
        log: gets the arrivals that are refused.
        data: how footage is read and stored.
        places: folder of the batches' shards.
        embeddings: the gallery.
        embedders: its actors.
    """

    def __init__(
        self,
        log: WatchLog,
        data: DataOptions,
        places: StorageFolder,
        embeddings: EmbeddingStore,
        embedders: ResidentEmbedders,
    ) -> None:
        assert data.footage is not None
        self._log, self._data, self._footage = log, data, data.footage
        self._places, self._embeddings, self._embedders = places, embeddings, embedders

    def place_of(self, batch: int) -> StorageFolder:
        """The folder of a batch's shards."""
        return self._places / f"batch-{batch:06d}"

    def __call__(self, taken: Taken) -> TakenIn:
        """Make the shards of a batch and embed them; arrivals that cannot be used are refused.

        Raises:
            InputError: the labels are not valid, or Ray gave up.
            OSError: shards or gallery cannot be written.
        """
        place = self.place_of(taken.batch)
        if not place.exists(MANIFEST_NAME) and not self._make_shards(taken, place):
            return TakenIn(frozenset(), 0)
        store = open_shards(str(place), self._data.cache)
        rows_of = self._rows(taken, store)
        with self._embeddings.adding():
            lacking = self._missing(rows_of, store)
            rows = sorted(row for rows in rows_of.values() for row in rows)
            self._embeddings.add_source(str(place))
            unreadable = self._embedders.embed(lacking, store, rows, str(place))
        for problem in unreadable:
            message(f"left out: {problem}")
        return TakenIn(frozenset(store.rows[row].id for row in rows), len(unreadable))

    def _make_shards(self, taken: Taken, place: StorageFolder) -> bool:
        """Make the shards; False if no arrival has a tracklet."""
        datasets = list(self._read(taken, place))
        tracklets = tuple(tracklet for dataset in datasets for tracklet in dataset.tracklets)
        if tracklets:
            options = self._data.frames.model_copy(update={"max_quarantine_share": 1.0})
            try:
                write_dataset(Dataset("footage", tracklets), place, options)
                return True
            except InputError as error:  # nothing of the batch can be decoded
                for arrival in self._log.remaining(taken):
                    self._log.refuse(arrival, str(error))
        if place.exists():
            place.delete("")
        return False

    def _read(self, taken: Taken, place: StorageFolder) -> Iterator[Dataset]:
        """What can be read, each arrival by itself, so that its tracklets depend on no other."""
        arrivals = self._log.remaining(taken)
        videos = [arrival.video for arrival in arrivals]
        tables = dict(zip(videos, make_tables(videos, place, self._data.frames.hang_seconds), strict=True))
        ids: set[str] = set()
        for arrival in arrivals:
            try:
                dataset = read_arrival(arrival, self._footage, tables)
                if repeated := ids & {tracklet.id for tracklet in dataset.tracklets}:
                    raise InputError(f"duplicate tracklet id {min(repeated)} in one batch")
            except LabelsError:
                raise
            except InputError as error:
                self._log.refuse(arrival, str(error))
                continue
            ids |= {tracklet.id for tracklet in dataset.tracklets}
            yield dataset

    def _rows(self, taken: Taken, store: ShardFolder) -> dict[Arrival, list[int]]:
        """The rows of each arrival that are to be embedded; refuses those of which nothing could be decoded."""
        for entry in store.manifest.quarantine:
            message(f"left out: tracklet {entry.tracklet}: {entry.reason}")
        reasons = {split_origin(entry.origin)[0]: entry.reason for entry in store.manifest.quarantine}
        stored: defaultdict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(store.rows):
            stored[row.attributes["video"]].append(number)
        rows_of: dict[Arrival, list[int]] = {}
        for arrival in self._log.remaining(taken):
            if arrival.name not in stored and str(arrival.tracks) in reasons:
                self._log.refuse(arrival, reasons[str(arrival.tracks)])
            else:
                rows_of[arrival] = [number for number in stored[arrival.name] if store.rows[number].split != "train"]
        return rows_of

    def _missing(self, rows_of: dict[Arrival, list[int]], store: ShardFolder) -> frozenset[str]:
        """The tracklets that the gallery lacks; arrivals whose names it has from elsewhere are refused and removed."""
        try:
            return self._embeddings.missing(_shard_of(store, [row for rows in rows_of.values() for row in rows]))
        except InputError:
            lacking: set[str] = set()
            for arrival, rows in list(rows_of.items()):
                try:
                    lacking |= self._embeddings.missing(_shard_of(store, rows))
                except InputError as error:
                    del rows_of[arrival]
                    self._log.refuse(arrival, str(error))
            return frozenset(lacking)


def read_arrival(
    arrival: Arrival, options: FootageOptions, tables: Mapping[Path, FrameTable | UnreadableSourceError]
) -> Dataset:
    """The tracklets of one arrival, none if nobody is to be seen in it.

    Raises:
        InputError: its files cannot be used; lists the first problems.
        LabelsError: the labels cannot.
    """

    def known(videos: Sequence[Path]) -> list[FrameTable | UnreadableSourceError]:
        return [tables[video] for video in videos]

    dataset = check_dataset(read_footage(options, known, videos={arrival.name: arrival.video}))
    bad = [problem for problem in dataset.problems if problem.severity == "error"]
    if any(problem.file == str(options.labels) for problem in bad):
        raise LabelsError(list_problems(bad, MOST_PROBLEMS))
    if not bad and not dataset.tracklets:
        bad = [problem for problem in dataset.problems if problem.severity == "quarantine"][:1]
    if bad:
        raise InputError(list_problems(bad, MOST_PROBLEMS).strip())
    return dataset


def _shard_of(store: ShardFolder, rows: Sequence[int]) -> dict[str, str]:
    return {store.rows[row].id: store.fingerprint(row) for row in rows}
