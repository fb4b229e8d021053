"""What is wrong with a data set, found before any work starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from data_tools.errors import InputError
from data_tools.tracklet import Tracklet

Severity = Literal["error", "quarantine", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``error`` stops the work, ``quarantine`` leaves one tracklet out, ``warning`` only tells."""

    severity: Severity
    file: str
    line: int | None
    message: str
    tracklet: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{self.severity}: {place}: {self.message}"


@dataclass(frozen=True)
class Dataset:
    """The tracklets that can be used, in the reader's deterministic order, and every problem found."""

    name: str
    tracklets: tuple[Tracklet, ...]
    problems: tuple[Problem, ...] = ()

    def raise_on_errors(self, *, most: int = 50) -> None:
        """Raise one ``InputError`` listing the errors (the first ``most``, and how many more), if there are any."""
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if errors:
            raise InputError(
                f"data set {self.name}: {len(errors)} problem(s) must be mended first\n" + list_problems(errors, most)
            )


def list_problems(problems: Iterable[Problem], most: int) -> str:
    """One line a problem, at most ``most`` of them, and a last line that counts the rest."""
    lines = [f"  {problem}" for problem in problems]
    hidden = len(lines) - most
    return "\n".join(lines[:most] + ([f"  … and {hidden} more"] if hidden > 0 else []))
