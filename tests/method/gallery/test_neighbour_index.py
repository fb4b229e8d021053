"""The index of one part: what it finds, what its file holds, and which files are not used."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ccvid.retrieval.gallery import neighbour_index
from ccvid.retrieval.gallery.neighbour_index import HEADER_BYTES, NeighbourIndex, ready_index, usable_index
from ccvid.retrieval.gallery.search import search
from data_tools.errors import InputError


def made(rows: int = 400, dimensions: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dimensions), np.float32)


def bytes_in_index(vector: np.ndarray) -> bytes:
    """A vector as the index holds it."""
    return bytes((vector / np.linalg.norm(vector)).astype(np.float16).tobytes())


def test_nearest_rows_are_candidates() -> None:
    vector, query = made(), made(30, seed=1)
    query_C, row_C = NeighbourIndex.build(vector).candidates(query, 10)
    assert np.array_equal(query_C, np.repeat(np.arange(30), 10))
    exact = search(query, vector, 5).gallery_QK
    assert all(set(exact[number]) <= set(row_C[query_C == number]) for number in range(30))


def test_fewer_rows_than_asked_for() -> None:
    query_C, row_C = NeighbourIndex.build(made(3)).candidates(made(2, seed=1), 10)
    assert query_C.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(row_C[:3]) == [0, 1, 2]


def test_a_saved_index_finds_the_same(tmp_path: Path) -> None:
    vector, query = made(), made(30, seed=1)
    built = NeighbourIndex.build(vector)
    built.save(tmp_path / "part.usearch", vector, "model")
    opened = NeighbourIndex.open(tmp_path / "part.usearch", vector, "model")
    assert len(opened) == len(vector)
    for mine, theirs in zip(opened.candidates(query, 7), built.candidates(query, 7), strict=True):
        assert np.array_equal(mine, theirs)


def test_the_same_bytes_and_candidates_from_any_number_of_threads(tmp_path: Path) -> None:
    vector, query = made(), made(60, seed=1)
    paths = [tmp_path / name for name in "abc"]
    threads = [threading.Thread(target=ready_index, args=(path, vector, "model")) for path in paths[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ready_index(paths[2], vector, "model")
    assert len({path.read_bytes() for path in paths}) == 1
    index, found, before = ready_index(paths[0], vector, "model"), [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(index.candidates(query, 9))
    torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1])


def test_no_byte_of_a_removed_vector_stays(tmp_path: Path) -> None:
    vector, path = made(), tmp_path / "part.usearch"
    ready_index(path, vector, "model")
    assert bytes_in_index(vector[123]) in path.read_bytes()
    kept = np.delete(vector, 123, axis=0)
    index = ready_index(path, kept, "model")
    assert [file.name for file in tmp_path.iterdir()] == ["part.usearch"]
    assert bytes_in_index(vector[123]) not in path.read_bytes()
    assert bytes_in_index(vector[124]) in path.read_bytes()
    assert index.candidates(vector[124:125], 1)[1].tolist() == [123]


def damaged_content(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def half_written(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_content(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:HEADER_BYTES])


def no_index(path: Path) -> None:
    path.write_bytes(b"\x80\x04" * HEADER_BYTES)


def of_another_version(path: Path) -> None:
    content = path.read_bytes()
    header = json.loads(content[:HEADER_BYTES]) | {"usearch": "1.0"}
    path.write_bytes(json.dumps(header).encode().ljust(HEADER_BYTES) + content[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (damaged_content, r"damaged, or the index of other vectors \(content"),
        (half_written, r"damaged, or the index of other vectors \(content"),
        (without_content, f"not an index: {HEADER_BYTES} bytes"),
        (no_index, "Invalid JSON"),
        (of_another_version, r"damaged, or the index of other vectors \(usearch: '1.0' there"),
    ],
)
def test_an_unusable_file_is_refused_and_built_again(
    harm: object, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector, path = made(), tmp_path / "part.usearch"
    ready_index(path, vector, "model")
    whole = path.read_bytes()
    assert callable(harm)
    harm(path)
    with pytest.raises(InputError, match=problem) as raised:
        NeighbourIndex.open(path, vector, "model")
    assert str(path) in str(raised.value)
    harmed = path.read_bytes()
    capsys.readouterr()
    assert usable_index(path, vector, "model") is None
    assert path.read_bytes() == harmed
    assert capsys.readouterr().out == f"{raised.value}; it is not used\n"
    ready_index(path, vector, "model")
    assert capsys.readouterr().out == f"{raised.value}; it is not used\n"
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("vector", "origin", "named"),
    [
        (made(399), "model", "rows: 400 there, 399 now"),
        (made(400, 8), "model", "dimensions: 16 there, 8 now"),
        (made(seed=1), "model", "vectors: "),
        (made(), "other", "origin: 'model' there, 'other' now"),
    ],
)
def test_an_index_of_something_else_is_refused(vector: np.ndarray, origin: str, named: str, tmp_path: Path) -> None:
    ready_index(tmp_path / "part.usearch", made(), "model")
    with pytest.raises(InputError, match=rf"the index of other vectors \({named}"):
        NeighbourIndex.open(tmp_path / "part.usearch", vector, origin)


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_tools.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ready_index(tmp_path / "part.usearch", made(), "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_vector_without_a_direction_is_refused(value: float) -> None:
    vector = made()
    vector[17] = value
    with pytest.raises(InputError, match="gallery embedding row 17"):
        NeighbourIndex.build(vector)


def test_vectors_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that float16 could not hold."""
    monkeypatch.setattr(neighbour_index, "ROWS_AT_A_TIME", 7)
    vector = made(60) * (10.0 ** np.linspace(-20, 20, 60, dtype=np.float32))[:, None]
    _, row_C = NeighbourIndex.build(vector).candidates(vector * np.float32(1e6), 1)
    assert row_C.tolist() == list(range(60))
