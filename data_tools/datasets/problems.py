"""Problems in a data set, found before any work starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.errors import InputError
from data_tools.tracklet import Tracklet
from data_tools.wording import cut, printable

LONGEST_MESSAGE = 1000
Severity = Literal["error", "quarantine", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. ``error`` stops the job, ``quarantine`` leaves one tracklet out, ``warning`` only informs."""

    severity: Severity
    file: str
    line: int | None
    message: str
    tracklet: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{self.severity}: {_in_one_line(place)}: {self.message}"


@dataclass(frozen=True)
class Dataset:
    """The usable tracklets, in the reader's deterministic order, and every problem found."""

    name: str
    tracklets: tuple[Tracklet, ...]
    problems: tuple[Problem, ...] = ()

    def raise_on_errors(self, *, most: int = 50) -> None:
        """Raise an ``InputError`` that lists the errors (the first ``most``, and the number of others), if any."""
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if errors:
            raise InputError(f"data set {self.name}: fix {len(errors)} error(s) first:\n" + list_problems(errors, most))


class ProblemLog:
    """Collects problems while a data set is read.

    Messages are made one line of bounded length with control characters escaped, whatever they quote.

    A damaged file can be wrong on every line, so for each file only the first ``most_per_file`` errors and as many
    warnings are kept, and the others are counted. Quarantined tracklets are all kept, because each is left out.
    """

    def __init__(self, most_per_file: int = 1000) -> None:
        self._most_per_file = most_per_file
        self._problems: list[Problem] = []
        self._counts: Counter[tuple[Severity, str]] = Counter()

    def error(self, file: Path | str, line: int | None, message: str) -> None:
        self._add_counted(Problem("error", str(file), line, _in_one_line(message)))

    def warn(self, file: Path | str, line: int | None, message: str) -> None:
        self._add_counted(Problem("warning", str(file), line, _in_one_line(message)))

    def quarantine(self, file: Path | str, line: int | None, message: str, tracklet: str) -> None:
        self._problems.append(Problem("quarantine", str(file), line, _in_one_line(message), tracklet))

    def problems(self) -> tuple[Problem, ...]:
        """All problems in the order found; then, for each file with too many, the number of others."""
        hidden = [
            Problem(severity, file, None, f"{count - self._most_per_file} more {severity}s are not listed")
            for (severity, file), count in self._counts.items()
            if count > self._most_per_file
        ]
        return (*self._problems, *hidden)

    def _add_counted(self, problem: Problem) -> None:
        self._counts[problem.severity, problem.file] += 1
        if self._counts[problem.severity, problem.file] <= self._most_per_file:
            self._problems.append(problem)


def _in_one_line(text: str) -> str:
    return cut(printable(text).replace("\n", "\\n"), LONGEST_MESSAGE)


def split_origin(origin: str) -> tuple[str, int | None]:
    """File and line of a tracklet's ``origin`` (``file:line``, or a file alone)."""
    file, colon, line = origin.rpartition(":")
    return (file, int(line)) if colon and line.isdecimal() else (origin, None)


def list_problems(problems: Iterable[Problem], most: int) -> str:
    """One line per problem, at most ``most`` of them, and a last line that counts the others."""
    lines = [f"  {problem}" for problem in problems]
    hidden = len(lines) - most
    return "\n".join(lines[:most] + ([f"  … and {hidden} more"] if hidden > 0 else []))
