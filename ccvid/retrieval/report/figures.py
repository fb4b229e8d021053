"""The look of every chart, and the one way to write one: the same figure always gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_tools.errors import InputError
from data_tools.files import atomic_file

RIGHT, WRONG, INK, QUIET = "#1a7f37", "#b42318", "#1f2a44", "#667085"
COLORS = ("#2f86c8", "#d9741a", "#1d9a72", "#b35fa0", "#8a8f98", "#c9493f", "#9a8a00")

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # labels from data are not formulas
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
}
"""For ``rc_context`` around the drawing of a chart."""
_INLINE_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, accessible and in the page's colour
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans", "sans-serif"],
}


def legend_below(figure: Figure, panels: Sequence[Axes], columns: int = 2) -> None:
    """One legend below all panels."""
    entries = [entry for axes in panels for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    lines, labels = zip(*entries, strict=True)
    figure.legend(lines, labels, loc="outside lower center", ncols=columns, fontsize=8)


def save_figure(figure: Figure, path: Path) -> None:
    """Write SVG or PNG by the suffix, atomically."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            _write(figure, file, path.suffix.removeprefix("."))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def svg_of(figure: Figure) -> bytes:
    """The figure as an SVG file, its letters as shapes."""
    content = io.BytesIO()
    _write(figure, content, "svg")
    return content.getvalue()


def inline_svg(figure: Figure, name: str) -> str:
    """An ``<svg>`` element for a page, in the page's text colour, so that it follows dark mode.

    ``name`` makes its ids differ from those of other charts on the page.
    """
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({**_INLINE_STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _write(figure: Figure, file: IO[bytes], kind: str) -> None:
    with rc_context({"svg.hashsalt": "ccvid", "image.composite_image": False}):
        if kind == "svg":
            figure.savefig(file, format=kind, metadata={"Date": None})
        else:  # higher compression would take longer than drawing
            figure.savefig(file, format=kind, metadata={"Software": None}, pil_kwargs={"compress_level": 1})
