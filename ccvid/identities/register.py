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

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from ccvid.identities.corrections import Corrections, read_corrections
from ccvid.identities.evidence import Evidence
from ccvid.identities.persons import SCHEMA, Event, Persons, Question
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


class _State(Options):
    format_version: Literal[1] = 1
    next_person: int = Field(ge=1)
    events: int = Field(ge=0)


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
        if not self.folder.exists(PERSONS_FILE):
            return Persons()
        with self.folder.fetched(PERSONS_FILE) as path, open_parquet(path) as file:
            table = file.read()
        return _persons(table, self._state(), self.folder / PERSONS_FILE)

    def events(self) -> list[Event]:
        """The record. Raises InputError if a line cannot be read."""
        return [
            parse_model(Event, line.encode(), f"{self.folder / RECORD_FILE}:{number}")
            for number, line in enumerate(self._lines(self._state().events), start=1)
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
        lines = [*self._lines(self._state().events), *(event.line() for event in events)]
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

    def _state(self) -> _State:
        if not self.folder.exists(PERSONS_FILE):
            return _State(next_person=1, events=0)
        with self.folder.fetched(PERSONS_FILE) as path, open_parquet(path) as file:
            metadata = file.schema_arrow.metadata or {}
        return parse_model(_State, metadata.get(STATE, b""), self.folder / PERSONS_FILE)


def _persons(table: pa.Table, state: _State, place: StorageFolder) -> Persons:
    try:
        table = table.replace_schema_metadata().cast(SCHEMA)
        table.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{place}: expected the columns {', '.join(SCHEMA.names)}: {one_line(error)}") from None
    if any(table[name].null_count for name in SCHEMA.names[:-1]):
        raise InputError(f"{place}: a row is not complete")
    ids, person_N = table["id"], table["person"].to_numpy()
    if pc.any(pc.greater_equal(ids.slice(0, max(0, len(ids) - 1)), ids.slice(1))).as_py():
        raise InputError(f"{place}: ids are not sorted, or one is there twice")
    if len(ids) and (person_N.min() < 1 or person_N.max() >= state.next_person):
        raise InputError(f"{place}: a person's number is not from 1 to {state.next_person - 1}")
    named = table.filter(pc.is_valid(table["name"]))
    names = dict(zip(named["person"].to_pylist(), named["name"].cast(pa.string()).to_pylist(), strict=True))
    confidence_N: npt.NDArray[np.float64] = table["confidence"].to_numpy()
    return Persons(
        tuple(ids.to_pylist()),
        person_N.astype(np.int64),
        table["outfit"].to_numpy().astype(np.int64),
        confidence_N,
        names,
        state.next_person,
    )
