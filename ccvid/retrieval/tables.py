"""Retrieval results as tables: one that people read, one row a query for programs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from ccvid.retrieval.metrics import CMC_RANKS, Evaluation
from ccvid.retrieval.parquet import write_table


def metrics_table(evaluation: Evaluation, *, title: str = "Retrieval") -> str:
    """The figures of every protocol in per cent, as plain text; below, why a protocol is missing.

    ``chance`` is top-1 of a random order; ``unmatched`` queries have no match and are left out of the means.
    """
    table = Table(title=f"{title} (%)", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("protocol")
    for heading in ("mAP", "mINP", *(f"top-{rank}" for rank in CMC_RANKS), "chance", "queries", "unmatched"):
        table.add_column(heading, justify="right")
    for name, result in evaluation.results.items():
        shares = (
            result.mean_average_precision,
            result.mean_inverse_negative_penalty,
            *(result.cmc(rank) for rank in CMC_RANKS),
            result.chance,
        )
        counts = (len(result.first_match_rank_Q), result.queries_without_match)
        table.add_row(name.replace("_", "-"), *(f"{100 * share:.1f}" for share in shares), *map(str, counts))
    text = io.StringIO()
    Console(file=text, width=120, no_color=True, markup=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().rstrip().splitlines()]
    for reason in dict.fromkeys(evaluation.left_out.values()):
        names = (name.replace("_", "-") for name, why in evaluation.left_out.items() if why == reason)
        lines.append(f"  left out: {', '.join(names)} ({reason})")
    return "\n".join(lines)


def write_query_table(evaluation: Evaluation, path: Path) -> None:
    """One row a protocol and query as Parquet, whole or not at all.

    Columns: query_id, protocol (strings); average_precision, inverse_negative_penalty (float64) and
    first_match_rank (int64), null for a query without a match; and the first ``top_k`` places of its ranking,
    junk removed: gallery_ids, distances, is_match (lists). InputError where the path cannot be written.
    """
    schema = pa.schema(
        {
            "query_id": pa.string(),
            "protocol": pa.string(),
            "average_precision": pa.float64(),
            "inverse_negative_penalty": pa.float64(),
            "first_match_rank": pa.int64(),
            "gallery_ids": pa.list_(pa.string()),
            "distances": pa.list_(pa.float64()),
            "is_match": pa.list_(pa.bool_()),
        }
    )
    gallery_id = np.array(evaluation.gallery.ids, dtype=object)
    tables = []
    for name, result in evaluation.results.items():
        ranked = evaluation.ranked_gallery(name)
        present_QK = ranked.gallery_QK >= 0
        unmatched_Q = ~result.has_match
        lists = (
            [values[present].tolist() for values, present in zip(values_QK, present_QK, strict=True)]
            for values_QK in (gallery_id[ranked.gallery_QK], ranked.distance_QK, ranked.is_match_QK)
        )
        columns = (
            pa.array(evaluation.query.ids),
            pa.array([name] * len(evaluation.query)),
            pa.array(result.average_precision_Q, mask=unmatched_Q),
            pa.array(result.inverse_negative_penalty_Q, mask=unmatched_Q),
            pa.array(result.first_match_rank_Q, mask=unmatched_Q),
            *lists,
        )
        tables.append(pa.table(list(columns), schema=schema))
    write_table(pa.concat_tables(tables), path)
