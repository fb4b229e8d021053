"""What a process reports to its user: messages, the current activity, and progress with the time left.

All of it goes to this process's console: plain lines on standard output, unless a job chose another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from data_tools.wording import printable

LINE_SECONDS = 5.0
"""Interval between the progress lines of a piece of work."""
TICK_SECONDS = 0.5
"""Interval between the updates that only a live display shows."""


@dataclass(frozen=True, slots=True)
class Message:
    """A text of one or more lines that stays on the screen."""

    text: str
    transient: bool = False
    """Whether a live display leaves it out, because its progress bar shows the same."""


@dataclass(frozen=True, slots=True)
class State:
    """The current activity."""

    text: str
    lasting: bool = False
    """Whether it remains true while progress follows, such as "training on 2 workers"."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What remains if the process stops now; replaces the earlier text about the same thing."""

    thing: str
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work has come."""

    what: str
    done: float
    total: float
    unit: str = ""
    """Of ``done`` and ``total``."""
    place: str = ""
    """The position in the work, in words; shown instead of ``what`` with ``done`` of ``total``."""
    rates: tuple[tuple[float, str], ...] = ()
    """Amounts per second with their units."""
    figures: tuple[str, ...] = ()
    seconds: float = 0.0
    """Since the work began."""
    seconds_left: float | None = None
    note: str = ""
    """Shown beside it in a live display, for example the last validation."""
    within: str = ""
    """The larger work that this is a part of."""
    tick: bool = False
    """Whether only a live display shows it."""

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    @property
    def count(self) -> str:
        """``3/8 tracklets``"""
        return f"{self.done:g}/{self.total:g} {self.unit}".rstrip()

    def line(self) -> str:
        """Everything but the note, in one plain line."""
        left = [] if self.seconds_left is None else [f"left {clock_text(self.seconds_left)}"]
        place = self.place or f"{self.what}: {self.count}"
        return "  ".join([place, *map(rate_text, self.rates), *self.figures, *left])


News = Message | State | Kept | Progress


class Console(Protocol):
    """Shows news to the user. It never raises, even if it cannot."""

    def show(self, news: News) -> None: ...


class PlainConsole:
    """Prints each piece of news at once on standard output; for files, pipes and logs."""

    def show(self, news: News) -> None:
        if isinstance(news, Message | State):
            print(news.text, flush=True)
        elif isinstance(news, Progress) and not news.tick:
            print(news.line(), flush=True)


class _Current:
    console: Console = PlainConsole()
    kept: dict[str, str] = {}  # noqa: RUF012  # shared by the process on purpose


def use_console(console: Console) -> Console:
    """Show this process's news on ``console`` from now on; returns the previous console."""
    before, _Current.console = _Current.console, console
    return before


@contextmanager
def using_console(console: Console) -> Iterator[None]:
    """Show this process's news on ``console`` within the block."""
    before = use_console(console)
    try:
        yield
    finally:
        use_console(before)


def show(news: News) -> None:
    """Show news on this process's console."""
    if isinstance(news, Kept):
        _Current.kept[news.thing] = news.text
    _Current.console.show(news)


def message(text: str, *, transient: bool = False) -> None:
    """Show a :class:`Message`, with control characters escaped."""
    show(Message(printable(text), transient))


def state(text: str, *, lasting: bool = False) -> None:
    """Show the current activity, see :class:`State`."""
    show(State(text, lasting))


def note_kept(thing: str, text: str) -> None:
    """Record what remains if the process stops now, see :class:`Kept`."""
    show(Kept(thing, text))


def all_kept() -> list[str]:
    """The latest text on each thing that remains, in the order of first mention."""
    return list(_Current.kept.values())


class Meter:
    """Counts the progress of a piece of work, and shows it every few seconds and at the end.

    Args:
        total, unit: what is counted.
        work: total effort, in a unit proportional to time. Default: ``total``.
        every_seconds: interval between plain lines; a live display is updated more often.
        brief: print nothing if the work ends before the first line is due.
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str = "",
        *,
        work: float | None = None,
        within: str = "",
        every_seconds: float = LINE_SECONDS,
        brief: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit, self._within = what, total, unit, within
        self._work = total if work is None else work
        self._every, self._brief, self._clock = every_seconds, brief, clock
        self._done = self._worked = 0.0
        self._counted: dict[str, float] = {}
        self._started = self._line_shown = self._shown = clock()
        show(self.progress(self._started, tick=True))

    def add(self, done: float = 1, work: float | None = None, **counted: float) -> None:
        """Count what was done, and show the progress if an update is due.

        Args:
            work: effort, in the unit of the total ``work``. Default: ``done``.
            counted: further amounts, by unit, whose rates are shown.
        """
        self._done += done
        self._worked += done if work is None else work
        for unit, amount in counted.items():
            self._counted[unit] = self._counted.get(unit, 0.0) + amount
        now = self._clock()
        last, spoke = self._done >= self._total, self._line_shown > self._started
        if now - self._line_shown >= self._every or (last and (spoke or not self._brief)):
            self._line_shown = self._shown = now
            show(self.progress(now))
        elif last or now - self._shown >= TICK_SECONDS:
            self._shown = now
            show(self.progress(now, tick=True))

    def progress(self, now: float, *, tick: bool = False) -> Progress:
        """The progress at the time ``now``."""
        seconds = max(now - self._started, 1e-9)
        return Progress(
            self._what,
            self._done,
            self._total,
            self._unit,
            rates=tuple((amount / seconds, unit) for unit, amount in self._counted.items()),
            seconds=seconds,
            seconds_left=seconds_left(self._worked, self._work, seconds),
            within=self._within,
            tick=tick,
        )


def seconds_left(done: float, total: float, seconds: float) -> float | None:
    """Time for the rest at the rate so far; None if nothing is done yet."""
    return max(0.0, total - done) * seconds / done if done > 0 else None


def rate_text(rate: tuple[float, str]) -> str:
    """``120 clips/s``; rates below 10 with one decimal."""
    amount, unit = rate
    return f"{amount:.0f} {unit}/s" if amount >= 10 else f"{amount:.1f} {unit}/s"


def clock_text(seconds: float) -> str:
    """``0:01:30``"""
    return str(timedelta(seconds=round(seconds)))
