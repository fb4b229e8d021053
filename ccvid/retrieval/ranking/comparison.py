"""Compare two results query by query, and test whether the difference could be chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ccvid.retrieval.embedding.parquet import read_table
from ccvid.retrieval.ranking.bootstrap import DRAWS, PairedDifference, paired_difference
from data_tools.errors import InputError
from data_tools.wording import one_line

Floats = npt.NDArray[np.float64]

QUERY_SCHEMA = pa.schema(
    {
        "query_id": pa.string(),
        "person": pa.string(),
        "protocol": pa.string(),
        "average_precision": pa.float64(),
        "inverse_negative_penalty": pa.float64(),
        "first_match_rank": pa.int64(),
        "gallery_ids": pa.list_(pa.string()),
        "distances": pa.list_(pa.float64()),
        "is_match": pa.list_(pa.bool_()),
    }
)
"""Schema of ``queries.parquet``; see ``write_query_table``."""

FIGURES = ("map", "minp", "top-1")


@dataclass(frozen=True, slots=True)
class QueryScores:
    """One protocol's metrics of the Q queries that have a match, sorted by id.

    ``figures`` has (Q,) float64 in [0, 1] for each of ``FIGURES``: average precision, inverse negative penalty, and
    whether rank 1 is a match. ``ranked`` is the top of each ranking: the gallery tracklet's id, its distance, and
    whether it is a match.
    """

    ids: tuple[str, ...]
    person: tuple[str, ...]
    figures: Mapping[str, Floats]
    ranked: tuple[tuple[tuple[str, float, bool], ...], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One protocol: each metric's difference, and each query's change of average precision (Q,), second minus first."""

    ids: tuple[str, ...]
    persons: int
    differences: Mapping[str, PairedDifference]
    change_Q: Floats

    @property
    def better(self) -> list[int]:
        """Queries that got better, largest change first; ties by id."""
        return self._by_change(-1)

    @property
    def worse(self) -> list[int]:
        """Queries that got worse, largest change first; ties by id."""
        return self._by_change(1)

    def _by_change(self, sign: int) -> list[int]:
        change = sign * self.change_Q
        return sorted(np.flatnonzero(change < 0).tolist(), key=lambda query: (change[query], self.ids[query]))

    def to_json(self) -> dict[str, object]:
        return {
            "queries": len(self.ids),
            "persons": self.persons,
            "better": len(self.better),
            "worse": len(self.worse),
            "differences": {name: difference.to_json() for name, difference in self.differences.items()},
        }


def read_query_scores(path: Path) -> dict[str, QueryScores]:
    """The protocols of a ``queries.parquet``; queries without a match are left out.

    Raises:
        InputError: the file cannot be read, a column is missing or of the wrong type, or a row is invalid; the message
            names the row, counted from 0.
    """
    table = read_table(path, required=QUERY_SCHEMA.names).select(QUERY_SCHEMA.names)
    try:
        table = table.cast(QUERY_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{path}: not a query table, columns of another type: {one_line(error)}") from None
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(table.to_pylist()):
        if row["average_precision"] is not None:
            _check_row(row, f"{path}: row {number}")
            rows.setdefault(row["protocol"], []).append(row)
    return {
        protocol: _query_scores(sorted(found, key=lambda row: str(row["query_id"]))) for protocol, found in rows.items()
    }


def compare(first: QueryScores, second: QueryScores, *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compare two results of one protocol over the queries that both hold.

    Raises:
        InputError: they have no query in common, or a query's person differs.
    """
    place = {id: number for number, id in enumerate(second.ids)}
    common = [(number, place[id]) for number, id in enumerate(first.ids) if id in place]
    if not common:
        raise InputError("the two results have no query in common")
    here, there = (np.array(side) for side in zip(*common, strict=True))
    for number, other in common:
        if first.person[number] != second.person[other]:
            raise InputError(
                f"query {first.ids[number]!r} is person {first.person[number]!r} in one result and "
                f"{second.person[other]!r} in the other"
            )
    person = [first.person[number] for number in here]
    differences = {
        name: paired_difference(first.figures[name][here], second.figures[name][there], person, draws=draws, seed=seed)
        for name in FIGURES
    }
    change_Q = second.figures["map"][there] - first.figures["map"][here]
    return Comparison(tuple(first.ids[number] for number in here), len(set(person)), differences, change_Q)


def _check_row(row: Mapping[str, Any], place: str) -> None:
    for name in ("query_id", "person", "protocol"):
        if row[name] is None:
            raise InputError(f"{place}: no {name}")
    for name in ("average_precision", "inverse_negative_penalty"):
        if row[name] is None or not 0 <= row[name] <= 1:
            raise InputError(f"{place}: {name} is {row[name]}, expected a number from 0 to 1")
    if row["first_match_rank"] is None or row["first_match_rank"] < 1:
        raise InputError(f"{place}: first_match_rank is {row['first_match_rank']}, expected at least 1")
    ranked = [row[name] for name in ("gallery_ids", "distances", "is_match")]
    if None in ranked or len(set(map(len, ranked))) > 1 or any(None in values for values in ranked):
        raise InputError(f"{place}: gallery_ids, distances and is_match must be lists of equal length without nulls")
    if not np.isfinite(row["distances"]).all():
        raise InputError(f"{place}: a distance is not finite")


def _query_scores(rows: list[dict[str, Any]]) -> QueryScores:
    def column(name: str) -> Floats:
        return np.array([row[name] for row in rows], np.float64)

    return QueryScores(
        ids=tuple(str(row["query_id"]) for row in rows),
        person=tuple(str(row["person"]) for row in rows),
        figures={
            "map": column("average_precision"),
            "minp": column("inverse_negative_penalty"),
            "top-1": (column("first_match_rank") == 1).astype(np.float64),
        },
        ranked=tuple(tuple(zip(row["gallery_ids"], row["distances"], row["is_match"], strict=True)) for row in rows),
    )
