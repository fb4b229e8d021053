"""Results of several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from ccvid.config import RunOptions
from ccvid.retrieval.comparison import Comparison, QueryScores, compare, read_query_scores
from ccvid.retrieval.parquet import write_table
from ccvid.retrieval.tables import comparison_table
from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.storage import StorageFolder

QUERIES_FILE = "queries.parquet"
COMPARISON_FILE = "comparison.json"


def compare_results(sources: Sequence[StorageFolder], run: RunOptions, *, name: str | None) -> None:
    """Compare the first result with each other one, and print and write what differs.

    Under the run's storage and ``name`` (by default SECOND-against-FIRST) stand ``comparison.json``,
    ``comparison.txt`` and ``changes.parquet``, a row a query, protocol and other result.

    Raises:
        InputError: a folder holds no results, or two have no protocol or no query in common.
        OSError: the folder cannot be written.
    """
    if len(sources) < 2:
        raise InputError("--compare: two or more folders of results are compared")
    name = name or "-and-".join(source.name for source in sources[1:]) + f"-against-{sources[0].name}"
    folder = StorageFolder(run.storage, run.patience_seconds) / name
    if folder.exists() and not folder.exists(COMPARISON_FILE):
        raise InputError(f"{folder}: holds something else; name another --run.name")
    results = {str(source): _read(source) for source in sources}
    if len(results) < len(sources):
        raise InputError("--compare: a folder is named twice")
    first, *others = results
    compared = {other: _compare(first, results[first], other, results[other]) for other in others}
    text = "\n\n".join(
        comparison_table(protocols, title=f"{other} against {first}") for other, protocols in compared.items()
    )
    with folder.filled(last=COMPARISON_FILE) as path:
        _write(path, first, compared, text)
    print(text, flush=True)
    print(f"results: {folder}", flush=True)


def _read(source: StorageFolder) -> dict[str, QueryScores]:
    if not source.exists(QUERIES_FILE):
        raise InputError(f"{source}: no {QUERIES_FILE}; name folders of results, which train.py and evaluate.py write")
    with source.fetched(QUERIES_FILE) as path:
        return read_query_scores(path)


def _compare(
    first: str, before: Mapping[str, QueryScores], other: str, after: Mapping[str, QueryScores]
) -> dict[str, Comparison]:
    common = [name for name in before if name in after]
    if not common:
        raise InputError(f"{first} and {other}: no protocol is scored in both")
    try:
        return {name: compare(before[name], after[name]) for name in common}
    except InputError as error:
        raise InputError(f"{first} and {other}: {error}") from None


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
