"""Test helpers for a data set's problems."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from data_tools.datasets.problems import Dataset, Severity
from data_tools.tracklet import ImageFrames
from tests.data.made_footage import FRAMES, HEIGHT, WIDTH


def found(dataset: Dataset, severity: Severity) -> list[tuple[str, int | None, str]]:
    """File name, line and message of every problem of one severity."""
    return [(Path(p.file).name, p.line, p.message) for p in dataset.problems if p.severity == severity]


def assert_contract_holds(dataset: Dataset, root: Path) -> None:
    """Check what the readers promise for every tracklet and problem, whatever the input."""
    for problem in dataset.problems:
        str(problem).encode()
        assert "\x1b" not in problem.message, "nothing that a terminal would obey"
    for tracklet in dataset.tracklets:
        source = tracklet.source
        paths = [source.folder] if isinstance(source, ImageFrames) else [source.video]
        if isinstance(source, ImageFrames):
            paths += [source.folder / name for name in source.names]
        elif source.frames is not None and source.boxes is not None:
            assert len(source.frames) == len(source.boxes) > 0
            assert all(0 <= a < b < FRAMES for a, b in pairwise(source.frames))
            for x, y, w, h in source.boxes:
                assert min(x, y) >= 0
                assert w >= 1
                assert h >= 1
                assert x + w <= WIDTH + 1e-9
                assert y + h <= HEIGHT + 1e-9
        assert all(path.resolve().is_relative_to(root.resolve()) for path in paths)
        labels = [tracklet.id, tracklet.person or "", tracklet.clothes or "", tracklet.camera]
        text = "".join([*labels, *tracklet.attributes, *tracklet.attributes.values()])
        text.encode()
        assert all(ord(character) >= 32 or character == "\t" for character in text), "no control characters"
