"""The register of persons: which tracklets of a gallery are which person, kept beside its embeddings.

    identities/persons.parquet      person, outfit and confidence of each tracklet; says how much of the record is valid
    identities/record.jsonl         what happened to a number, a line of JSON each, only ever added to
    identities/corrections.csv      what people have decided
    identities/questions.json       what they have not
    identities/evidence.safetensors from what probabilities are computed

A number never changes its meaning without a line: ``opened`` (a new person), ``merged`` (``person`` is ``into`` from
now on), ``split`` (``person`` is a new number for tracklets of ``from``), ``named``, ``removed`` (it has no tracklet
any more). Numbers are never used again. A run that is killed leaves the persons as they were before, and the lines that
it had added are dropped by the next.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from ccvid.identities.corrections import Corrections, read_corrections
from ccvid.identities.evidence import Evidence
from ccvid.retrieval.ranking.distances import Indices, Scores
from data_tools.documents import first_problem, parse_model
from data_tools.errors import InputError
from data_tools.file_lock import locked
from data_tools.options import Options
from data_tools.parquet_files import open_parquet
from data_tools.storage import StorageFolder
from data_tools.wording import one_line

FOLDER = "identities"
PERSONS_FILE, RECORD_FILE = "persons.parquet", "record.jsonl"
QUESTIONS_FILE = "questions.json"
CORRECTIONS_FILE, EVIDENCE_FILE = "corrections.csv", "evidence.safetensors"
LOCK_FILE = ".lock"
STATE = b"ccvid"
"""Key of the file's metadata."""

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


class _State(Options):
    format_version: Literal[1] = 1
    next_person: int = Field(ge=1)
    events: int = Field(ge=0)


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
    for group in sorted(begin.keys() - number_of.keys(), key=begin.__getitem__):
        number_of[group], origin = next_person, _origin(shares, group)
        kind: Literal["opened", "split"] = "opened" if origin is None else "split"
        events.append(Event.model_validate({"event": kind, "person": next_person, "from": origin}))
        next_person += 1
    return number_of, next_person, sorted(events, key=lambda event: (event.event != "merged", event.person))


def _origin(shares: Mapping[int, Counter[int]], group: int) -> int | None:
    """The number that most of a group's known tracklets had."""
    counts = [(-groups[group], number) for number, groups in shares.items() if group in groups]
    return min(counts)[1] if counts else None


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


_QUESTIONS = TypeAdapter(list[Question])


@dataclass(frozen=True, slots=True)
class Register:
    """The register in a gallery's folder."""

    gallery: StorageFolder

    @property
    def folder(self) -> StorageFolder:
        return self.gallery / FOLDER

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the register's lock. On object storage there must be one writer at a time."""
        local = self.folder.local
        if local is not None:
            local.mkdir(parents=True, exist_ok=True)
        with locked(local / LOCK_FILE) if local is not None else nullcontext():
            yield

    def persons(self) -> Persons:
        """All persons; none if there is no register. Raises InputError if the file cannot be read."""
        return self._read()[0]

    def events(self) -> list[Event]:
        """The record. Raises InputError if a line cannot be read."""
        return [
            parse_model(Event, line.encode(), f"{self.folder / RECORD_FILE}:{number}")
            for number, line in enumerate(self._lines(self._read()[1].events), start=1)
        ]

    def evidence(self) -> Evidence | None:
        """What the persons were found with; None if there is no register."""
        try:
            return Evidence.from_bytes(self.folder.read(EVIDENCE_FILE), self.folder / EVIDENCE_FILE)
        except FileNotFoundError:
            return None

    def corrections(self) -> Corrections:
        """All decisions so far."""
        if not self.folder.exists(CORRECTIONS_FILE):
            return Corrections()
        with self.folder.fetched(CORRECTIONS_FILE) as path:
            return read_corrections(path)

    def questions(self) -> list[Question]:
        """Those that were open after the last run. Raises InputError if the file cannot be read."""
        try:
            return _QUESTIONS.validate_json(self.folder.read(QUESTIONS_FILE))
        except FileNotFoundError:
            return []
        except ValidationError as error:
            raise InputError(f"{self.folder / QUESTIONS_FILE}: {first_problem(error)}") from None

    def write(
        self,
        persons: Persons,
        events: Sequence[Event],
        questions: Sequence[Question],
        corrections: Corrections,
        evidence: Evidence,
    ) -> None:
        """Replace the persons and add to the record; call it only while ``writing``."""
        lines = [*self._lines(self._read()[1].events), *(event.line() for event in events)]
        self._write(persons, lines, questions, corrections, evidence)

    def mentions(self, ids: Collection[str], names: Collection[str]) -> dict[str, int]:
        """How many rows of each file tell of these tracklets, or of persons with these names; only files that do.

        A person without other tracklets is meant, too.
        """
        persons, decided = self.persons(), self.corrections()
        named = sum(name in names for name in persons.names.values())
        counts = {
            PERSONS_FILE: len(persons) - len(persons.without(ids)) + named,
            RECORD_FILE: sum(before != after for before, after in self._renamed(persons, ids, names)),
            CORRECTIONS_FILE: len(decided) - len(decided.without(ids, names)),
            QUESTIONS_FILE: sum(question.is_about(ids) for question in self.questions()),
        }
        return {file: count for file, count in counts.items() if count}

    def forget(self, ids: Collection[str], names: Collection[str]) -> None:
        """Remove what ``mentions`` finds. Numbers stay in the record, and are not used again."""
        evidence = self.evidence()
        if evidence is None or not self.mentions(ids, names):
            return
        with self.writing():
            persons = self.persons()
            left = persons.without(ids)
            kept = {number: name for number, name in left.names.items() if name not in names}
            self._write(
                replace(left, names=kept),
                [event.line() for _, event in self._renamed(persons, ids, names)],
                [question for question in self.questions() if not question.is_about(ids)],
                self.corrections().without(ids, names),
                evidence,
            )

    def _renamed(self, persons: Persons, ids: Collection[str], names: Collection[str]) -> Iterator[tuple[Event, Event]]:
        """Every line of the record, and without the name if that is to be forgotten."""
        gone = set(persons.person_N.tolist()) - set(persons.without(ids).person_N.tolist())
        for event in self.events():
            is_meant = event.name in names or event.person in gone
            yield event, event.model_copy(update={"name": None}) if is_meant else event

    def _write(
        self,
        persons: Persons,
        lines: Sequence[str],
        questions: Sequence[Question],
        corrections: Corrections,
        evidence: Evidence,
    ) -> None:
        state = _State(next_person=persons.next_person, events=len(lines))
        self.folder.write(EVIDENCE_FILE, evidence.to_bytes())
        self.folder.write(CORRECTIONS_FILE, corrections.to_csv())
        self.folder.write(QUESTIONS_FILE, _QUESTIONS.dump_json(list(questions)))
        self.folder.write(RECORD_FILE, "".join(f"{line}\n" for line in lines).encode())
        with self.folder.new_file(PERSONS_FILE) as path:
            table = persons.table()
            pq.write_table(table.replace_schema_metadata({STATE: state.model_dump_json()}), path)

    def _lines(self, count: int) -> list[str]:
        """The first lines of the record; those after them are a killed run's."""
        try:
            lines = self.folder.read(RECORD_FILE).decode(errors="replace").split("\n")[:-1]
        except FileNotFoundError:
            lines = []
        if len(lines) < count:
            raise InputError(f"{self.folder / RECORD_FILE}: has {len(lines)} lines, expected at least {count}")
        return lines[:count]

    def _read(self) -> tuple[Persons, _State]:
        if not self.folder.exists(PERSONS_FILE):
            return Persons(), _State(next_person=1, events=0)
        place = self.folder / PERSONS_FILE
        with self.folder.fetched(PERSONS_FILE) as path, open_parquet(path) as file:
            table, metadata = file.read(), file.schema_arrow.metadata or {}
        state = parse_model(_State, metadata.get(STATE, b""), place)
        return _persons(table, state, place), state


def _persons(table: pa.Table, state: _State, place: StorageFolder) -> Persons:
    try:
        table = table.replace_schema_metadata().cast(SCHEMA)
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{place}: expected the columns {', '.join(SCHEMA.names)}: {one_line(error)}") from None
    if any(table[name].null_count for name in SCHEMA.names[:-1]):
        raise InputError(f"{place}: a row is not complete")
    ids, person_N = table["id"].to_pylist(), table["person"].to_numpy()
    if any(first >= second for first, second in pairwise(ids)):
        raise InputError(f"{place}: ids are not sorted, or one is there twice")
    if len(ids) and (person_N.min() < 1 or person_N.max() >= state.next_person):
        raise InputError(f"{place}: a person's number is not from 1 to {state.next_person - 1}")
    named = table.filter(pc.is_valid(table["name"]))
    names = dict(zip(named["person"].to_pylist(), named["name"].cast(pa.string()).to_pylist(), strict=True))
    confidence_N: npt.NDArray[np.float64] = table["confidence"].to_numpy()
    return Persons(
        tuple(ids),
        person_N.astype(np.int64),
        table["outfit"].to_numpy().astype(np.int64),
        confidence_N,
        names,
        state.next_person,
    )
