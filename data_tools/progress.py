"""What a process tells its user: messages, what is being done, and how far it is with the time left.

All of it goes to this process's one console: plain lines on standard output, unless a job chose another.
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
"""Between the lines of a piece of work, where nothing else is said."""
TICK_SECONDS = 0.5
"""Between the records that only a live display shows."""


@dataclass(frozen=True, slots=True)
class Message:
    """A text of one or more lines that stays."""

    text: str
    transient: bool = False
    """Whether a live display leaves it out, because its progress shows the same."""


@dataclass(frozen=True, slots=True)
class State:
    """What is being done from now on."""

    text: str
    lasting: bool = False
    """Whether it stays true beside the progress that follows, as that workers train does."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is there if all ends now; replaces what was said of the same thing before."""

    thing: str
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is."""

    what: str
    done: float
    total: float
    unit: str = ""
    """Of ``done`` and ``total``."""
    place: str = ""
    """Where the work stands, in words; goes before ``what`` with ``done`` of ``total``."""
    rates: tuple[tuple[float, str], ...] = ()
    """Amounts a second with their units."""
    figures: tuple[str, ...] = ()
    seconds: float = 0.0
    """Since the work began."""
    seconds_left: float | None = None
    note: str = ""
    """What a live display shows beside it, such as the last validation."""
    within: str = ""
    """The work that this is a part of, which goes on afterwards."""
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
        """All of it but the note in one plain line."""
        left = [] if self.seconds_left is None else [f"left {clock_text(self.seconds_left)}"]
        place = self.place or f"{self.what}: {self.count}"
        return "  ".join([place, *map(rate_text, self.rates), *self.figures, *left])


News = Message | State | Kept | Progress


class Console(Protocol):
    """Shows news to somebody. It never raises for that it cannot."""

    def show(self, news: News) -> None: ...


class PlainConsole:
    """One line each on standard output, at once; for files, pipes and logs."""

    def show(self, news: News) -> None:
        if isinstance(news, Message | State):
            print(news.text, flush=True)
        elif isinstance(news, Progress) and not news.tick:
            print(news.line(), flush=True)


class _Current:
    console: Console = PlainConsole()
    kept: dict[str, str] = {}  # noqa: RUF012  # of this process, on purpose


def use_console(console: Console) -> Console:
    """Show this process's news there from now on; returns the console of before."""
    before, _Current.console = _Current.console, console
    return before


@contextmanager
def using_console(console: Console) -> Iterator[None]:
    """Show this process's news there for a while."""
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
    """Show a text that stays, see :class:`Message`; what a terminal would obey is shown as it is."""
    show(Message(printable(text), transient))


def state(text: str, *, lasting: bool = False) -> None:
    """Say what is being done from now on, see :class:`State`."""
    show(State(text, lasting))


def kept(thing: str, text: str) -> None:
    """Note what is there if all ends now, see :class:`Kept`."""
    show(Kept(thing, text))


def all_kept() -> list[str]:
    """The last word on each thing that is kept, in the order in which they were first mentioned."""
    return list(_Current.kept.values())


class Meter:
    """Counts what is done of a piece of work, and shows how far it is every few seconds and at the end.

    Args:
        total, unit: what is counted.
        work: of the whole, in whatever the time goes by; None: what is counted.
        every_seconds: between plain lines; a live display hears of it more often.
        brief: tell nothing of work that is over before the first line is due.
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
        """Count what was done, and show it if it is time to.

        Args:
            work: in what the time goes by; None: ``done``.
            counted: further amounts, by their units, whose rates are told.
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
        """How far it is."""
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
    """The time that the rest takes at the rate so far; None where nothing is done yet."""
    return max(0.0, total - done) * seconds / done if done > 0 else None


def rate_text(rate: tuple[float, str]) -> str:
    """``120 clips/s``, slow ones with a decimal."""
    amount, unit = rate
    return f"{amount:.0f} {unit}/s" if amount >= 10 else f"{amount:.1f} {unit}/s"


def clock_text(seconds: float) -> str:
    """``0:01:30``"""
    return str(timedelta(seconds=round(seconds)))
