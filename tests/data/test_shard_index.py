"""The index of a data set: it opens without reading the shards, agrees with them, and is refused where it does not."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.files import sha256_of
from data_tools.manifest import INDEX_NAME, MANIFEST_NAME, ShardEntry, read_manifest
from data_tools.shard_index import INDEX_SCHEMA, ShardRows, pack_index, parse_index, read_index, write_index
from data_tools.shards import ShardFolder, index_parts, index_shard, verify_shard
from data_tools.storage import StorageFolder
from tests.data.test_shards import contents, small, walk
from tests.made_shards import make_shards

TRACKLETS, FRAMES = 6, 5
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    manifest = make_shards(walk(root, TRACKLETS, FRAMES), root / "shards", small(shard_mebibytes=0.003))
    assert len(manifest.shards) > 2
    return root / "shards"


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    change(manifest)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def seal(folder: Path) -> None:
    """Make the manifest fit the index that lies there."""
    path = folder / INDEX_NAME
    fitting = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    change_manifest(folder, lambda manifest: manifest["index"].update(fitting))


def rewrite(folder: Path, change: Callable[[Rows], object], *, compression: str | None = None) -> None:
    """Change rows of the index, and the manifest to fit."""
    rows = pa.ipc.open_file((folder / INDEX_NAME).read_bytes()).read_all().to_pylist()
    change(rows)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(folder / INDEX_NAME, INDEX_SCHEMA, options=options) as writer:
        writer.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA))
    seal(folder)


def verify(folder: Path) -> int:
    place = StorageFolder(str(folder))
    manifest = read_manifest(place)
    parts = zip(manifest.shards, index_parts(place, manifest), strict=True)
    return sum(verify_shard(place, entry, manifest.image_size, frames=True, index=part) for entry, part in parts)


def test_columns_say_what_the_tracklets_are(made: Path, tmp_path: Path) -> None:
    rows, tracklets = ShardFolder(made).rows, walk(tmp_path, TRACKLETS, FRAMES).tracklets
    assert rows.values("id") == [tracklet.id for tracklet in tracklets]
    assert rows.values("clothes") == [tracklet.clothes for tracklet in tracklets]
    assert rows.attribute("scale").to_pylist() == ["l"] * TRACKLETS
    assert rows.attribute("location").to_pylist() == [None] * TRACKLETS
    np.testing.assert_array_equal(rows.frame_count_N, [FRAMES] * TRACKLETS)
    np.testing.assert_array_equal(rows.is_in("split", ["train"]), [number % 2 == 1 for number in range(TRACKLETS)])
    assert rows.is_known("person").all()
    places = [(row.shard, row.batch) for row in rows]
    assert places == sorted(places)
    assert {shard for shard, _ in places} == set(range(len(read_manifest(StorageFolder(str(made))).shards)))
    chosen = rows.take([4, 0])
    assert [chosen[0], chosen[1]] == [rows[4], rows[0]] == list(chosen)
    assert ShardRows.of(rows) == rows
    assert ShardRows.of(rows[:3]) == rows[:3] != rows[3:]
    assert rows[-1] == list(rows)[-1]


def test_opening_does_not_read_the_shards(shards: Path) -> None:
    """With nothing but zeros in them, the rows are there; the first use of one names its shard."""
    whole = ShardFolder(shards)
    for entry in whole.manifest.shards:
        (shards / entry.file).unlink()  # the open data set keeps what it has mapped
        (shards / entry.file).write_bytes(bytes(entry.size_bytes))
    store = ShardFolder(shards)
    assert store.rows == whole.rows
    assert store.rows[2].id == "walk/2"
    assert store.fingerprint(2) == whole.fingerprint(2)
    with pytest.raises(InputError, match=rf"{store.manifest.shards[store.rows[2].shard].file}: not a readable Arrow"):
        store.frame_index(2)
    assert whole.encoded_frames(2, [0])[0].size > 100


def frame_sizes(store: ShardFolder) -> list[int]:
    return [frame.size for row in range(len(store.rows)) for frame in store.encoded_frames(row, range(FRAMES))]


def test_a_process_is_sent_the_folder_alone(made: Path) -> None:
    store = ShardFolder(made)
    sent = pickle.dumps(store)
    assert len(sent) < 300
    copy: ShardFolder = pickle.loads(sent)
    assert copy.rows == store.rows
    assert frame_sizes(copy) == frame_sizes(store)


def forget_index(folder: Path) -> None:
    """As an earlier version made it."""
    (folder / INDEX_NAME).unlink()
    change_manifest(folder, lambda manifest: (manifest.pop("index"), manifest.update(format_version=1)))


def test_shards_of_earlier_versions_are_read_row_by_row(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ShardFolder(shards)
    assert capsys.readouterr().out == ""
    forget_index(shards)
    old = ShardFolder(shards)
    said = capsys.readouterr().out
    assert f"{shards}: made by an earlier version, without an index" in said
    assert f"{TRACKLETS} tracklets in 0.0 s; ray_jobs/shard.py --index adds it" in said
    assert old.rows == new.rows
    assert [old.fingerprint(row) for row in range(TRACKLETS)] == [new.fingerprint(row) for row in range(TRACKLETS)]
    assert frame_sizes(old) == frame_sizes(new)
    assert verify(shards) == TRACKLETS * FRAMES


def test_an_index_made_later_is_the_one_made_at_first(shards: Path, made: Path) -> None:
    forget_index(shards)
    place = StorageFolder(str(shards))
    entries = read_manifest(place).shards
    entry = write_index([index_shard(place, shard) for shard in entries], entries, place)
    assert entry == read_manifest(StorageFolder(str(made))).index
    assert (shards / INDEX_NAME).read_bytes() == (made / INDEX_NAME).read_bytes()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "listed in the manifest but missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), r"\d+ bytes, expected \d+; make it again .* --index"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"p2", b"p1")), r"SHA-256 .*…, expected .* --index"),
    ],
)
def test_a_changed_index_is_refused(shards: Path, damage: Callable[[Path], object], expected: str) -> None:
    damage(shards / INDEX_NAME)
    with pytest.raises(InputError, match=rf"^{shards / INDEX_NAME}: {expected}"):
        ShardFolder(shards)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows.pop(), "5 rows, expected the 6 of its shards"),
        (lambda rows: rows[3].update(camera=None), "row 3: no camera"),
        (lambda rows: rows[1].update(frame_count=None), "row 1: no frame_count"),
        (
            lambda rows: rows[2].update(split="\x1btest"),
            r"row 2 \('walk/2'\): split '\\x1btest', expected one of train",
        ),
        (lambda rows: rows[4].update(frame_count=0), r"row 4 \('walk/4'\): 0 frames, expected at least 1"),
        (lambda rows: rows[0].update(frame_count=6), r"\d+ frames of shard-00000.arrow, expected \d+ in \d+ bytes"),
    ],
)
def test_an_index_that_cannot_be_right_is_refused(
    shards: Path, change: Callable[[Rows], object], expected: str
) -> None:
    rewrite(shards, change)
    with pytest.raises(InputError, match=rf"^{shards / INDEX_NAME}: {expected}"):
        ShardFolder(shards)


def test_more_frames_than_a_shard_has_bytes_for_are_refused(shards: Path) -> None:
    """Who trusted the number would ask for memory for so many clips before the shard is read."""
    rewrite(shards, lambda rows: rows[0].update(frame_count=2**31 - 1))
    extra = 2**31 - 1 - FRAMES
    change_manifest(
        shards, lambda manifest: manifest["shards"][0].update(frames=manifest["shards"][0]["frames"] + extra)
    )
    with pytest.raises(InputError, match=rf"^{shards / INDEX_NAME}: \d+ frames of shard-00000.arrow"):
        ShardFolder(shards)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_index_is_refused(shards: Path, compression: str) -> None:
    rewrite(shards, lambda rows: rows[0].update(camera="c" * 1000), compression=compression)
    with pytest.raises(InputError, match=rf"^{shards / INDEX_NAME}: is compressed, expected an uncompressed"):
        ShardFolder(shards)


def test_other_columns_are_refused(shards: Path) -> None:
    shutil.copyfile(shards / "shard-00000.arrow", shards / INDEX_NAME)
    seal(shards)
    with pytest.raises(InputError, match=rf"^{shards / INDEX_NAME}: its columns are .*'frames'.* expected"):
        ShardFolder(shards)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"person": "p9"}, "row 3: person 'p9', but {shard}: tracklet {batch} has 'p1'"),
        ({"id": "walk/5"}, "row 3: id 'walk/5', but {shard}: tracklet {batch} has 'walk/3'"),
        ({"clothes": None}, "row 3: clothes None, but {shard}: tracklet {batch} has '1'"),
        ({"split": "query"}, "row 3: split 'query', but {shard}: tracklet {batch} has 'train'"),
        ({"attributes": [("scale", "m")]}, "row 3: attributes .*'m'.*, but {shard}: tracklet {batch} has .*'l'"),
    ],
)
def test_an_index_that_disagrees_with_a_shard_is_found_at_the_row(
    shards: Path, change: dict[str, Any], expected: str
) -> None:
    rewrite(shards, lambda rows: rows[3].update(change))
    store = ShardFolder(shards)
    place = store.rows[3]
    shard = store.manifest.shards[place.shard].file
    message = expected.format(shard=shards / shard, batch=place.batch)
    for use in (store.frame_index, lambda row: store.encoded_frames(row, [0])):
        with pytest.raises(InputError, match=rf"^{shards / INDEX_NAME}: {message}"):
            use(3)
    assert len(store.frame_index(2)) == FRAMES
    in_shard = message.replace("row 3", f"{shard}: row {place.batch}")
    with pytest.raises(InputError, match=rf"^{shards / INDEX_NAME}: {in_shard}"):
        verify(shards)


def test_the_index_of_another_data_set_is_found(shards: Path, tmp_path: Path) -> None:
    """Equal in every count: other cameras alone."""
    other = walk(tmp_path, TRACKLETS, FRAMES)
    rewrite(shards, lambda rows: [row.update(id=f"other/{row['id']}") for row in rows])
    assert len(ShardFolder(shards).rows) == len(other.tracklets)
    with pytest.raises(InputError, match=r"row 0: id 'other/walk/0', but .*shard-00000.arrow: tracklet 0 has 'walk/0'"):
        ShardFolder(shards).encoded_frames(0, [0])


def test_frame_counts_exchanged_between_rows_are_found(tmp_path: Path) -> None:
    make_shards(walk(tmp_path, 3, FRAMES), tmp_path / "shards", small())
    rewrite(tmp_path / "shards", lambda rows: (rows[0].update(frame_count=4), rows[1].update(frame_count=6)))
    with pytest.raises(InputError, match=r"row 1: frame_count 6, but .*shard-00000.arrow: tracklet 1 has 5"):
        ShardFolder(tmp_path / "shards").encoded_frames(1, [5])


def test_an_index_killed_before_its_manifest_is_written_again(made: Path, tmp_path: Path) -> None:
    """A half-written data set with an index of something else ends with the same bytes."""
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / INDEX_NAME).write_bytes(b"of an earlier run")
    make_shards(walk(made.parent, TRACKLETS, FRAMES), folder, small(shard_mebibytes=0.003))
    assert contents(folder) == contents(made)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(made: Path, data: st.DataObject) -> None:
    """Even if a manifest vouches for them."""
    content = bytearray((made / INDEX_NAME).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([1, 1, 4, 8]))
        content[place : place + length] = data.draw(st.binary(min_size=length, max_size=length))
    try:
        rows = parse_index(pa.py_buffer(bytes(content)), "index", read_manifest(StorageFolder(str(made))).shards)
    except InputError as error:
        if not str(error).startswith("index: "):
            raise AssertionError("the message names no file") from error
        return
    assert len(list(rows)) == len(rows) == TRACKLETS
    assert sum(row.frame_count for row in rows) == TRACKLETS * FRAMES
    assert ShardRows.of(rows).take([5, 0])[0] == rows[5]


def test_a_shard_of_which_nothing_could_be_read(tmp_path: Path) -> None:
    empty = ShardEntry(file="shard-00000.arrow", rows=0, frames=0, size_bytes=100, sha256="0" * 64)
    part = pack_index(ShardRows.of([]))
    entry = write_index([part, part], [empty, empty], StorageFolder(str(tmp_path)))
    assert len(read_index(tmp_path / INDEX_NAME, entry, [empty, empty])) == 0


def test_no_tracklet_at_all() -> None:
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, INDEX_SCHEMA):
        pass
    rows = parse_index(pa.py_buffer(stream.getvalue()), "index", [])
    assert (len(rows), list(rows), rows.values("person"), len(rows.frame_count_N)) == (0, [], [], 0)
