"""Archives and tables of other programs: what is read, and one error for what cannot be read."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccvid.retrieval.ranking.distances import Distances, Floats
from ccvid.retrieval.ranking.given import MOST_REPEATED_BYTES, read_distances, read_features
from ccvid.retrieval.ranking.metrics import evaluate
from data_tools.errors import InputError

GIVEN: dict[str, Any] = {
    "distmat": np.array([[0.1, 0.2, 0.3], [0.9, 0.5, 0.8]]),
    "q_pids": np.array([7, 8]),
    "g_pids": np.array([7, 8, 7], np.uint8),
    "q_camids": np.array([1, 1]),
    "g_camids": np.array([2, 2, 3]),
}
FEATURES: dict[str, Any] = {
    **{key: value for key, value in GIVEN.items() if key != "distmat"},
    "qf": np.array([[1.0, 0.0], [0.6, 0.8]]),
    "gf": np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32),
}


class Planted:
    """When pickled, it would run code on loading."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("planted"),)


def archive(path: Path, given: dict[str, Any] = GIVEN, **changes: Any) -> Path:
    """The archive with some keys changed, or left out if None."""
    arrays = {key: value for key, value in {**given, **changes}.items() if value is not None}
    np.savez(path, **arrays)
    return path


def test_labels_of_an_archive(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "d.npz",
        q_oids=np.array(["red", ""]),
        g_oids=np.array([b"red", "blü".encode(), b""]),
        q_scale=np.array(["l", "m"]),
        g_scale=np.array(["l", "", "m"]),
        q_session=[1, 2],
        g_session=[1, 1, 2],
        note="not a label",
    )
    distances, query, gallery = read_distances(path)
    assert distances.shape == (2, 3)
    assert (query.ids, gallery.ids) == (("q0", "q1"), ("g0", "g1", "g2"))
    assert (query.person, gallery.person) == (("7", "8"), ("7", "8", "7"))
    assert (query.camera, gallery.camera) == (("1", "1"), ("2", "2", "3"))
    assert (query.clothes, gallery.clothes) == (("red", None), ("red", "blü", None))
    assert query.attributes == {"scale": ("l", "m"), "session": ("1", "2")}
    assert gallery.attributes == {"scale": ("l", None, "m"), "session": ("1", "1", "2")}


def every_pair(distances: Distances) -> Floats:
    return distances.pairs(*np.indices(distances.shape).reshape(2, -1)).reshape(distances.shape)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int32])
def test_distances_keep_their_precision(tmp_path: Path, kind: type[np.generic]) -> None:
    matrix = (1000 * np.random.default_rng(0).random((2, 3))).astype(kind)
    distances = read_distances(archive(tmp_path / "d.npz", distmat=matrix)).distances
    values = every_pair(distances)
    assert values.dtype == (kind if kind in (np.float32, np.float64) else np.float64)
    assert np.array_equal(values, matrix)


def test_features_are_compared_by_cosine(tmp_path: Path) -> None:
    distances, query, gallery = read_features(archive(tmp_path / "f.npz", FEATURES))
    values = every_pair(distances)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(values, [[0, 1, 1 - half], [0.4, 0.2, 1 - 1.4 * half]], atol=1e-7)
    assert (query.person, len(gallery)) == (("7", "8"), 3)


def test_a_table_of_features(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    columns = {
        "id": ["a", "b", "c", "d", "e"],
        "person": [1, 1, None, 2, 1],
        "camera": ["x", "y", "y", "y", "z"],
        "split": ["query", "gallery", "gallery", "gallery", "train"],
        "embedding": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [3.0, 0.0], [1.0, 0.0]],
    }
    pq.write_table(pa.table(columns), path)
    distances, query, gallery = read_features(path)
    assert (query.ids, gallery.ids) == (("a",), ("b", "d"))
    assert every_pair(distances).tolist() == [[1.0, 0.0]]
    assert evaluate(distances, query, gallery).results["general"].mean_average_precision == 0.5

    pq.write_table(pa.table({**columns, "person": pa.array([None, "1", "1", "2", "1"])}), path)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: no row of split 'query' has a person"):
        read_features(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distmat": None}, "no key distmat; found q_pids, g_pids, q_camids, g_camids"),
        ({"q_pids": None, "g_camids": None}, "no key q_pids, g_camids; found"),
        ({"distmat": np.zeros(3)}, "distmat: float64 of shape (3,), expected numbers of shape (queries, gallery)"),
        ({"distmat": np.zeros((2, 3), complex)}, "distmat: complex128 of shape (2, 3), expected numbers"),
        ({"distmat": np.array([["a"] * 3] * 2)}, "distmat: <U1 of shape (2, 3), expected numbers"),
        ({"distmat": np.full((2, 3), np.nan)}, "distmat: distance of query row 0, column 0 is nan, expected a finite"),
        ({"distmat": np.array([[0, 1, 2], [0, 1, np.inf]])}, "distmat: distance of query row 1, column 2 is inf"),
        ({"distmat": np.zeros((3, 2))}, "q_camids: labels of shape (2,), expected (3,): one per entry"),
        ({"g_camids": [1, 2, 3, 4]}, "g_camids: labels of shape (4,), expected (3,)"),
        ({"q_pids": np.ones((2, 1), int)}, "q_pids: labels of shape (2, 1), expected (2,)"),
        ({"q_pids": np.array(7)}, "q_pids: labels of shape (), expected (2,)"),
        ({"q_pids": [1.0, 2.0]}, "q_pids: float64, expected integers or text"),
        ({"g_pids": np.array([True, False, True])}, "g_pids: bool, expected integers or text"),
        ({"q_pids": ["7", "8"]}, "q_pids holds text, g_pids integers; both must be of the same kind"),
        ({"q_camids": ["1", ""], "g_camids": ["1", "2", "3"]}, "q_camids: entry 1 is empty"),
        ({"q_camids": [b"\xff", b"1"], "g_camids": ["1", "2", "3"]}, "q_camids: not UTF-8 text"),
        ({"q_oids": [1, 2]}, "no key g_oids to go with q_oids"),
        ({"g_scale": ["l", "m", "l"]}, "no key q_scale to go with g_scale"),
        ({"q_oids": [1, 2], "g_oids": [1, 2]}, "g_oids: labels of shape (2,), expected (3,)"),
        ({"q_clothes": [1, 2], "g_clothes": [1, 2, 3]}, "q_clothes: name clothes labels q_oids and g_oids"),
        (
            {"distmat": np.zeros((0, 3)), "q_pids": np.zeros(0, int), "q_camids": np.zeros(0, int)},
            "no query entries, nothing to score",
        ),
        (
            {"distmat": np.zeros((2, 0)), "g_pids": np.zeros(0, int), "g_camids": np.zeros(0, int)},
            "no gallery entries, nothing to score",
        ),
        ({"q_oids": np.array([Planted(), None]), "g_oids": [1, 2, 3]}, "q_oids holds pickled objects, which are not"),
        ({"distmat": np.array([[Planted()] * 3] * 2)}, "distmat holds pickled objects, which are not loaded"),
    ],
)
def test_bad_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "d.npz", **changes)
    with pytest.raises(InputError) as caught:
        read_distances(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gf": None}, "no key gf; found"),
        ({"gf": np.ones((3, 5))}, "query embeddings have 2 dimensions, gallery embeddings 5"),
        ({"qf": np.ones((2, 2), int)}, "query: int64 of shape (2, 2), expected floats of shape (rows, dimensions)"),
        ({"qf": np.array([[1.0, np.nan], [1.0, 1.0]])}, "query embedding row 0, column 1 is nan"),
        ({"gf": np.zeros((3, 2))}, "gallery embedding row 0: largest absolute value is 0.0, expected 1e-30"),
        ({"gf": np.ones((4, 2))}, "g_camids: labels of shape (3,), expected (4,)"),
    ],
)
def test_bad_features(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = archive(tmp_path / "f.npz", FEATURES, **changes)
    with pytest.raises(InputError) as caught:
        read_features(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    single, text, pickled, folder = (tmp_path / name for name in ("a.npy", "b.npz", "c.npz", "folder"))
    np.save(single, GIVEN["distmat"])
    text.write_text("0.1 0.2\n")
    np.save(pickled.with_suffix(".npy"), np.array([Planted()]))
    pickled.with_suffix(".npy").rename(pickled)
    folder.mkdir()
    for path, message in (
        (single, "a single array, expected a .npz archive of several"),
        (text, "not a .npz archive written by numpy.savez"),
        (pickled, "not a .npz archive written by numpy.savez"),
        (folder, "Is a directory"),
        (tmp_path / "none.npz", "No such file or directory"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}"):
            read_distances(path)
    with zipfile.ZipFile(text, "w") as members:
        for name in GIVEN:
            members.writestr(name, "text")
    with pytest.raises(InputError, match="distmat is not an array"):
        read_distances(text)


def test_damaged_archives_are_read_or_refused(tmp_path: Path) -> None:
    """Flipped and lost bytes anywhere: an InputError that names the file, or a successful read, and nothing else."""
    whole = io.BytesIO()
    np.savez_compressed(whole, **GIVEN)
    content, random, refused = whole.getvalue(), np.random.default_rng(0), []
    path = tmp_path / "d.npz"
    for trial in range(300):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 1 + trial % 4):
            damaged[place] ^= 1 << int(random.integers(8))
        if trial % 5 == 0:
            del damaged[int(random.integers(len(content))) :]
        path.write_bytes(damaged)
        try:
            read_distances(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 150
    assert [message for message in refused if not message.startswith(f"{path}: ")] == []


def test_a_small_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "d.npz", distmat=None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as made, made.open("distmat.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f8", "fortran_order": False, "shape": (2, MOST_REPEATED_BYTES // 16)}
        )
        for _ in range(MOST_REPEATED_BYTES // 2**24):
            member.write(bytes(2**24))
    with pytest.raises(
        InputError, match=r"d\.npz: its \d+ bytes unpack to 0\.3 GiB of arrays, expected at most 200 times"
    ):
        read_distances(path)


@pytest.mark.parametrize(("descr", "shape"), [("<f8", (10**12,)), ("<U40000000", (2, 3)), ("<f8", (2**40, 2**40))])
def test_a_header_that_says_more_than_there_is(tmp_path: Path, descr: str, shape: tuple[int, ...]) -> None:
    """NumPy would allocate memory for it, and fill it, before it notices that the array is not there."""
    path = archive(tmp_path / "d.npz", q_pids=None)
    with zipfile.ZipFile(path, "a") as made, made.open("q_pids.npy", "w") as member:
        np.lib.format.write_array_header_2_0(member, {"descr": descr, "fortran_order": False, "shape": shape})
        member.write(bytes(8))
    with pytest.raises(InputError, match=r"q_pids cannot be read: .* of shape .*, which its \d+ bytes cannot hold"):
        read_distances(path)


def test_keys_that_a_terminal_would_obey_are_escaped(tmp_path: Path) -> None:
    given = {**GIVEN, "q_\x1b[2J": np.array([1, 2])}
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as made:
        for name, array in given.items():
            stream = io.BytesIO()
            np.save(stream, array)
            made.writestr(f"{name}.npy", stream.getvalue())
    with pytest.raises(InputError, match=r"no key g_\\x1b\[2J to go with q_\\x1b\[2J$"):
        read_distances(tmp_path / "d.npz")
