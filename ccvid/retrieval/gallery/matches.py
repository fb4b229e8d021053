"""Ranked matches of an unlabelled gallery as tables: one row per query and rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from ccvid.retrieval.embedding.parquet import write_table
from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.run_files import MATCHES_FILE, MATCHES_TABLE
from data_tools.errors import InputError
from data_tools.files import atomic_file

TIMES = ("start_seconds", "end_seconds")
MOMENTS = ("start_time", "end_time")


@dataclass(frozen=True, slots=True)
class RankedMatches:
    """The first K gallery tracklets of each of Q queries.

    ``gallery_QK`` int64 holds indices into ``gallery``, −1 after the last entry that passes a query's filter;
    ``score_QK`` float64 cosines in [−1, 1]; ``probability_QK`` float64 probabilities that both show the same person,
    None without a calibration.
    """

    query: Sequence[EmbeddingRow]
    gallery: Sequence[EmbeddingRow]
    gallery_QK: npt.NDArray[np.int64]
    score_QK: npt.NDArray[np.float64]
    probability_QK: npt.NDArray[np.float64] | None = None

    def first_scores(self) -> npt.NDArray[np.float64]:
        """Of each query that has a match, its first one's."""
        first_Q: npt.NDArray[np.float64] = self.score_QK[self.gallery_QK[:, 0] >= 0, 0]
        return first_Q

    def table(self) -> pa.Table:
        """One row per match: the query and its camera, rank from 1, the gallery tracklet and what is known about it."""
        query_M, place_M = np.nonzero(self.gallery_QK >= 0)
        found = [self.gallery[index] for index in self.gallery_QK[query_M, place_M].tolist()]
        asked = [self.query[index] for index in query_M.tolist()]
        probability_M = None if self.probability_QK is None else self.probability_QK[query_M, place_M]
        columns = {
            "query_id": pa.array([row.id for row in asked], pa.string()),
            "query_camera": pa.array([row.camera for row in asked], pa.string()),
            "rank": pa.array(place_M + 1, pa.int32()),
            "gallery_id": pa.array([row.id for row in found], pa.string()),
            "score": pa.array(self.score_QK[query_M, place_M], pa.float64()),
            "probability": pa.nulls(len(found), pa.float64()) if probability_M is None else pa.array(probability_M),
            "camera": pa.array([row.camera for row in found], pa.string()),
            **{name: pa.array([seconds(row.attributes.get(name)) for row in found], pa.float64()) for name in TIMES},
            **{name: pa.array([row.attributes.get(name) for row in found], pa.string()) for name in MOMENTS},
            "person": pa.array([row.person for row in found], pa.string()),
        }
        return pa.table(columns)


def seconds(text: str | None) -> float | None:
    """A tracklet's time in seconds, from the attribute's text; None if it is missing or not a number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def write_matches(matches: RankedMatches, folder: Path) -> None:
    """Write ``matches.parquet`` and ``matches.csv``, each atomically; InputError if that fails."""
    table = matches.table()
    write_table(table, folder / MATCHES_TABLE)
    try:
        with atomic_file(folder / MATCHES_FILE) as file:
            pa_csv.write_csv(table, file)
    except OSError as error:
        raise InputError(f"{folder / 'matches.csv'}: cannot be written: {error}") from error
