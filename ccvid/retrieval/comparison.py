"""Two results side by side: the same queries, paired, and whether the difference could be chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.parquet import read_table
from data_tools.errors import InputError

Floats = npt.NDArray[np.float64]

FIGURES = ("map", "minp", "top-1")
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class QueryScores:
    """One protocol's figures of the Q queries that have a match, by id.

    ``figures`` has (Q,) float64 in [0, 1] for each of ``FIGURES``: average precision, inverse negative penalty, and
    whether the first place is right. ``ranked`` are the ids of the first places, with whether each is a match.
    """

    ids: tuple[str, ...]
    person: tuple[str, ...]
    figures: Mapping[str, Floats]
    ranked: tuple[tuple[tuple[str, bool], ...], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one figure: second result minus first, as fractions.

    ``low`` and ``high`` bound the 95 % interval by percentiles of a bootstrap over persons; ``p_value`` is two-sided:
    twice the share of draws on the other side of 0, at least 2 / (draws + 1).
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float

    @property
    def change(self) -> float:
        return self.second - self.first

    def to_json(self) -> dict[str, float]:
        return {
            "first": self.first,
            "second": self.second,
            "change": self.change,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One protocol: each figure's difference, and each query's change of average precision (Q,), second minus first."""

    ids: tuple[str, ...]
    persons: int
    differences: Mapping[str, Difference]
    change_Q: Floats

    @property
    def better(self) -> list[int]:
        """Queries that got better, the most first; equal ones by id."""
        return self._by_change(-1)

    @property
    def worse(self) -> list[int]:
        """Queries that got worse, the most first; equal ones by id."""
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
        InputError: the file cannot be read or lacks a column.
    """
    columns = ("query_id", "person", "protocol", "average_precision", "inverse_negative_penalty", "first_match_rank")
    table = read_table(path, required=(*columns, "gallery_ids", "is_match"))
    rows: dict[str, list[dict[str, object]]] = {}
    for row in table.to_pylist():
        if row["average_precision"] is not None:
            rows.setdefault(row["protocol"], []).append(row)
    return {
        protocol: _query_scores(sorted(found, key=lambda row: str(row["query_id"]))) for protocol, found in rows.items()
    }


def compare(first: QueryScores, second: QueryScores, *, draws: int = 2000, seed: int = 0) -> Comparison:
    """Compare two results of one protocol over the queries that both hold.

    Persons are drawn with replacement, each with all its queries, for queries of one person are not independent; the
    same draws serve both results. Memory: draws × persons counts.

    Raises:
        InputError: they have no query in common, or a query's person differs.
    """
    place = {id: number for number, id in enumerate(second.ids)}
    common = [(number, place[id]) for number, id in enumerate(first.ids) if id in place]
    if not common:
        raise InputError("the two results have no query in common")
    here, there = (np.array(side) for side in zip(*common, strict=True))
    persons = [first.person[number] for number in here]
    for number, other in common:
        if first.person[number] != second.person[other]:
            raise InputError(
                f"query {first.ids[number]!r} shows {first.person[number]!r} in one result and "
                f"{second.person[other]!r} in the other"
            )
    names, code_Q = np.unique(persons, return_inverse=True)
    count_NP = np.random.Generator(np.random.PCG64(seed)).multinomial(
        len(names), np.full(len(names), 1 / len(names)), draws
    )
    queries_P = np.bincount(code_Q)
    differences = {}
    for name in FIGURES:
        before_Q, after_Q = first.figures[name][here], second.figures[name][there]
        sum_P = np.bincount(code_Q, weights=after_Q - before_Q)
        drawn_N = (count_NP @ sum_P) / (count_NP @ queries_P)
        low, high = np.quantile(drawn_N, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        side = min(np.count_nonzero(drawn_N <= 0), np.count_nonzero(drawn_N >= 0))
        differences[name] = Difference(
            first=float(before_Q.mean()),
            second=float(after_Q.mean()),
            low=float(low),
            high=float(high),
            p_value=min(1.0, 2 * (side + 1) / (draws + 1)),
        )
    change_Q = second.figures["map"][there] - first.figures["map"][here]
    return Comparison(tuple(first.ids[number] for number in here), len(names), differences, change_Q)


def _query_scores(rows: list[dict[str, object]]) -> QueryScores:
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
        ranked=tuple(tuple(zip(row["gallery_ids"], row["is_match"], strict=True)) for row in rows),  # type: ignore[call-overload]
    )
