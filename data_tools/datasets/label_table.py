"""The optional CSV file in which users label their own tracks or clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.datasets.annotation_lines import read_csv_table, shown
from data_tools.datasets.problems import ProblemLog
from data_tools.errors import InputError
from data_tools.tracklet import SPLITS, Split

LABEL_COLUMNS = ("person", "clothes", "camera", "split")


@dataclass(frozen=True, slots=True)
class Label:
    """One row: empty cells are None, an empty split is gallery. ``line`` is 0 for what no row labels."""

    person: str | None = None
    clothes: str | None = None
    camera: str | None = None
    split: Split = "gallery"
    attributes: Mapping[str, str] = field(default_factory=dict)
    line: int = 0


UNLABELLED = Label()


def read_labels(
    path: Path,
    key_columns: tuple[str, ...],
    key_of: Callable[[Mapping[str, str]], str],
    log: ProblemLog,
    reserved_attributes: Collection[str] = (),
) -> dict[str, Label]:
    """The labels by what they label.

    Args:
        path: a CSV file whose header has ``key_columns`` and ``person,clothes,camera,split`` in any order;
            every other column is an attribute, set where its cell is not empty.
        key_columns: the columns that say what a row labels.
        key_of: makes the key of a row; may raise ``InputError``.
        log: gets every problem.
        reserved_attributes: names that the reader itself sets, so that no column may have them.
    """
    labels: dict[str, Label] = {}
    columns = (*key_columns, *LABEL_COLUMNS)
    for line, row in read_csv_table(path, columns, log):
        try:
            key = key_of(row)
            if key in labels:
                raise InputError(f"{key} is labelled in line {labels[key].line} already")
            taken = [name for name in row if name in reserved_attributes and name not in columns]
            if taken:
                raise InputError(f"column {taken[0]} is set by the reader itself, expected another name")
            attributes = {name: cell for name, cell in row.items() if cell and name not in columns}
            labels[key] = Label(
                row["person"] or None,
                row["clothes"] or None,
                row["camera"] or None,
                _split(row),
                attributes,
                line,
            )
        except InputError as error:
            log.error(path, line, str(error))
    return labels


def _split(row: Mapping[str, str]) -> Split:
    for split in SPLITS:
        if row["split"] == split:
            return split
    if row["split"]:
        raise InputError(f"split is {shown(row['split'])}, expected {', '.join(SPLITS)} or nothing (gallery)")
    return "gallery"


def warn_of_unused(labels: Mapping[str, Label], used: Collection[str], path: Path, what: str, log: ProblemLog) -> None:
    """Tell of rows that label nothing that was read."""
    for key, label in labels.items():
        if key not in used:
            log.warn(path, label.line, f"labels {key}, but no such {what} was read")
