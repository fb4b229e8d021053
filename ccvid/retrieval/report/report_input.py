"""What a report tells of: the scored retrieval, and tables and charts made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ccvid.retrieval.ranking.bootstrap import ResultIntervals
from ccvid.retrieval.ranking.distances import Distances
from ccvid.retrieval.ranking.metrics import Evaluation
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.labelled import Probability


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score from which on two tracklets are taken for the same person; ``meaning`` says what it was chosen for."""

    score: float
    interval: tuple[float, float] | None
    meaning: str


@dataclass(frozen=True, slots=True)
class ExtraFigure:
    """A chart made elsewhere: SVG text, shown as a picture, so that nothing in it can act on the page.

    ``wide`` ones take the whole width.
    """

    name: str
    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class ExtraTable:
    """A table made elsewhere: the first cell of a row names it; ``note`` says how to read it."""

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report tells.

    ``evaluation`` must have kept rankings (``top_k``): they are the places shown. ``distances`` are those that it
    came from; a score is 1 − distance. Times come from the attributes ``TIMES`` of its labels. ``intervals`` are
    by protocol.
    """

    title: str
    evaluation: Evaluation
    distances: Distances
    query_thumbnails: Thumbnails
    gallery_thumbnails: Thumbnails
    facts: Mapping[str, object] = field(default_factory=dict)
    probability: Probability | None = None
    threshold: Threshold | None = None
    intervals: Mapping[str, ResultIntervals] = field(default_factory=dict)
    figures: Sequence[ExtraFigure] = ()
    tables: Sequence[ExtraTable] = ()
