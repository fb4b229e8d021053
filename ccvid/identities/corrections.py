"""What people have decided: these two are one person, these two are not, this is Anna.

    verdict,tracklet,other
    same,gate/3,yard/5
    different,gate/3,yard/8
    name,gate/3,Anna
    undecided,gate/3,yard/8

Two tracklets with one name are one person, two with different names are two. A later row about the same two tracklets,
or the name of the same tracklet, takes the place of an earlier one; ``undecided`` only takes it back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from ccvid.identities.sightings import raise_problems
from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.text_tables import read_csv_table
from data_tools.errors import InputError
from data_tools.wording import shown

COLUMNS = ("verdict", "tracklet", "other")
VERDICTS = ("same", "different", "name", "undecided")
LONGEST_NAME = 200

Pair = tuple[str, str]
"""Ids of two tracklets, in order."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Decisions by pair of tracklets (whether they are one person), and names by tracklet, each with its origin."""

    pairs: Mapping[Pair, bool] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[Pair | str, str] = field(default_factory=dict)
    """For messages: ``file:line``."""

    def with_rows(self, rows: Iterable[tuple[str, str, str, str]]) -> Corrections:
        """With further rows: verdict, tracklet, other, origin."""
        pairs, names, origin = dict(self.pairs), dict(self.names), dict(self.origin)
        for verdict, tracklet, other, place in rows:
            if verdict == "name":
                names[tracklet], origin[tracklet] = other, place
                continue
            pair = _pair(tracklet, other)
            origin[pair] = place
            if verdict == "undecided":
                pairs.pop(pair, None)
            else:
                pairs[pair] = verdict == "same"
        return Corrections(pairs, names, origin)

    def among(self, ids: Collection[str]) -> Corrections:
        """Those about these tracklets only."""
        pairs = {pair: same for pair, same in self.pairs.items() if pair[0] in ids and pair[1] in ids}
        names = {id: name for id, name in self.names.items() if id in ids}
        kept = pairs.keys() | names.keys()
        return Corrections(pairs, names, {key: place for key, place in self.origin.items() if key in kept})

    def without(self, ids: Collection[str], names: Collection[str]) -> Corrections:
        """Those about none of these tracklets, and without these names."""
        pairs = {pair: same for pair, same in self.pairs.items() if pair[0] not in ids and pair[1] not in ids}
        kept = {id: name for id, name in self.names.items() if id not in ids and name not in names}
        known = pairs.keys() | kept.keys()
        return Corrections(pairs, kept, {key: place for key, place in self.origin.items() if key in known})

    def __len__(self) -> int:
        return len(self.pairs) + len(self.names)

    def ids(self) -> set[str]:
        """Of all tracklets that they are about."""
        return {id for pair in self.pairs for id in pair} | set(self.names)

    def same(self) -> list[Pair]:
        """Pairs that are one person, those with one name among them."""
        by_name: dict[str, str] = {}
        named = [(by_name.setdefault(name, id), id) for id, name in sorted(self.names.items())]
        return [
            *(pair for pair, same in sorted(self.pairs.items()) if same),
            *((first, other) for first, other in named if first != other),
        ]

    def different(self) -> list[Pair]:
        """Pairs that are two persons, one tracklet for each of two names among them."""
        by_name = {name: id for id, name in sorted(self.names.items(), reverse=True)}
        named = combinations((by_name[name] for name in sorted(by_name)), 2)
        return [*(pair for pair, same in sorted(self.pairs.items()) if not same), *(_pair(*two) for two in named)]

    def check(self) -> None:
        """Raise InputError if two tracklets are decided to be different, but linked by others that are the same."""
        linked = _Linked(self.same())
        for pair in self.different():
            if (way := linked.way(*pair)) is not None:
                places = [self.origin.get(step) or self._of_names(step) for step in (pair, *way)]
                raise InputError(
                    f"{places[0]}: {shown(pair[0])} and {shown(pair[1])} are different, but the same by "
                    f"{', '.join(dict.fromkeys(places[1:]))}; correct one of these rows, or take it back with undecided"
                )

    def to_csv(self) -> bytes:
        """As a file that ``read_corrections`` reads."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(("same" if same else "different", *pair) for pair, same in sorted(self.pairs.items()))
        writer.writerows(("name", id, name) for id, name in sorted(self.names.items()))
        return text.getvalue().encode()

    def _of_names(self, pair: Pair) -> str:
        return " and ".join(dict.fromkeys(self.origin.get(id, id) for id in pair))


def read_corrections(path: Path, before: Corrections | None = None) -> Corrections:
    """Those of a CSV file with the columns ``COLUMNS``, laid over those ``before``.

    Raises:
        InputError: a row has no such verdict, an empty cell, or one tracklet twice; names the lines.
    """
    log = ProblemLog()
    rows: list[tuple[str, str, str, str]] = []
    for line, row in read_csv_table(path, COLUMNS, log):
        verdict, tracklet, other = (row[name] for name in COLUMNS)
        if problem := _problem(verdict, tracklet, other):
            log.error(path, line, problem)
        rows.append((verdict, tracklet, other, f"{path}:{line}"))
    raise_problems(log)
    return (before or Corrections()).with_rows(rows)


def csv_line(verdict: str, tracklet: str, other: str) -> str:
    """One row of such a file, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow((verdict, tracklet, other))
    return text.getvalue()


def _problem(verdict: str, tracklet: str, other: str) -> str | None:
    if verdict not in VERDICTS:
        return f"verdict is {shown(verdict)}, expected {', '.join(VERDICTS)}"
    if not tracklet or not other:
        return "tracklet and other must not be empty"
    if verdict != "name" and tracklet == other:
        return f"{shown(tracklet)} twice, expected two tracklets"
    if verdict == "name" and len(other) > LONGEST_NAME:
        return f"a name of {len(other)} characters, expected at most {LONGEST_NAME}"
    return None


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


class _Linked:
    """Tracklets linked by pairs."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._next: dict[str, dict[str, Pair]] = {}
        for pair in pairs:
            for here, there in (pair, pair[::-1]):
                self._next.setdefault(here, {})[there] = pair

    def way(self, start: str, end: str) -> list[Pair] | None:
        """A shortest chain of pairs between two tracklets; None if there is none."""
        come_from: dict[str, str | None] = {start: None}
        reached = [start]
        for here in reached:
            for there in self._next.get(here, {}):
                if there not in come_from:
                    come_from[there] = here
                    reached.append(there)
        if end not in come_from:
            return None
        way: list[Pair] = []
        here = end
        while (before := come_from[here]) is not None:
            way.append(self._next[before][here])
            here = before
        return way
