"""What tests ask of a data set's problems."""

from __future__ import annotations

from pathlib import Path

from data_tools.datasets.problems import Dataset, Severity


def found(dataset: Dataset, severity: Severity) -> list[tuple[str, int | None, str]]:
    """File name, line and message of every problem of one severity."""
    return [(Path(p.file).name, p.line, p.message) for p in dataset.problems if p.severity == severity]
