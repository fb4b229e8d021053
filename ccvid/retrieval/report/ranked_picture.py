"""A picture of rankings: a few queries, each with its nearest gallery tracklets, marked right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import Evaluation, ProtocolResult
from ccvid.retrieval.report.figures import INK, QUIET, RIGHT, WRONG
from ccvid.retrieval.report.film_strip import Picture, Thumbnails, film_strip

# The layout, in inches.
STRIP = 1.2  # height of a tracklet's frames
CELL_WIDTH = 1.25  # at least, for the caption
GAP, QUERY_GAP = 0.16, 0.42
ROW_HEAD, MARK, LINE, ROW_GAP = 0.34, 0.13, 0.145, 0.2
MARGIN, HEADER = 0.35, 1.25
PAGE_WIDTH = 8.5  # at least, for the header


@dataclass(frozen=True, slots=True)
class _Cell:
    """One tracklet in the picture; ``is_match`` is None for the query."""

    strip: Picture
    lines: tuple[str, ...]
    is_match: bool | None

    @property
    def shown_width(self) -> float:
        height, width, _ = self.strip.shape
        return float(STRIP * width / height)

    @property
    def width(self) -> float:
        return max(self.shown_width, CELL_WIDTH)


@dataclass(frozen=True, slots=True)
class _Row:
    head: str
    cells: tuple[_Cell, ...]  # the query first


def draw_rankings(
    evaluation: Evaluation,
    protocol: str,
    *,
    query_thumbnails: Thumbnails,
    gallery_thumbnails: Thumbnails,
    title: str,
    queries: int = 6,
    places: int = 6,
) -> Figure:
    """Draw the first ``places`` of some queries' rankings under one protocol of ``evaluation``.

    The queries are evenly spaced from the hardest to the easiest by average precision; ``evaluate`` must have kept
    rankings (``top_k``). ``title`` names what was scored: the data set, its split, the model.
    """
    result, ranked = evaluation.results[protocol], evaluation.ranked_gallery(protocol)
    assert ranked.gallery_QK.shape[1] > 0, "evaluate() kept no rankings: give it top_k"
    rows = []
    for query in spread_queries(result, queries):
        cells = [_Cell(film_strip(query_thumbnails(query)), _caption(evaluation.query, query), None)]
        for place, gallery in enumerate(ranked.gallery_QK[query, :places].tolist()):
            if gallery >= 0:
                lines = (
                    *_caption(evaluation.gallery, gallery),
                    f"distance {ranked.distance_QK[query, place]:.3f}",
                )
                is_match = bool(ranked.is_match_QK[query, place])
                cells.append(_Cell(film_strip(gallery_thumbnails(gallery)), lines, is_match))
        rows.append(_Row(_row_head(result, query), tuple(cells)))
    return _draw(rows, title, _summary(result))


def spread_queries(result: ProtocolResult, count: int) -> list[int]:
    """At most ``count`` queries that have a match, from the lowest average precision to the highest."""
    matched = np.flatnonzero(result.has_match)
    hardest_first = matched[np.argsort(result.average_precision_Q[matched], kind="stable")]
    places = np.linspace(0, len(hardest_first) - 1, min(count, len(hardest_first)))
    return [int(query) for query in hardest_first[places.round().astype(np.int64)]]


def _caption(labels: RetrievalLabels, index: int) -> tuple[str, ...]:
    clothes = labels.clothes[index]
    outfit = () if clothes is None else (f"outfit {clothes}",)
    return f"person {labels.person[index]}", f"camera {labels.camera[index]}", *outfit


def _row_head(result: ProtocolResult, query: int) -> str:
    matches = int(np.count_nonzero(result.match_query_M == query))
    return (
        f"average precision {100 * result.average_precision_Q[query]:.1f} %"
        f" · first match at rank {result.first_match_rank_Q[query]}"
        f" · {matches} match{'es' if matches > 1 else ''} in the gallery"
    )


def _summary(result: ProtocolResult) -> tuple[str, str]:
    unmatched = result.queries_without_match
    numbers = (
        f"top-1 {100 * result.cmc(1):.1f} % (chance {100 * result.chance:.1f} %)"
        f" · mAP {100 * result.mean_average_precision:.1f} %"
        f" · mINP {100 * result.mean_inverse_negative_penalty:.1f} %"
        f" · {result.queries} queries" + (f", {unmatched} without a match" if unmatched else "")
    )
    return f"{result.protocol.name.replace('_', '-')} (a match: {result.protocol.describe()})", numbers


def _draw(rows: Sequence[_Row], title: str, summary: tuple[str, str]) -> Figure:
    columns = max(len(row.cells) for row in rows)
    widths = [max(row.cells[c].width for row in rows if c < len(row.cells)) for c in range(columns)]
    lefts = [MARGIN + sum(widths[:c]) + GAP * c + (QUERY_GAP - GAP) * (c > 0) for c in range(columns)]
    width = max(lefts[-1] + widths[-1] + MARGIN, PAGE_WIDTH)
    lines = max(len(cell.lines) for row in rows for cell in row.cells)
    row_height = ROW_HEAD + MARK + STRIP + LINE * (lines + 0.5) + ROW_GAP
    height = HEADER + row_height * len(rows) + MARGIN
    figure = Figure(figsize=(width, height), dpi=144, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    _draw_header(axes, width, title, summary)
    for number, row in enumerate(rows):
        top = HEADER + number * row_height
        axes.plot((MARGIN, width - MARGIN), (top - 0.08, top - 0.08), color="#d0d5dd", linewidth=0.8)
        _write(axes, MARGIN, top + 0.12, f"query {number + 1} · {row.head}", 8, width - 2 * MARGIN, color=QUIET)
        for place, (cell, left, cell_width) in enumerate(zip(row.cells, lefts, widths, strict=False)):
            _draw_cell(axes, cell, place, left, top + ROW_HEAD, cell_width)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _draw_header(axes: Axes, width: float, title: str, summary: tuple[str, str]) -> None:
    space = width - 2 * MARGIN
    _write(axes, MARGIN, 0.34, title, 13, space, weight="bold")
    _write(axes, MARGIN, 0.60, summary[0], 9, space)
    _write(axes, MARGIN, 0.79, summary[1], 9, space)
    _write(axes, MARGIN, 0.99, "✓ match", 9, space, color=RIGHT, weight="bold")
    _write(axes, MARGIN + 0.75, 0.99, "✗ another person", 9, space, color=WRONG, weight="bold")
    explanation = "junk removed; queries from hardest to easiest"
    _write(axes, MARGIN + 2.15, 0.99, explanation, 9, space - 2.15, color=QUIET)


def _draw_cell(axes: Axes, cell: _Cell, place: int, left: float, top: float, width: float) -> None:
    mark, color, style = {
        None: ("query", INK, "solid"),
        True: (f"{place} ✓", RIGHT, "solid"),
        False: (f"{place} ✗", WRONG, (0, (4, 1.5))),
    }[cell.is_match]
    _write(axes, left, top, mark, 9, width, color=color, weight="bold")
    top += MARK
    shown = cell.shown_width
    axes.imshow(cell.strip, extent=(left, left + shown, top + STRIP, top), aspect="auto", interpolation="none")
    frame = Rectangle((left, top), shown, STRIP, fill=False, edgecolor=color, linewidth=2.4, linestyle=style)
    axes.add_patch(frame)
    for number, line in enumerate(cell.lines):
        middle = top + STRIP + 0.15 + LINE * number
        _write(axes, left, middle, line, 7.5, width, weight="normal" if number else "bold")


def _write(
    axes: Axes,
    left: float,
    middle: float,
    text: str,
    points: float,
    width: float,
    *,
    color: str = INK,
    weight: str = "normal",
) -> None:
    """One line of text, truncated to ``width`` inches; text from data is never parsed as markup."""
    font = FontProperties(size=points, weight=weight)
    plain = shown = "".join(letter if letter.isprintable() else "�" for letter in text)[:200]
    while shown and text_to_path.get_text_width_height_descent(shown, font, ismath=False)[0] > width * 72:
        plain = plain[:-1]
        shown = plain + "…"
    axes.text(left, middle, shown, fontproperties=font, color=color, va="center", parse_math=False)
