"""Comparing the results of several runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ccvid.config import ReportOptions, RunOptions
from ccvid.retrieval.embedding.parquet import write_table
from ccvid.retrieval.embedding.table import EmbeddingRow, read_embeddings
from ccvid.retrieval.ranking.comparison import Comparison, QueryScores, compare, read_query_scores
from ccvid.retrieval.report.changes import RankedResult, change_view
from ccvid.retrieval.report.filmstrips import Tracklets
from ccvid.retrieval.report.mosaic import HeadHiding, read_hiding
from ccvid.retrieval.report.stored_pictures import Place, find_tracklets, open_sources, stored_thumbnails
from ccvid.retrieval.report.tables import comparison_table
from ccvid.retrieval.report.unlabelled import write_views
from ccvid.run_files import EMBEDDINGS_FILE, METRICS_FILE, QUERIES_FILE, REPORT_FOLDER
from data_tools.documents import parse_json
from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.progress import message
from data_tools.shard_cache import CacheOptions
from data_tools.storage import StorageFolder
from ray_jobs.cli import show_results

COMPARISON_FILE = "comparison.json"


def compare_results(
    sources: Sequence[StorageFolder], run: RunOptions, cache: CacheOptions, report: ReportOptions, *, name: str | None
) -> None:
    """Compare each other result with the first, and print and write the differences.

    Writes to the run's storage under ``name``. Default: SECOND-against-FIRST. Files: ``comparison.json``,
    ``comparison.txt``, ``changes.parquet`` (a row per query, protocol and other result) and, if the results have
    embeddings, ``report``: the queries that changed, with pictures if the shards still exist.

    Raises:
        InputError: a folder has no results, or two have no protocol or no query in common.
        OSError: the folder cannot be written.
    """
    if len(sources) < 2:
        raise InputError("--compare: expected at least two folders of results")
    name = name or "-and-".join(source.name for source in sources[1:]) + f"-against-{sources[0].name}"
    folder = StorageFolder(run.storage, run.patience_seconds) / name
    if folder.exists() and not folder.exists(COMPARISON_FILE):
        raise InputError(f"{folder}: contains something else; choose another --run.name")
    hiding = read_hiding(report)
    results = {str(source): _read(source) for source in sources}
    if len(results) < len(sources):
        raise InputError("--compare: duplicate folder")
    first, *others = results
    compared = {other: _compare(first, results[first], other, results[other]) for other in others}
    text = "\n\n".join(
        comparison_table(protocols, title=f"{other} against {first}") for other, protocols in compared.items()
    )
    with folder.filled(last=COMPARISON_FILE) as path:
        if tracklets := stored_tracklets(sources, cache):
            _write_pages(path / REPORT_FOLDER, first, compared, results, tracklets, hiding)
        _write(path, first, compared, text)
    message(text)
    show_results(folder)


def _read(source: StorageFolder) -> dict[str, QueryScores]:
    if not source.exists(QUERIES_FILE):
        raise InputError(f"{source}: no {QUERIES_FILE}; give folders of results of train.py or evaluate.py")
    with source.fetched(QUERIES_FILE) as path:
        return read_query_scores(path)


def _compare(
    first: str, before: Mapping[str, QueryScores], other: str, after: Mapping[str, QueryScores]
) -> dict[str, Comparison]:
    common = [name for name in before if name in after]
    if not common:
        raise InputError(f"{first} and {other}: no protocol in common")
    try:
        return {name: compare(before[name], after[name]) for name in common}
    except InputError as error:
        raise InputError(f"{first} and {other}: {error}") from None


def stored_tracklets(sources: Sequence[StorageFolder], cache: CacheOptions) -> list[tuple[EmbeddingRow, Place]]:
    """The distinct tracklets of all results, and where their frames are."""
    rows: dict[str, EmbeddingRow] = {}
    shards: set[str] = set()
    for source in sources:
        if not source.exists(EMBEDDINGS_FILE):  # scored from given distances
            continue
        with source.fetched(EMBEDDINGS_FILE) as path:
            rows.update({row.id: row for row in read_embeddings(path).rows})
        try:
            facts = parse_json(source.read(METRICS_FILE), source / METRICS_FILE)
        except (FileNotFoundError, InputError):
            facts = None
        if isinstance(facts, dict) and isinstance(facts.get("shards"), str):
            shards.add(facts["shards"])
    found = list(rows.values())
    return list(zip(found, find_tracklets(found, open_sources(shards, cache)), strict=True))


def _write_pages(
    folder: Path,
    first: str,
    compared: Mapping[str, Mapping[str, Comparison]],
    results: Mapping[str, Mapping[str, QueryScores]],
    tracklets: Sequence[tuple[EmbeddingRow, Place]],
    hiding: HeadHiding,
) -> None:
    rows = [row for row, _ in tracklets]
    shown = Tracklets.of_rows(rows, stored_thumbnails([place for _, place in tracklets], hiding))
    number_of = {row.id: number for number, row in enumerate(rows)}
    name_of = dict(zip(results, short_names(list(results)), strict=True))
    views = []
    for other, protocols in compared.items():
        for protocol, comparison in protocols.items():
            both = [RankedResult(name_of[source], results[source][protocol]) for source in (first, other)]
            name = f"{protocol} {name_of[other]}" if len(compared) > 1 else protocol
            views.append(change_view(name, comparison, (both[0], both[1]), shown, number_of))
    write_views(
        views, folder, title=f"Changes against {name_of[first]}", facts={name_of[source]: source for source in results}
    )


def short_names(places: Sequence[str]) -> list[str]:
    """The last parts of places, as many as needed to distinguish them."""
    parts = [place.rstrip("/").split("/") for place in places]
    depth = 1
    while len({tuple(path[-depth:]) for path in parts}) < len(parts):
        depth += 1
    return ["/".join(path[-depth:]) for path in parts]


def _write(folder: Path, first: str, compared: Mapping[str, Mapping[str, Comparison]], text: str) -> None:
    rows = [
        {"result": other, "protocol": protocol, "query_id": id, "change": float(change)}
        for other, protocols in compared.items()
        for protocol, comparison in protocols.items()
        for id, change in zip(comparison.ids, comparison.change_Q, strict=True)
    ]
    write_table(pa.Table.from_pylist(rows), folder / "changes.parquet")
    content = {
        "first": first,
        "compared": {
            other: {protocol: comparison.to_json() for protocol, comparison in protocols.items()}
            for other, protocols in compared.items()
        },
    }
    for file, written in (("comparison.txt", text + "\n"), (COMPARISON_FILE, json.dumps(content, indent=1) + "\n")):
        with atomic_file(folder / file) as handle:
            handle.write(written.encode())
