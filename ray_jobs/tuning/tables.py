"""The output of a search: a table while it runs, and the results at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ccvid.config import TrainOptions
from data_tools.progress import clock_text, message, seconds_left
from ray_jobs.tuning.records import SearchRecords, State, TrialRecord

EVERY_SECONDS = 10.0


class RunningTable:
    """Prints the progress of the search and its running trials every few seconds. Plain text, also on a terminal.

    Args:
        name: name of the search.
        count: total number of trials.
        at_once: number of concurrent trials.
    """

    def __init__(self, records: SearchRecords, train: TrainOptions, *, name: str, count: int, at_once: int) -> None:
        self._records, self._train, self._name, self._count, self._at_once = records, train, name, count, at_once
        self._printed = time.monotonic()
        self._shown: str | None = None

    def show(self) -> None:
        """Print the table if an update is due and anything has changed."""
        if time.monotonic() - self._printed < EVERY_SECONDS:
            return
        self._printed = time.monotonic()
        text = self.text()
        if text != self._shown:
            self._shown = text
            message(text)

    def text(self) -> str:
        trials, train = self._records.trials, self._train
        by_state: dict[State, int] = {}
        for record in trials:
            by_state[record.state] = by_state.get(record.state, 0) + 1
        states = ", ".join(f"{count} {state}" for state, count in by_state.items())
        lines = [f"search {self._name}: {states or 'starting'} of {self._count} trials; {self._left()} left"]
        running = [record for record in trials if record.state == "running"]
        if running:
            rows = [
                (record.name, f"{record.epoch}/{record.epochs}", _percent(record.score), _percent(record.best_score),
                 _clock(_seconds_left(record)))
                for record in running
            ]  # fmt: skip
            lines += text_table(("running", "epoch", "mAP", "best", "left"), rows, indent="  ")
        best = self._records.best(train)
        if best is not None:
            lines.append(
                f"  best so far: {best.name} with {_percent(best.counted_score(train))} at {_progress(best)}: "
                + shown_values(best.values)
            )
        return "\n".join(lines)

    def _left(self) -> str:
        """Time left for the search, estimated from ended trials or, if there are none, from running ones."""
        trials = self._records.trials
        lengths = [record.seconds for record in trials if record.state in ("finished", "stopped")]
        running = [_seconds_left(record) for record in trials if record.state == "running"]
        known = [seconds for seconds in running if seconds is not None]
        if not lengths:
            lengths = [record.seconds + left for record in trials if (left := _seconds_left(record)) is not None]
        if not lengths:
            return "unknown time"
        mean = sum(lengths) / len(lengths)
        to_come = self._count - len(trials) + sum(record.state == "waiting" for record in trials)
        unknown = len(running) - len(known)
        seconds = (sum(min(left, mean) for left in known) + (to_come + unknown) * mean) / self._at_once
        return _clock(max(seconds, *known) if known and not to_come else seconds)


def results_table(records: SearchRecords, train: TrainOptions, title: str) -> str:
    """All trials, best first."""
    names = list(records.trials[0].values)
    rows = [
        (
            *(str(place), record.name, record.state, f"{record.epoch}/{record.epochs}"),
            *(_percent(record.score), _percent(record.best_score), _clock(record.seconds)),
            *(shown_value(record.values[name]) for name in names),
            record.reason or "",
        )
        for place, record in enumerate(records.ranked(train), 1)
    ]
    head = ("", "trial", "state", "epoch", "mAP", "best", "time", *_short(names), "")
    counted = "its best" if train.test_weights == "best" else "the last"
    note = f"mAP: clothes-changing, on held-out training identities, at the last validation; {counted} one counts."
    return "\n".join([title, note, "", *text_table(head, rows)])


def _short(names: Sequence[str]) -> list[str]:
    """The names without their sections, if they remain unique."""
    ends = [name.rpartition(".")[2] for name in names]
    return [end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Lines with aligned columns, numbers to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if rows and rows[0][column][:1].isdecimal() else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return (indent + "  ".join(cells)).rstrip()

    return [line(head), *(line(row) for row in rows)]


def shown_values(values: dict[str, Any]) -> str:
    """``optim.learning_rate 0.00035, batch.clips 4``"""
    return ", ".join(f"{name} {shown_value(value)}" for name, value in values.items())


def shown_value(value: object) -> str:
    """The value as text, floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _progress(record: TrialRecord) -> str:
    return f"epoch {record.epoch} of {record.epochs}"


def _seconds_left(record: TrialRecord) -> float | None:
    return seconds_left(record.epoch, record.epochs, record.seconds)


def _percent(score: float | None) -> str:
    return "–" if score is None else f"{score:.1%}"


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else clock_text(seconds)
