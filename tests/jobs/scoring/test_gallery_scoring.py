"""Ranking a gallery: who is ranked for whom, filters, tables, removal, and refused input."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery import approximate_search
from ccvid.retrieval.gallery.matches import RankedMatches, write_matches
from ccvid.retrieval.gallery.part_search import keep_indexes
from ccvid.retrieval.ranking.distances import Indices
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from data_tools.tracklet import Split
from ray_jobs.scoring.entries import EntryFilter
from ray_jobs.scoring.gallery import GalleryRequest, find_queries, rank
from ray_jobs.scoring.time_limits import parse_limit

EMBEDDER = EmbedderDescription(
    model="a", dimensions=2, height=32, width=16, clip=ClipOptions(), resize_filter="bicubic", flip=False, bf16=False
)
REQUEST = GalleryRequest(
    gallery=StorageFolder("/nowhere/gallery"),
    queries=None,
    top=5,
    cameras=(),
    since=None,
    until=None,
    other_cameras=False,
    only_new=False,
)
# id, camera, split, start, end, angle of the embedding in degrees
TRACKLETS: list[tuple[str, str, Split, str, str, float]] = [
    ("ann", "east", "query", "0", "2", 0),
    ("bob", "west", "query", "5", "9", 90),
    ("g1", "east", "gallery", "0", "10", 10),
    ("g2", "west", "gallery", "11", "20", 20),
    ("g3", "west", "gallery", "", "", 60),
    ("=g4", "north", "gallery", "30", "40", 85),
]


def table(rows: list[tuple[str, str, Split, str, str, float]] = TRACKLETS) -> EmbeddingTable:
    labels = tuple(
        EmbeddingRow(
            id,
            None,
            None,
            camera,
            split,
            _times(start, end) if start else {"start_seconds": "soon"},
            1,
            "s",
        )
        for id, camera, split, start, end, _ in rows
    )
    angle = np.radians([row[5] for row in rows])
    return EmbeddingTable(
        EmbeddingRows.of(labels), np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32), EMBEDDER.fingerprint
    )


def _times(start: str, end: str) -> dict[str, str]:
    """All videos began at eight."""
    first, last = (f"2026-11-20T08:00:{int(at):02}.000+00:00" for at in (start, end))
    return {"start_seconds": start, "end_seconds": end, "start_time": first, "end_time": last}


def ranked(request: GalleryRequest, store: EmbeddingStore, added: frozenset[str] = frozenset()) -> RankedMatches:
    return rank(find_queries(request, store), store, request, added)[0]


def found(matches: RankedMatches) -> dict[str, list[str]]:
    return {
        query.id: [matches.gallery[index].id for index in indices if index >= 0]
        for query, indices in zip(matches.query, matches.gallery_QK, strict=True)
    }


@pytest.fixture(params=["one part", "a part each"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> EmbeddingStore:
    store = open_store(StorageFolder(str(tmp_path / "gallery")), EMBEDDER)
    for rows in [TRACKLETS] if request.param == "one part" else [[row] for row in reversed(TRACKLETS)]:
        store.add(table(rows))
    return store


@pytest.mark.parametrize(
    ("change", "ann", "bob"),
    [
        ({}, ["g1", "g2", "g3", "=g4"], ["=g4", "g3", "g2", "g1"]),
        ({"top": 1}, ["g1"], ["=g4"]),
        ({"cameras": ("west", "north")}, ["g2", "g3", "=g4"], ["=g4", "g3", "g2"]),
        ({"other_cameras": True}, ["g2", "g3", "=g4"], ["=g4", "g1"]),
        ({"since": 20.0}, ["g2", "=g4"], ["=g4", "g2"]),
        ({"until": 11.0}, ["g1", "g2"], ["g2", "g1"]),
        ({"since": datetime(2026, 11, 20, 8, 0, 20, tzinfo=UTC)}, ["g2", "=g4"], ["=g4", "g2"]),
        ({"until": parse_limit("2026-11-20T09:00:11+01:00")}, ["g1", "g2"], ["g2", "g1"]),
        ({"cameras": ("west",), "other_cameras": True}, ["g2", "g3"], []),
        ({"only_new": True}, ["g3"], ["g3"]),
    ],
)
def test_who_is_ranked_for_whom(
    change: dict[str, object], ann: list[str], bob: list[str], store: EmbeddingStore
) -> None:
    matches = ranked(replace(REQUEST, **change), store, frozenset({"g3"}))  # type: ignore[arg-type]
    assert found(matches) == {"ann": ann, "bob": bob}


@pytest.mark.parametrize(
    "change", [{}, {"top": 1}, {"cameras": ("west",), "other_cameras": True}, {"since": 20.0}, {"only_new": True}]
)
@pytest.mark.parametrize("indexed", [True, False])
def test_an_approximate_search_of_a_small_gallery_is_exact(
    change: dict[str, object],
    indexed: bool,
    store: EmbeddingStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(approximate_search, "LEAST_ROWS", 1)
    if indexed:
        keep_indexes(store.parts)
    request = replace(REQUEST, **change)  # type: ignore[arg-type]
    exact, approximate = (
        ranked(asked, store, frozenset({"g3"})) for asked in (request, replace(request, approximate=True))
    )
    assert found(approximate) == found(exact)
    assert np.array_equal(approximate.score_QK, exact.score_QK)
    assert f"approximate search: recall of the first {request.top} is 100.00 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({"cameras": ("north",)}, {"=g4"}),
        ({"since": parse_limit("2026-11-20T08:00:20")}, {"g2", "g3", "=g4"}),  # when g3 was is unknown
        ({"until": parse_limit("2026-11-20T08:00:11")}, {"g1", "g2", "g3"}),
        ({"only_new": True}, {"g3"}),
    ],
)
def test_parts_without_a_match_are_not_read(
    change: dict[str, object], read: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(StorageFolder(str(tmp_path / "gallery")), EMBEDDER)
    for row in TRACKLETS:
        store.add(table([row]))
    queries = find_queries(REQUEST, store)
    found: set[str] = set()
    chosen = EntryFilter.chosen

    def noted(self: EntryFilter, rows: EmbeddingRows) -> Indices:
        found.update(row.id for row in rows)
        return chosen(self, rows)

    monkeypatch.setattr(EntryFilter, "chosen", noted)
    rank(queries, store, replace(REQUEST, **change), frozenset({"g3"}))  # type: ignore[arg-type]
    assert found == read


def test_queries_that_are_left_without_an_entry_are_counted(
    store: EmbeddingStore, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked(replace(REQUEST, cameras=("west",), other_cameras=True), store)
    assert "1 of 2 queries have no tracklets to rank" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": ("south",)}, "--camera south: no such camera; the gallery has east, north, west"),
        ({"since": 50.0}, "no tracklets to rank"),
        ({"since": parse_limit("2026-11-20T08:01")}, "no tracklets to rank"),
        ({"only_new": True}, "no tracklets to rank"),
    ],
)
def test_filters_that_leave_nothing(change: dict[str, object], message: str, store: EmbeddingStore) -> None:
    with pytest.raises(InputError, match=message):
        ranked(replace(REQUEST, **change), store)  # type: ignore[arg-type]


def test_a_time_of_day_needs_start_times(tmp_path: Path) -> None:
    request = replace(REQUEST, since=parse_limit("2026-11-20T08:00"))
    timeless = store_at(tmp_path / "timeless", [(*row[:3], "", "", row[5]) for row in TRACKLETS])
    with pytest.raises(InputError, match="no tracklet has a start_time; read the footage with --data"):
        ranked(request, timeless)


@pytest.mark.parametrize("text", ["soon", "2026-13-01T08:00", ""])
def test_limits_that_are_no_time(text: str) -> None:
    with pytest.raises(InputError, match="is not a time, expected one like 2026-11-20T08:00:00"):
        parse_limit(text)


def test_no_query(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tracklets with split query"):
        find_queries(REQUEST, store_at(tmp_path / "gallery", TRACKLETS[2:]))


def store_at(folder: Path, rows: list[tuple[str, str, Split, str, str, float]]) -> EmbeddingStore:
    store = open_store(StorageFolder(str(folder)), EMBEDDER)
    store.add(table(rows))
    return store


def test_queries_of_another_gallery(tmp_path: Path) -> None:
    request = replace(REQUEST, queries=store_at(tmp_path / "wanted", TRACKLETS[:1]).folder)
    gallery = store_at(tmp_path / "gallery", TRACKLETS[1:])
    queries = find_queries(request, gallery)
    assert [row.id for row in queries.rows] == ["ann"]
    assert rank(queries, gallery, request, frozenset())[1] == 5  # its own query tracklet is an entry like any other
    strangers = open_store(StorageFolder(str(tmp_path / "other")), EMBEDDER.model_copy(update={"model": "b"}))
    stranger = table(TRACKLETS[:1])
    strangers.add(replace(stranger, model=strangers.embedder.fingerprint))
    with pytest.raises(InputError, match="embeddings of another model"):
        find_queries(replace(REQUEST, queries=strangers.folder), gallery)


def test_the_tables(tmp_path: Path) -> None:
    matches = ranked(REQUEST, store_at(tmp_path / "gallery", TRACKLETS))
    write_matches(replace(matches, probability_QK=matches.score_QK / 2 + 0.5), tmp_path)
    rows = pq.read_table(tmp_path / "matches.parquet").to_pylist()
    assert len(rows) == 8
    assert rows[0] == {
        "query_id": "ann",
        "query_camera": "east",
        "rank": 1,
        "gallery_id": "g1",
        "score": pytest.approx(np.cos(np.radians(10)), abs=1e-7),
        "probability": pytest.approx(np.cos(np.radians(10)) / 2 + 0.5, abs=1e-7),
        "camera": "east",
        "start_seconds": 0.0,
        "end_seconds": 10.0,
        "start_time": "2026-11-20T08:00:00.000+00:00",
        "end_time": "2026-11-20T08:00:10.000+00:00",
        "person": None,
    }
    assert [row["start_seconds"] for row in rows[:3]] == [0.0, 11.0, None]
    assert pa_csv.read_csv(tmp_path / "matches.csv")["gallery_id"].to_pylist() == [row["gallery_id"] for row in rows]
    write_matches(replace(matches, probability_QK=None), tmp_path)
    assert pq.read_table(tmp_path / "matches.parquet")["probability"].null_count == 8
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_matches(matches, tmp_path / "file")
