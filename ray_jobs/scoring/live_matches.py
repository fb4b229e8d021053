"""Matches of new tracklets, a line of JSON each: none is lost and none is written twice, whatever is killed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from ccvid.retrieval.embedding.store import EmbeddingStore
from ccvid.retrieval.gallery.decisions import Decisions
from ccvid.retrieval.gallery.matches import RankedMatches
from data_tools.documents import parse_model
from data_tools.line_file import LineFile
from ray_jobs.scoring.changing_gallery import although_it_changes
from ray_jobs.scoring.entries import NothingToRankError
from ray_jobs.scoring.gallery import GalleryRequest, find_queries, rank
from ray_jobs.scoring.watch_log import now

Match = dict[str, Any]
"""A line's values by their names."""

NAMES = (
    *("query_id", "query_person", "query_camera", "gallery_id", "person", "camera", "score", "probability", "rank"),
    *("start_seconds", "end_seconds", "start_time", "end_time"),
)
"""Of a line's values, after its time."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How tracklets are ranked for the watched persons, and which are reported.

    With a threshold a new tracklet is reported where its score reaches it, with its rank if that is among the first
    ``request.top`` of the gallery; without one, where it is among these.
    """

    request: GalleryRequest
    decisions: Decisions | None = None
    prior: float | None = None

    def of_gallery(self, store: EmbeddingStore) -> tuple[RankedMatches, int]:
        """The first tracklets of the gallery for each query, and how many were ranked.

        Raises:
            NothingToRankError: there are no queries, or nothing to rank.
        """
        return self._ranked(self.request, store, frozenset())

    def of_new(self, store: EmbeddingStore, ids: frozenset[str]) -> list[Match]:
        """What is to be reported of the tracklets ``ids``; nothing if there is nothing to rank."""
        threshold = None if self.decisions is None else self.decisions.threshold
        try:
            first, _ = self.of_gallery(store)
            if threshold is None:
                is_new_G = np.array([row.id in ids for row in first.gallery] or [False])
                return _values(_only(first, is_new_G[first.gallery_QK]))
            new, _ = self._ranked(replace(self.request, only_new=True, top=len(ids)), store, ids)
        except NothingToRankError:
            return []
        rank_of = {(match["query_id"], match["gallery_id"]): match["rank"] for match in _values(first)}
        reached = _values(_only(new, new.score_QK >= threshold))
        return [match | {"rank": rank_of.get((match["query_id"], match["gallery_id"]))} for match in reached]

    def _ranked(self, request: GalleryRequest, store: EmbeddingStore, ids: frozenset[str]) -> tuple[RankedMatches, int]:
        matches, ranked = although_it_changes(store, lambda now: rank(find_queries(request, now), now, request, ids))
        if self.decisions is not None:
            matches = self.decisions.add_probabilities(matches, model=store.embedder.fingerprint, prior=self.prior)
        return matches, ranked


class _Pair(BaseModel):
    """What makes two lines the same match."""

    model_config = ConfigDict(frozen=True)
    query_id: str
    gallery_id: str


class MatchLines:
    """The file of reported matches.

    Args:
        file: where they are.
        settled: its size after the last batch that is done: lines after that are of the batch that was interrupted.
    """

    def __init__(self, file: LineFile, settled: int) -> None:
        self._file, self._settled = file, settled
        file.repair()

    def add(self, matches: Iterable[Match]) -> tuple[list[str], int]:
        """Add the matches of a batch that are not there yet; returns their lines, and the file's size.

        Raises:
            InputError: a line that was there is not one of these.
            OSError: the disk is full.
        """
        there = {parse_model(_Pair, line.encode(), self._file.path) for line in self._file.lines(self._settled)}
        new = [match for match in matches if _Pair.model_validate(match) not in there]
        lines = [json.dumps({"time": now(), **match}) for match in new]
        self._settled = self._file.append(lines) if lines else self._file.size
        return lines, self._settled


def _only(matches: RankedMatches, kept_QK: npt.NDArray[np.bool_]) -> RankedMatches:
    return replace(matches, gallery_QK=np.where(kept_QK, matches.gallery_QK, -1))


def _values(matches: RankedMatches) -> list[Match]:
    person = {row.id: row.person for row in matches.query}
    rows = (row | {"query_person": person[row["query_id"]]} for row in matches.table().to_pylist())
    return [{name: row[name] for name in NAMES} for row in rows]
