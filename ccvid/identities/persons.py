"""Persons and their numbers: what a run makes of the numbers that there were."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ccvid.identities.corrections import Corrections
from ccvid.retrieval.ranking.distances import Indices, Scores
from data_tools.options import Options

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "person": pa.int64(),
        "outfit": pa.int32(),
        "confidence": pa.float64(),
        "name": pa.dictionary(pa.int32(), pa.string()),
    }
)


class Event(Options):
    """A line of the record."""

    event: Literal["opened", "merged", "split", "named", "removed"]
    person: int = Field(ge=1)
    into: int | None = Field(default=None, ge=1)
    """Merged: the number that stands for both."""
    origin: int | None = Field(default=None, ge=1, alias="from")
    """Split: the number that these tracklets had."""
    name: str | None = None
    tracklets: int | None = Field(default=None, ge=0)
    """How many the person had afterwards."""
    time: str | None = None
    """Of the run, ISO 8601."""

    def line(self) -> str:
        return json.dumps(self.model_dump(exclude_none=True, by_alias=True), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Persons:
    """N tracklets by id, sorted, with their person's number from 1, outfit from 1, and confidence in [0, 1]."""

    ids: tuple[str, ...] = ()
    person_N: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    outfit_N: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    confidence_N: Scores = field(default_factory=lambda: np.empty(0))
    names: Mapping[int, str] = field(default_factory=dict)
    next_person: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    def table(self) -> pa.Table:
        """As ``persons.parquet`` has it."""
        names = [self.names.get(number) for number in self.person_N.tolist()]
        columns = {
            "id": pa.array(self.ids, pa.string()),
            "person": self.person_N,
            "outfit": self.outfit_N.astype(np.int32),
            "confidence": self.confidence_N,
            "name": pa.array(names, pa.string()).dictionary_encode(),
        }
        return pa.table(columns, SCHEMA)

    def without(self, ids: Collection[str]) -> Persons:
        """All but these tracklets."""
        return self.take(np.flatnonzero([id not in ids for id in self.ids]))

    def take(self, rows: Indices) -> Persons:
        """Some tracklets, ascending."""
        person_N = self.person_N[rows]
        numbers = set(person_N.tolist())
        return Persons(
            tuple(self.ids[row] for row in rows.tolist()),
            person_N,
            self.outfit_N[rows],
            self.confidence_N[rows],
            {number: name for number, name in self.names.items() if number in numbers},
            self.next_person,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """Are two tracklets one person? ``probability`` is that of their groups; ``together`` what was decided."""

    first: str
    second: str
    probability: float
    together: bool
    value: float
    """Expected number of tracklets that an answer puts right."""

    def is_about(self, ids: Collection[str]) -> bool:
        """Whether one of these is one of the two."""
        return self.first in ids or self.second in ids


def by_value(questions: Iterable[Question]) -> list[Question]:
    """The most valuable first."""
    return sorted(questions, key=lambda question: (-question.value, question.first, question.second))


def open_questions(
    earlier: Iterable[Question], new: Iterable[Question], persons: Persons, met: Collection[str], decided: Corrections
) -> list[Question]:
    """The new ones, and those of earlier runs that still are: not answered, not overtaken, not looked at again.

    Args:
        met: tracklets that this run has looked at; ``new`` has all questions about two of them.
    """
    person_of = dict(zip(persons.ids, persons.person_N.tolist(), strict=True))

    def is_open(question: Question) -> bool:
        both = question.first, question.second
        if both in decided.pairs or not all(id in person_of for id in both) or all(id in met for id in both):
            return False
        return bool((person_of[both[0]] == person_of[both[1]]) == question.together)

    return by_value([*new, *filter(is_open, earlier)])


@dataclass(frozen=True, slots=True)
class Grouped:
    """What a run has found out about R tracklets, known ones among them.

    ``group_R`` int64 are any numbers, one a group; ``confidence_R`` is NaN where it is as it was (1 at first);
    ``order_R`` float64 says in which order new persons are numbered:
    by their least, then by id.
    """

    ids: tuple[str, ...]
    group_R: Indices
    outfit_R: Indices
    confidence_R: Scores
    order_R: Scores


def renewed(
    before: Persons,
    found: Grouped,
    names: Mapping[str, str],
    *,
    removed: Collection[str] = (),
    time: str | None = None,
) -> tuple[Persons, list[Event]]:
    """The persons after a run, and what happened to their numbers.

    Of the groups that hold tracklets of one person, the one with most of them keeps the number (of equal ones that with
    the first id), the others are ``split`` off. Of the numbers that a group would keep it keeps the lowest; the others
    are ``merged`` into it.

    Args:
        names: of persons, by a tracklet's id.
        removed: tracklets that are no longer in the gallery.
        time: of the run, for the record.
    """
    left = before.without(removed)
    known = dict(zip(left.ids, left.person_N.tolist(), strict=True))
    number_of, next_person, events = _numbers(known, found, before.next_person)
    into = {event.person: event.into for event in events if event.into is not None}
    found_as = {id: number_of[group] for id, group in zip(found.ids, found.group_R.tolist(), strict=True)}
    person_of = {id: into.get(number, number) for id, number in known.items()} | found_as
    sizes = Counter(person_of.values())
    kept = {into.get(number, number): name for number, name in before.names.items()}
    named = {person_of[id]: name for id, name in sorted(names.items()) if id in person_of}
    names_now = {number: name for number, name in sorted((kept | named).items()) if number in sizes}
    new_names = [number for number, name in names_now.items() if before.names.get(number) != name]
    gone = sorted(set(before.person_N.tolist()) - sizes.keys() - into.keys())
    events += [Event(event="named", person=number, name=names_now[number]) for number in new_names]
    events += [Event(event="removed", person=number) for number in gone]
    told = [
        event.model_copy(update={"time": time, "tracklets": sizes.get(event.into or event.person, 0)})
        for event in events
    ]
    return _joined(left, found, person_of, names_now, next_person), told


def _numbers(known: Mapping[str, int], found: Grouped, next_person: int) -> tuple[dict[int, int], int, list[Event]]:
    """The number of each group, the next free one, and what happened."""
    shares: dict[int, Counter[int]] = {}
    first_id: dict[int, str] = {}
    begin: dict[int, tuple[float, str]] = {}
    for id, group, order in zip(found.ids, found.group_R.tolist(), found.order_R.tolist(), strict=True):
        first_id[group] = min(first_id.get(group, id), id)
        begin[group] = min(begin.get(group, (order, id)), (order, id))
        if id in known:
            shares.setdefault(known[id], Counter())[group] += 1
    heir = {
        number: min(groups, key=lambda group: (-groups[group], first_id[group])) for number, groups in shares.items()
    }
    kept: dict[int, list[int]] = {}
    for number, group in sorted(heir.items()):
        kept.setdefault(group, []).append(number)
    number_of = {group: numbers[0] for group, numbers in kept.items()}
    events = [
        Event(event="merged", person=number, into=numbers[0]) for numbers in kept.values() for number in numbers[1:]
    ]
    origins = _origins(shares)
    for group in sorted(begin.keys() - number_of.keys(), key=begin.__getitem__):
        number_of[group], origin = next_person, origins.get(group)
        kind: Literal["opened", "split"] = "opened" if origin is None else "split"
        events.append(Event.model_validate({"event": kind, "person": next_person, "from": origin}))
        next_person += 1
    return number_of, next_person, sorted(events, key=lambda event: (event.event != "merged", event.person))


def _origins(shares: Mapping[int, Counter[int]]) -> dict[int, int]:
    """The number that most of a group's known tracklets had, by group."""
    found: dict[int, tuple[int, int]] = {}
    for number, groups in shares.items():
        for group, count in groups.items():
            found[group] = min(found.get(group, (0, number)), (-count, number))
    return {group: number for group, (_, number) in found.items()}


def _joined(
    before: Persons, found: Grouped, person_of: Mapping[str, int], names: Mapping[int, str], next_person: int
) -> Persons:
    """All tracklets by id; outfit and confidence of those that were not found again stay."""
    values = dict(
        zip(before.ids, zip(before.outfit_N.tolist(), before.confidence_N.tolist(), strict=True), strict=True)
    )
    for id, outfit, confidence in zip(found.ids, found.outfit_R.tolist(), found.confidence_R.tolist(), strict=True):
        values[id] = outfit, values.get(id, (1, 1.0))[1] if np.isnan(confidence) else confidence
    ids = tuple(sorted(person_of))
    return Persons(
        ids,
        np.array([person_of[id] for id in ids], np.int64),
        np.array([values[id][0] for id in ids], np.int64),
        np.array([values[id][1] for id in ids], np.float64),
        names,
        next_person,
    )
