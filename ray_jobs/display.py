"""One live display of a whole job on a terminal; plain lines everywhere else."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from data_tools.progress import (
    Message,
    News,
    PlainConsole,
    Progress,
    State,
    clock_text,
    rate_text,
    using_console,
)

REFRESHES_PER_SECOND = 4


@contextmanager
def open_console() -> Iterator[None]:
    """Show this process's news on standard output: live on a terminal, else in plain lines."""
    if not is_live(sys.stdout, os.environ):
        with using_console(PlainConsole()):
            yield
        return
    # Bypass Rich's own detection, which reads environment variables set by Ray or notebooks.
    with Display(Console(highlight=False, markup=False, emoji=False)) as display, using_console(display):
        yield


def is_live(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that can show a live display, and plain text was not requested."""
    return stream.isatty() and environment.get("TERM", "") not in ("", "dumb") and not environment.get("NO_COLOR")


class Display:
    """The current activity with a bar, rates and time left; messages and finished work stay above it.

    This process's prints and warnings also go above it.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._lock = threading.Lock()
        self._state = State("")
        self._main: Progress | None = None
        self._part: Progress | None = None
        self._began = self._since = clock()
        self._spinner = Spinner("dots")
        self._live = Live(self, console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True)

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, news: News) -> None:
        if isinstance(news, Message):
            if not news.transient:
                self._above(news.text)
        elif isinstance(news, State):
            with self._lock:
                self._state, self._since = news, self._clock()
                self._main = self._part = None
        elif isinstance(news, Progress):
            self._take_up(news)
            if news.finished and not news.tick and not news.within:
                rates = "".join(f"  {rate_text(rate)}" for rate in news.rates)
                self._above(f"✓ {news.what}: {news.count}{rates}  {clock_text(news.seconds)}")

    def _take_up(self, news: Progress) -> None:
        with self._lock:
            if not self._state.lasting:
                self._state, self._since = State(""), self._began
            if news.within:
                self._part = None if news.finished else news
            else:
                self._main, self._part = None if news.finished else news, None

    def _above(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """The current content of the display."""
        with self._lock:
            state, since, main, part = self._state, self._since, self._main, self._part
        now = self._clock()
        lines: list[RenderableType] = []
        if main is not None:
            lines.append(_bar_line(main))
            lines += map(_line, packed([*map(rate_text, main.rates), *main.figures], self._console.width - 2))
            if main.note:
                lines += map(_line, packed(main.note.split("  "), self._console.width - 2))
        if part is not None:
            lines.append(_bar_line(part))
        self._spinner.update(text=_line(f"{state.text}  {clock_text(now - since)}".lstrip(), indent=""))
        lines.append(self._spinner)
        return Group(*lines)


def _bar_line(progress: Progress) -> Table:
    """Name, bar and time left on one line of the terminal's width."""
    table = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 1, None, None):
        table.add_column(no_wrap=True, ratio=ratio, overflow="ellipsis")
    left = "" if progress.seconds_left is None else f"left {clock_text(progress.seconds_left)}"
    share = progress.done / progress.total if progress.total else 1.0
    table.add_row(
        Text(f"{progress.what}  {progress.place or progress.count}"),
        ProgressBar(total=1.0, completed=share),
        Text(f"{share:.0%}"),
        Text(left),
    )
    return table


def packed(items: Iterable[str], width: int) -> list[str]:
    """The items on as few lines of the given width as possible, without breaking an item."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += "  " + item
        else:
            lines.append(item)
    return lines


def _line(text: str, indent: str = "  ") -> Text:
    return Text(indent + text, no_wrap=True, overflow="ellipsis")
