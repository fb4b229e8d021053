"""The findings of the parts of `bench_gpu`: rows with their targets, kept as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finding; ``verdict`` is met, MISSED, FAILED, or empty if there is no target."""

    part: str
    what: str
    value: float | None
    shown: str
    aim: str = ""
    verdict: str = ""


class Results:
    """The rows of one part: printed at once, and appended to a file that a process killed later leaves behind.

    ``judge_speed``: whether aims of speed apply: at full size on a GPU. Those of exactness always do.
    """

    def __init__(self, part: str, file: Path, *, judge_speed: bool) -> None:
        self._part, self._file, self._judge_speed = part, file, judge_speed
        self.failed = False

    def fact(self, what: str, value: float, form: str = "{:.3g}") -> None:
        self._keep(Row(part=self._part, what=what, value=value, shown=form.format(value)))

    def note(self, what: str, text: str) -> None:
        self._keep(Row(part=self._part, what=what, value=None, shown=text))

    def at_least(self, what: str, value: float, aim: float, form: str = "{:.2f}") -> None:
        """A speed, or a share of one."""
        verdict = ("met" if value >= aim else "MISSED") if self._judge_speed else ""
        self._keep(self._row(what, value, form, f"≥ {form.format(aim)}", verdict))

    def at_most(self, what: str, value: float, aim: float, form: str = "{:.2f}") -> None:
        """A share of a speed, or of the card's memory."""
        verdict = ("met" if value <= aim else "MISSED") if self._judge_speed else ""
        self._keep(self._row(what, value, form, f"≤ {form.format(aim)}", verdict))

    def error(self, what: str, value: float, tolerance: float) -> None:
        """A numerical error; judged on every machine."""
        verdict = "met" if value <= tolerance else "MISSED"  # NaN misses
        self._keep(self._row(what, value, "{:.1e}", f"≤ {tolerance:.0e}", verdict))

    def equal(self, what: str, same: bool) -> None:
        """Whether two results are equal to the last digit; judged on every machine."""
        shown, verdict = ("equal", "met") if same else ("DIFFERENT", "MISSED")
        self._keep(
            Row(part=self._part, what=what, value=float(same), shown=shown, aim="to the last digit", verdict=verdict)
        )

    def holds(self, what: str, does: bool) -> None:
        """A condition that must hold on every machine."""
        verdict = "met" if does else "MISSED"
        self._keep(
            Row(
                part=self._part, what=what, value=float(does), shown="yes" if does else "NO", aim="yes", verdict=verdict
            )
        )

    def failure(self, what: str, reason: str) -> None:
        """Something that could not be measured; it changes the exit code."""
        self.failed = True
        self._keep(Row(part=self._part, what=what, value=None, shown=reason, verdict="FAILED"))

    def _row(self, what: str, value: float, form: str, aim: str, verdict: str) -> Row:
        return Row(part=self._part, what=what, value=value, shown=form.format(value), aim=aim, verdict=verdict)

    def _keep(self, row: Row) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print("  ", *(text for text in (row.what + ":", row.shown, row.aim, row.verdict) if text), flush=True)


def read_rows(file: Path) -> list[Row]:
    """The rows that a part has kept so far."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines()
    return [Row(**json.loads(line)) for line in lines]


def reason_of(error: BaseException) -> str:
    """An exception in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:200]


def print_table(rows: Sequence[Row]) -> None:
    print("\n| part | what | found | aim | |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.part} | {row.what} | {row.shown} | {row.aim} | {row.verdict} |")


def write_json(file: Path, facts: dict[str, str], rows: Sequence[Row]) -> None:
    """The same as a file: the machine's details and the rows."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.part")
    unfinished.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    unfinished.replace(file)
