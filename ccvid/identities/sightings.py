"""When and where tracklets were seen, and which of them cannot show one person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ccvid.identities.evidence import Relation
from ccvid.identities.motion import MOST_SECONDS, Ends
from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.gallery.clusters import Presence
from ccvid.retrieval.gallery.times import moments
from ccvid.retrieval.ranking.distances import Indices, Scores
from data_tools.datasets.annotation_lines import number
from data_tools.datasets.problems import ProblemLog, list_problems
from data_tools.datasets.text_tables import read_csv_table
from data_tools.errors import InputError
from data_tools.wording import shown

DAY_SECONDS = 12 * 3600
"""Tracklets that begin less than this apart are of one day, also around midnight."""
TRAVEL_COLUMNS = ("camera_a", "camera_b", "least_seconds")
MOST_SHOWN = 20

TravelTimes = Mapping[tuple[str, str], float]
"""Least seconds between two cameras, by their names in order."""


@dataclass(frozen=True, slots=True)
class Sightings:
    """N tracklets: in which video and when, by which camera, and at what time of day.

    ``camera_N`` int64 are places in ``cameras``; ``start_N`` and ``end_N`` float64 seconds since 1970, NaN if unknown.
    ``track_N`` int64 is equal for parts of one track of one video, −1 if unknown.
    """

    presence: Presence
    cameras: tuple[str, ...]
    camera_N: Indices
    start_N: Scores
    end_N: Scores
    track_N: Indices
    ends: Ends

    @classmethod
    def of(cls, rows: EmbeddingRows) -> Sightings:
        """From the rows' cameras and attributes."""
        coded = rows.text("camera").combine_chunks().dictionary_encode()
        start_N, end_N = moments(rows, "start"), moments(rows, "end")
        end_N = np.where(np.isnan(end_N), start_N, end_N)
        camera_N = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        presence = Presence.of(rows)
        cameras = tuple(coded.dictionary.to_pylist())
        track_N = _tracks(presence, rows)
        return cls(presence, cameras, camera_N, start_N, end_N, track_N, Ends.of(rows))

    def __len__(self) -> int:
        return len(self.camera_N)

    def relation(self, first_P: Indices, second_P: Indices) -> npt.NDArray[np.int8]:
        """The ``Relation`` of P pairs; tracklets of one video are of one day."""
        video_N = self.presence.video_N
        apart_P = np.abs(self.start_N[first_P] - self.start_N[second_P])
        one_video_P = (video_N[first_P] == video_N[second_P]) & (video_N[first_P] >= 0)
        found_P = np.where(apart_P < DAY_SECONDS, Relation.WITHIN_A_DAY, Relation.OTHER_DAYS)
        found_P = np.where(np.isnan(apart_P), Relation.UNKNOWN, found_P)
        return np.where(one_video_P, Relation.WITHIN_A_DAY, found_P).astype(np.int8)

    def motion(self, first_P: Indices, second_P: Indices) -> Scores:
        """What their places in one video say, in nats; 0 for pairs that are not close in time there."""
        seen = self.presence
        first_P, second_P = np.broadcast_arrays(first_P, second_P)
        found_P = np.zeros(first_P.shape)
        gap_P = np.maximum(seen.start_N[first_P], seen.start_N[second_P]) - np.minimum(
            seen.end_N[first_P], seen.end_N[second_P]
        )
        one_video_P = (seen.video_N[first_P] == seen.video_N[second_P]) & (seen.video_N[first_P] >= 0)
        near_P = one_video_P & (gap_P > 0) & (gap_P <= MOST_SECONDS)
        if near_P.any():
            one, other = first_P[near_P], second_P[near_P]
            begins = seen.start_N[one] <= seen.start_N[other]
            earlier, later = np.where(begins, one, other), np.where(begins, other, one)
            found_P[near_P] = self.ends.log_odds(earlier, later, gap_P[near_P])
        return found_P

    def consecutive(self) -> tuple[Indices, Indices]:
        """All pairs of tracklets of which the second begins in the same video soon after the first has ended."""
        seen = self.presence
        order = np.lexsort((seen.start_N, seen.video_N))
        order = order[seen.video_N[order] >= 0]
        video_O, start_O, end_O = seen.video_N[order], seen.start_N[order], seen.end_N[order]
        span = float(np.max(np.abs(np.concatenate(([0.0], start_O, end_O))))) + 2 * MOST_SECONDS
        place_O = video_O * (4 * span) + start_O  # in order, and no window reaches another video
        from_O = np.searchsorted(place_O, video_O * (4 * span) + end_O, side="right")
        count_O = np.searchsorted(place_O, video_O * (4 * span) + end_O + MOST_SECONDS, side="right") - from_O
        first = np.repeat(np.arange(len(order)), count_O)
        step = np.arange(len(first)) - np.repeat(np.cumsum(count_O) - count_O, count_O)
        return order[first], order[np.repeat(from_O, count_O) + step]


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Which pairs cannot show one person: in view at one time in one video, or too soon on two cameras."""

    sightings: Sightings
    least_CC: Scores
    """Least seconds between two cameras; −infinity where none are given."""

    @classmethod
    def of(cls, sightings: Sightings, travel: TravelTimes) -> Exclusions:
        place_of = {name: place for place, name in enumerate(sightings.cameras)}
        least_CC = np.full((len(place_of), len(place_of)), -np.inf)
        for (one, other), seconds in travel.items():
            if one in place_of and other in place_of:
                places = place_of[one], place_of[other]
                least_CC[places] = least_CC[places[::-1]] = seconds
        return cls(sightings, least_CC)

    def excluded(self, first_P: Indices, second_P: Indices) -> npt.NDArray[np.bool_]:
        """Of P pairs of two different tracklets."""
        seen = self.sightings
        together_P = seen.presence.together(first_P, second_P)
        if not np.isfinite(self.least_CC).any():
            return together_P
        gap_P = np.maximum(seen.start_N[first_P], seen.start_N[second_P]) - np.minimum(
            seen.end_N[first_P], seen.end_N[second_P]
        )
        with np.errstate(invalid="ignore"):
            found: npt.NDArray[np.bool_] = together_P | (
                gap_P < self.least_CC[seen.camera_N[first_P], seen.camera_N[second_P]]
            )
        return found


def _tracks(presence: Presence, rows: EmbeddingRows) -> Indices:
    coded = rows.attribute("track").dictionary_encode().indices.fill_null(-1)
    track_N = coded.to_numpy(zero_copy_only=False).astype(np.int64)
    both_N = presence.video_N * (track_N.max(initial=0) + 1) + track_N
    return np.where((presence.video_N >= 0) & (track_N >= 0), both_N, -1)


def read_travel_times(path: Path) -> TravelTimes:
    """Read a CSV file with the columns ``TRAVEL_COLUMNS``, a row for each pair of cameras in either order.

    Raises:
        InputError: a row is not two cameras and seconds of at least 0, or a pair is there twice; names the lines.
    """
    log, found = ProblemLog(), dict[tuple[str, str], float]()
    for line, row in read_csv_table(path, TRAVEL_COLUMNS, log):
        one, other = sorted((row["camera_a"], row["camera_b"]))
        try:
            seconds = number(row, "least_seconds")
            if not one or one == other:
                raise InputError(f"cameras {shown(one)} and {shown(other)}, expected two different ones")
            if seconds < 0:
                raise InputError(f"least_seconds is {shown(row['least_seconds'])}, expected at least 0")
            if (one, other) in found:
                raise InputError(f"cameras {shown(one)} and {shown(other)} have a row above")
            found[one, other] = seconds
        except InputError as error:
            log.error(path, line, str(error))
    raise_problems(log)
    return found


def raise_problems(log: ProblemLog) -> None:
    """Raise InputError if there are errors in it, with a line for each."""
    if errors := [problem for problem in log.problems() if problem.severity == "error"]:
        raise InputError("fix first:\n" + list_problems(errors, MOST_SHOWN))
