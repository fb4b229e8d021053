"""Searching a gallery part by part gives what one search of the whole gives, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery import approximate_search
from ccvid.retrieval.gallery.part_search import FoundEntries, keep_indexes, recall_of, search_part
from data_tools.errors import InputError
from data_tools.storage import StorageFolder


def table(count: int, seed: int, name: str = "g") -> EmbeddingTable:
    """Few different directions, so that many scores are equal; ids in an order of their own."""
    random = np.random.default_rng(seed)
    directions = random.integers(-1, 2, (12, 3)).astype(np.float32)
    directions[~directions.any(axis=1)] = 1
    ids = sorted(f"{name}{number}" for number in random.permutation(10 * count)[:count])
    rows = EmbeddingRows.of(EmbeddingRow(id, None, None, f"c{len(id)}", "gallery", {}, 1, "s") for id in ids)
    return EmbeddingTable(rows, directions[random.integers(0, 12, count)], "m")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("exclude", [("id",), ("id", "camera")])
def test_any_parts_in_any_order(seed: int, exclude: tuple[str, ...]) -> None:
    gallery, random, k = table(60, seed), np.random.default_rng(seed), 7
    queries = gallery.take(np.sort(random.permutation(60)[:9]))
    whole = search_part(queries, gallery, k, exclude=exclude)
    part_N = random.integers(0, 5, 60)
    parts = [gallery.take(np.flatnonzero(part_N == part)) for part in random.permutation(6)]
    found = FoundEntries.none(9, k)
    for part in parts:
        found = search_part(queries, part, k, exclude=exclude).merged(found)
    at_once = FoundEntries.none(9, k)
    for part in parts:  # what is found elsewhere spares a search, and changes nothing
        at_once = search_part(queries, part, k, exclude=exclude, found=at_once)
    assert at_once.rows == found.rows == whole.rows
    assert np.array_equal(at_once.nearest.gallery_QK, whole.nearest.gallery_QK)
    assert np.array_equal(at_once.nearest.score_QK, whole.nearest.score_QK)
    assert np.array_equal(found.nearest.gallery_QK, whole.nearest.gallery_QK)
    assert np.array_equal(found.nearest.score_QK, whole.nearest.score_QK)
    assert EmbeddingTable.joined(parts).rows == gallery.rows
    assert np.array_equal(EmbeddingTable.joined(parts).embedding_ND, gallery.embedding_ND)


def test_fewer_entries_than_asked_for() -> None:
    gallery = table(3, 0)
    found = search_part(gallery, gallery, 5).merged(FoundEntries.none(3, 5))
    assert (found.nearest.gallery_QK >= 0).sum(axis=1).tolist() == [2, 2, 2]
    assert np.isneginf(found.nearest.score_QK[:, 2:]).all()


def test_an_id_in_two_parts() -> None:
    gallery = table(3, 0)
    found = search_part(table(2, 1, "q"), gallery, 3)
    with pytest.raises(InputError, match=r"duplicate tracklet id 'g.*', found in two parts"):
        found.merged(found)


def test_recall_is_the_share_of_exact_entries_found() -> None:
    gallery, queries = table(60, 0), table(9, 1, "q")
    exact, found = search_part(queries, gallery, 4), search_part(queries, gallery.take(range(0, 60, 2)), 4)
    asked = np.array([7, 2, 3])
    part = search_part(queries.take(asked), gallery, 4)
    ids = [
        [{side.rows[number].id for number in row} for row in side.nearest.gallery_QK.tolist()]
        for side in (exact, found)
    ]
    hits = [len(ids[0][query] & ids[1][query]) / 4 for query in asked.tolist()]
    assert recall_of(found, part, asked) == pytest.approx(np.mean(hits))
    assert recall_of(exact, part, asked) == 1
    assert recall_of(FoundEntries.none(9, 4), part, asked) == 0
    assert recall_of(exact, FoundEntries.none(3, 4), asked) == 1


def test_indexes_are_kept_beside_parts_and_deleted_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate_search, "LEAST_ROWS", 20)
    parts = PartFolder(StorageFolder(str(tmp_path)), "m", 3)
    tables = [table(30, 0, "a"), table(30, 1, "b"), table(10, 2, "c")]
    for one in tables:
        parts.write(one)
    keep_indexes(parts)

    def indexes() -> dict[str, int]:
        return {path.stem: path.stat().st_mtime_ns for path in tmp_path.glob("*.usearch")}

    large = [name for name, part in parts.each() if len(part) == 30]
    before = indexes()
    assert sorted(before) == sorted(Path(name).stem for name in large)
    with parts.writing():
        parts.replace(large[:1], next(part.table for name, part in parts.each() if name == large[0]).take(range(1, 30)))
    assert list(indexes()) == [Path(large[1]).stem]
    keep_indexes(parts)
    assert indexes().items() > {(Path(large[1]).stem, before[Path(large[1]).stem])}
    assert len(indexes()) == 2
    (tmp_path / "part-0.usearch").write_bytes(b"of a part that a killed writer had deleted")
    with parts.writing():
        parts.remove_leftovers()
        assert len(indexes()) == 2
        parts.replace(parts.names(), tables[0].take([]))
    assert parts.names() == []
    assert indexes() == {}
