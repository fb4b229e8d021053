"""The optional CSV file in which users label their own tracks or clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.text_tables import read_csv_table
from data_tools.errors import InputError
from data_tools.tracklet import SPLITS, Split
from data_tools.wording import shown

LABEL_COLUMNS = ("person", "clothes", "camera", "split")
NO_VALUE = frozenset({"nan", "none", "null", "n/a", "<na>"})
"""Values that mean an empty cell, in lower case."""
UNKNOWN = NO_VALUE | {"", "-1", "-1.0", "unknown"}
"""Values that mean an unknown person, outfit or camera, in lower case."""


@dataclass(frozen=True, slots=True)
class Label:
    """One row: unknown cells are None, an empty split is gallery. ``line`` is 0 if there is no row."""

    person: str | None = None
    clothes: str | None = None
    camera: str | None = None
    split: Split = "gallery"
    attributes: Mapping[str, str] = field(default_factory=dict)
    line: int = 0

    @property
    def is_unusable(self) -> bool:
        """Whether it is in the train split but its person is unknown."""
        return self.split == "train" and self.person is None


UNLABELLED = Label()


def read_labels(
    path: Path,
    key_columns: tuple[str, ...],
    key_of: Callable[[Mapping[str, str]], str],
    log: ProblemLog,
    reserved_attributes: Collection[str] = (),
) -> dict[str, Label]:
    """Read the labels, by key.

    Args:
        path: a CSV file whose header has ``key_columns`` and ``person,clothes,camera,split`` in any order; every other
            column is an attribute, set if its cell is not empty. Cells in ``UNKNOWN`` mean an unknown label, never a
            person of that name; they are counted in a warning.
        key_columns: the columns that identify what a row labels.
        key_of: makes the key of a row; may raise ``InputError``.
        log: gets every problem.
        reserved_attributes: attributes set by the reader, so no column may have such a name.
    """
    labels: dict[str, Label] = {}
    columns = (*key_columns, *LABEL_COLUMNS)
    unknown: Counter[tuple[str, str]] = Counter()
    for line, row in read_csv_table(path, columns, log):
        try:
            key = key_of(row)
            if key in labels:
                raise InputError(f"duplicate label for {key}, first seen in line {labels[key].line}")
            taken = [name for name in row if name in reserved_attributes and name not in columns]
            if taken:
                raise InputError(f"column {taken[0]} has a reserved name; rename it")
            attributes = {
                name: cell
                for name, cell in row.items()
                if cell and name not in columns and cell.lower() not in NO_VALUE
            }
            person, clothes, camera = (_known(row, name, unknown) for name in LABEL_COLUMNS[:3])
            labels[key] = Label(person, clothes, camera, _split(row), attributes, line)
        except InputError as error:
            log.error(path, line, str(error))
    for name in LABEL_COLUMNS[:3]:
        cells = {cell: count for (column, cell), count in unknown.items() if column == name}
        if cells:
            written = " or ".join(sorted(cells))
            log.warn(path, None, f"{sum(cells.values())} rows have {written} as {name}, treated as unknown")
    return labels


def _known(row: Mapping[str, str], name: str, unknown: Counter[tuple[str, str]]) -> str | None:
    cell = row[name]
    if cell.lower() not in UNKNOWN:
        return cell
    if cell:
        unknown[name, cell] += 1
    return None


def _split(row: Mapping[str, str]) -> Split:
    for split in SPLITS:
        if row["split"] == split:
            return split
    if row["split"] and row["split"].lower() not in NO_VALUE:
        raise InputError(f"split is {shown(row['split'])}, expected {', '.join(SPLITS)} or an empty cell (gallery)")
    return "gallery"


def warn_of_unused(labels: Mapping[str, Label], used: Collection[str], path: Path, what: str, log: ProblemLog) -> None:
    """Warn of rows that label nothing that was read."""
    for key, label in labels.items():
        if key not in used:
            log.warn(path, label.line, f"labels {key}, but no such {what} was read")


def warn_of_unusable(count: int, path: Path, what: str, log: ProblemLog) -> None:
    """Warn how many are dropped because they are in the train split and their person is unknown."""
    if count:
        log.warn(path, None, f"{count} {what}s in the train split have an unknown person and were dropped")
