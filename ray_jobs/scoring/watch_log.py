"""What a watch has taken in, a line of JSON for each event: all that it needs to go on after a kill.

    taken     a batch of arrivals, before anything is done with them
    refused   one of them, or one that changed after it was taken, and why
    done      a batch: its tracklets are in the gallery, and their matches are in the file of matches
    pruned    the file of matches, because somebody was forgotten

A batch that was taken and is not done is done again with the same arrivals, which gives the same tracklets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from data_tools.datasets.arrivals import Arrival
from data_tools.documents import first_problem
from data_tools.errors import InputError
from data_tools.line_file import LineFile
from data_tools.options import Options
from data_tools.progress import message


class Taken(Options):
    """A batch of arrivals."""

    event: Literal["taken"] = "taken"
    time: str
    batch: int
    arrivals: tuple[Arrival, ...]


class Refused(Options):
    """An arrival that is left out until one of its files changes."""

    event: Literal["refused"] = "refused"
    time: str
    name: str
    video: Path
    state: str
    problem: str


class Done(Options):
    """The end of a batch."""

    event: Literal["done"] = "done"
    time: str
    batch: int
    tracklets: int
    unreadable: int
    matches: int
    matches_end: int
    """Size of the file of matches in bytes."""


class Pruned(Options):
    """Lines were removed from the file of matches."""

    event: Literal["pruned"] = "pruned"
    time: str


AnyEvent: TypeAlias = Taken | Refused | Done | Pruned
_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])


class WatchLog:
    """The log in a file, read when this is made; a last line that a kill has torn is removed.

    Raises:
        InputError: a line is not valid; names it.
    """

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self._taken: dict[str, tuple[int, str]] = {}
        self._refused: dict[str, str] = {}
        self.tracks_of: dict[Path, Path] = {}
        """The track file of each video that was taken."""
        self.pending: Taken | None = None
        """The batch that is taken and not done."""
        self.batches = 0
        self.matches = 0
        self.matches_end = 0
        """Size of the file of matches at the end of the last batch that is done."""
        self._file.repair()
        for number, line in enumerate(self._file.lines(), start=1):
            try:
                self._note(_EVENT.validate_json(line))
            except ValidationError as error:
                raise InputError(f"{path}:{number}: {first_problem(error)}") from None

    @property
    def videos(self) -> int:
        """How many are taken in, or are being."""
        return len(self._taken)

    def batch_of(self, name: str) -> int | None:
        """The batch in which a video was taken in; None if it was not, or was refused."""
        return self._taken[name][0] if name in self._taken else None

    def is_new(self, arrival: Arrival) -> bool:
        """Whether it is to be taken: neither taken in before, nor refused as it is."""
        return arrival.name not in self._taken and self._refused.get(arrival.name) != arrival.state

    def has_changed(self, arrival: Arrival) -> bool:
        """Whether it was taken in with another state than it has now, which was not said before."""
        known = {self._taken[arrival.name][1], self._refused.get(arrival.name)} if arrival.name in self._taken else None
        return known is not None and arrival.state not in known

    def take(self, arrivals: Sequence[Arrival]) -> Taken:
        """Begin a batch."""
        taken = Taken(time=now(), batch=self.batches + 1, arrivals=tuple(arrivals))
        self._add(taken)
        return taken

    def refuse(self, arrival: Arrival, problem: str) -> None:
        """Leave an arrival out, and say so."""
        self._add(Refused(time=now(), name=arrival.name, video=arrival.video, state=arrival.state, problem=problem))
        message(f"refused {arrival.video}: {problem}")

    def remaining(self, taken: Taken) -> list[Arrival]:
        """The arrivals of a batch without those that were refused."""
        return [arrival for arrival in taken.arrivals if self.batch_of(arrival.name) == taken.batch]

    def finish(self, *, tracklets: int, unreadable: int, matches: int, matches_end: int) -> None:
        """End the pending batch."""
        assert self.pending is not None
        self._add(
            Done(
                time=now(),
                batch=self.pending.batch,
                tracklets=tracklets,
                unreadable=unreadable,
                matches=matches,
                matches_end=matches_end,
            )
        )

    def note_pruned(self) -> None:
        """Note, before it is done, that lines are removed from the file of matches."""
        self._add(Pruned(time=now()))

    def _add(self, event: AnyEvent) -> None:
        self._file.append([json.dumps(event.model_dump(mode="json"))])
        self._note(event)

    def _note(self, event: AnyEvent) -> None:
        if isinstance(event, Taken):
            self.pending, self.batches = event, event.batch
            self._taken |= {arrival.name: (event.batch, arrival.state) for arrival in event.arrivals}
            self.tracks_of |= {arrival.video: arrival.tracks for arrival in event.arrivals}
        elif isinstance(event, Refused):
            self._refused[event.name] = event.state
            if event.name in self._taken and self._is_pending(event.name):
                del self._taken[event.name]
        elif isinstance(event, Pruned):
            self.matches_end = 0  # its lines have moved
        else:
            self.pending, self.matches_end = None, event.matches_end
            self.matches += event.matches

    def _is_pending(self, name: str) -> bool:
        return self.pending is not None and self._taken[name][0] == self.pending.batch


def without_reasons(content: str, mentions: Callable[[str], bool]) -> tuple[int, str]:
    """How many refusals of a log give a reason that mentions something, and the log without these reasons.

    A line that is not valid, such as one that a kill has torn, stays, unless it mentions it.
    """
    lines = content.splitlines(keepends=True)
    cut = 0
    for number, line in enumerate(lines):
        try:
            event = _EVENT.validate_json(line)
        except ValidationError:
            if mentions(line):
                lines[number] = ""
                cut += 1
            continue
        if isinstance(event, Refused) and mentions(event.problem):
            told = event.model_copy(update={"problem": "the reason named somebody who was forgotten"})
            lines[number] = json.dumps(told.model_dump(mode="json")) + "\n"
            cut += 1
    return cut, "".join(lines)


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
