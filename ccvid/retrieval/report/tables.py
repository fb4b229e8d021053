"""Retrieval results as tables: text for people, and one row per query for programs."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from ccvid.retrieval.embedding.parquet import write_table
from ccvid.retrieval.gallery.post_processing import NOTE as POST_PROCESSING_NOTE
from ccvid.retrieval.gallery.post_processing import ProcessedScores, post_processing_rows
from ccvid.retrieval.ranking.bootstrap import ResultIntervals
from ccvid.retrieval.ranking.comparison import QUERY_SCHEMA, Comparison
from ccvid.retrieval.ranking.metrics import CMC_RANKS, Evaluation
from ccvid.retrieval.ranking.single_shot import SingleShot, SpreadResult

FIGURE_NAMES = {"map": "mAP", "minp": "mINP", "top-1": "top-1"}


def metrics_table(
    evaluation: Evaluation,
    single_shot: SingleShot | None = None,
    *,
    intervals: Mapping[str, ResultIntervals] | None = None,
    title: str = "Retrieval",
) -> str:
    """The metrics of every protocol in per cent, as plain text, with the reasons for missing protocols below.

    ``chance`` is top-1 of a random order; ``unmatched`` queries have no match and are left out of the means.
    Single-shot metrics follow in their own table, as mean ± standard deviation over the draws.
    """
    table = _table(f"{title} (%)", "chance", "queries", "unmatched")
    for name, result in evaluation.results.items():
        shares = (
            result.mean_average_precision,
            result.mean_inverse_negative_penalty,
            *(result.cmc(rank) for rank in CMC_RANKS),
            result.chance,
        )
        counts = (result.queries, result.queries_without_match)
        table.add_row(_shown(name), *(f"{100 * share:.1f}" for share in shares), *map(str, counts))
    lines = [*table_lines(table), *_left_out(evaluation.left_out)]
    if intervals:
        lines += ["", *_interval_lines(intervals)]
    if single_shot is not None:
        lines += ["", *_single_shot_lines(single_shot)]
    return "\n".join(lines)


def _interval_lines(intervals: Mapping[str, ResultIntervals]) -> list[str]:
    table = _table("95 % intervals, bootstrap over the queries' persons (%)", "persons")
    for name, found in intervals.items():
        figures = (found.mean_average_precision, found.mean_inverse_negative_penalty, *found.cmc.values())
        cells = (f"{100 * figure.low:.1f} … {100 * figure.high:.1f}" for figure in figures)
        table.add_row(_shown(name), *cells, str(found.persons))
    return table_lines(table)


def _single_shot_lines(single_shot: SingleShot) -> list[str]:
    draws = f"{single_shot.draws} draw{'s' if single_shot.draws > 1 else ''}"
    title = f"One gallery tracklet per person, {draws}"
    return [spread_table(title, single_shot.protocols), *_left_out(single_shot.left_out)]


def spread_table(title: str, protocols: Mapping[str, SpreadResult]) -> str:
    """Mean ± standard deviation of every protocol's metrics in per cent, as plain text."""
    table = _table(f"{title} (%)")
    for name, result in protocols.items():
        spreads = (result.mean_average_precision, result.mean_inverse_negative_penalty, *result.cmc.values())
        cells = (
            f"{100 * spread.mean:.1f}" + ("" if spread.sd is None else f" ± {100 * spread.sd:.1f}")
            for spread in spreads
        )
        table.add_row(_shown(name), *cells)
    return "\n".join(table_lines(table))


def comparison_table(protocols: Mapping[str, Comparison], *, title: str) -> str:
    """Each metric of both results in per cent, its change with the 95 % interval, and the p-value of the change."""
    table = Table(title=f"{title} (%)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("protocol")
    table.add_column("metric")
    for heading in ("first", "second", "change", "95 % interval", "p", "better", "worse", "queries", "persons"):
        table.add_column(heading, justify="right")
    for protocol, comparison in protocols.items():
        counts = map(str, (len(comparison.better), len(comparison.worse), len(comparison.ids), comparison.persons))
        for place, (figure, found) in enumerate(comparison.differences.items()):
            table.add_row(
                "" if place else _shown(protocol),
                FIGURE_NAMES[figure],
                *(f"{100 * share:.1f}" for share in (found.first, found.second)),
                f"{100 * found.difference.value:+.1f}",
                f"{100 * found.difference.low:+.1f} … {100 * found.difference.high:+.1f}",
                f"{found.p_value:.3f}" if found.p_value >= 0.001 else "< 0.001",
                *([""] * 4 if place else counts),
            )
    note = (
        "  better, worse: queries by average precision; interval and p: bootstrap over persons, for each row separately"
    )
    return "\n".join([*table_lines(table), note])


def post_processing_lines(found: Sequence[ProcessedScores]) -> list[str]:
    """The table for ``metrics.txt``, with a note on how to read it."""
    headings, rows = post_processing_rows(found)
    table = Table(title="Post-processing (%)", title_justify="left", box=box.SIMPLE_HEAD)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return [*table_lines(table), *(f"  {line}" for line in textwrap.wrap(POST_PROCESSING_NOTE, 118))]


def _table(title: str, *further: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("protocol")
    for heading in ("mAP", "mINP", *(f"top-{rank}" for rank in CMC_RANKS), *further):
        table.add_column(heading, justify="right")
    return table


def table_lines(table: Table) -> list[str]:
    """A table as lines of plain text."""
    text = io.StringIO()
    Console(file=text, width=180, no_color=True, markup=False).print(table)
    return [line.rstrip() for line in text.getvalue().rstrip().splitlines()]


def _left_out(left_out: Mapping[str, str]) -> list[str]:
    """One line per reason."""
    return [
        f"  left out: {', '.join(_shown(name) for name, why in left_out.items() if why == reason)} ({reason})"
        for reason in dict.fromkeys(left_out.values())
    ]


def _shown(name: str) -> str:
    return name.replace("_", "-")


def write_query_table(evaluation: Evaluation, path: Path) -> None:
    """Write one row per protocol and query that takes part in it, as Parquet, atomically.

    Columns: query_id, person, protocol (strings); average_precision, inverse_negative_penalty (float64) and
    first_match_rank (int64), null for a query without a match; and the first ``top_k`` places of its ranking,
    junk removed: gallery_ids, distances, is_match (lists). InputError if the path cannot be written.
    """
    tables = []
    for name, result in evaluation.results.items():
        ranked = evaluation.ranked_gallery(name)
        shown, place_QK = np.unique(ranked.gallery_QK, return_inverse=True)
        id_S = np.array([evaluation.gallery.ids[entry] for entry in shown.tolist()], dtype=object)
        present_QK = ranked.gallery_QK >= 0
        unmatched_Q = ~result.has_match
        lists = (
            [values[present].tolist() for values, present in zip(values_QK, present_QK, strict=True)]
            for values_QK in (id_S[place_QK], ranked.distance_QK, ranked.is_match_QK)
        )
        columns = (
            pa.array(evaluation.query.ids),
            pa.array(evaluation.query.person),
            pa.array([name] * len(evaluation.query)),
            pa.array(result.average_precision_Q, mask=unmatched_Q),
            pa.array(result.inverse_negative_penalty_Q, mask=unmatched_Q),
            pa.array(result.first_match_rank_Q, mask=unmatched_Q),
            *lists,
        )
        tables.append(pa.table(list(columns), schema=QUERY_SCHEMA).filter(pa.array(result.takes_part_Q)))
    write_table(pa.concat_tables(tables), path)
