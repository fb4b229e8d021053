"""Removing tracklets from finished shards: their bytes are gone, all others stay, and a kill leaves old or new."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.files import sha256_of
from data_tools.manifest import MANIFEST_NAME, Manifest, QuarantinedTracklet, read_manifest, to_json
from data_tools.shard_cache import CacheOptions, drop_cached, open_shards
from data_tools.shard_removal import StoredLabels, read_labels, remove_tracklets
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from tests.data.test_shard_index import verify
from tests.data.test_shards import contents, small, walk
from tests.made_shards import make_shards
from tests.storage_kills import KilledError, killed_at

TRACKLETS, FRAMES = 6, 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tracklets of three people in three shards."""
    root = tmp_path_factory.mktemp("made")
    manifest = make_shards(walk(root, TRACKLETS, FRAMES), root / "shards", small(shard_mebibytes=0.003))
    assert [entry.rows for entry in manifest.shards] == [2, 2, 2]
    return root / "shards"


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


def labels(folder: Path) -> StoredLabels:
    return read_labels(StorageFolder(str(folder)))


def remove(folder: Path, *ids: str, mentions: Callable[[str], bool] = lambda _: False) -> None:
    stored = labels(folder)
    remove_tracklets(stored, stored.rows.is_in("id", ids), mentions)


def frames(store: ShardFolder, row: int) -> list[bytes]:
    return [frame.tobytes() for frame in store.encoded_frames(row, range(store.rows[row].frame_count))]


def test_the_tracklets_are_gone_and_all_others_as_before(shards: Path, made: Path) -> None:
    before = ShardFolder(made)
    ids = before.rows.values("id")
    gone = [ids[1], ids[4], ids[5]]
    secrets = [frame for row in (1, 4, 5) for frame in frames(before, row)] + [id.encode() for id in gone]
    remove(shards, *gone)
    after = ShardFolder(shards)
    assert after.rows.values("id") == [ids[0], ids[2], ids[3]]
    assert verify(shards) == 3 * FRAMES
    for row, old in enumerate((0, 2, 3)):
        assert frames(after, row) == frames(before, old)
        assert list(after.frame_index(row)) == list(before.frame_index(old))
        assert after.fingerprint(row) == before.fingerprint(old)  # embeddings that exist still find their frames
    found = contents(shards)
    assert sorted(found) == [
        *(".removing", "index-r1.arrow", "manifest.json"),
        *("shard-00000-r1.arrow", "shard-00001.arrow", "shard-00002-r1.arrow"),
    ]
    assert found["shard-00001.arrow"] == contents(made)["shard-00001.arrow"]
    everything = b"\n".join(found.values())
    assert [secret for secret in secrets if secret in everything] == []
    manifest = after.manifest
    assert manifest.persons == tuple(sorted({before.rows[old].person or "" for old in (0, 2, 3)}))
    assert sum(manifest.split_tracklets.values()) == 3
    assert manifest.replaced == (sha256_of(made / MANIFEST_NAME),)
    assert manifest.fingerprint == before.manifest.fingerprint  # shard.py sees that it is finished


def test_a_shard_without_the_tracklet_is_as_if_it_had_never_been_there(tmp_path: Path) -> None:
    dataset = walk(tmp_path, 4, FRAMES)
    make_shards(dataset, tmp_path / "all", small())
    others = tuple(tracklet for number, tracklet in enumerate(dataset.tracklets) if number != 2)
    make_shards(type(dataset)(dataset.name, others, ()), tmp_path / "others", small())
    remove(tmp_path / "all", dataset.tracklets[2].id)
    removed, never = contents(tmp_path / "all"), contents(tmp_path / "others")
    assert removed["shard-00000-r1.arrow"] == never["shard-00000.arrow"]
    assert removed["index-r1.arrow"] == never["index.arrow"]


def test_again_and_until_nothing_is_left(shards: Path) -> None:
    for id in ShardFolder(shards).rows.values("id"):
        remove(shards, id)
    store = ShardFolder(shards)
    assert (len(store.rows), store.manifest.persons, len(store.manifest.replaced)) == (0, (), TRACKLETS)
    assert verify(shards) == 0
    assert "shard-00001-r2.arrow" in contents(shards)


def test_only_what_names_it_leaves_the_quarantine(shards: Path) -> None:
    kept = QuarantinedTracklet(tracklet="b", origin="tracks.txt:7", reason="cut off")
    told = [
        kept.model_copy(update={name: value})
        for name, value in (("tracklet", "anna"), ("origin", "anna:3"), ("reason", "anna"))
    ]
    place = StorageFolder(str(shards))
    manifest = read_manifest(place).model_copy(update={"quarantine": (told[0], kept, *told[1:])})
    place.write(MANIFEST_NAME, to_json(manifest))
    remove(shards, mentions=lambda text: text == "anna")
    assert read_manifest(place).quarantine == (kept,)
    assert len(ShardFolder(shards).rows) == TRACKLETS
    settled = contents(shards)
    remove(shards, mentions=lambda text: text == "anna")
    assert contents(shards) == settled


def test_a_kill_leaves_the_old_or_the_new_and_the_same_call_completes_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ShardFolder(made).rows.values("id")
    expected = Path(shutil.copytree(made, tmp_path / "expected"))
    with killed_at(-1, monkeypatch) as steps:
        remove(expected, ids[1], ids[4])
    assert len(steps) == 7  # two shards, the index, the manifest, and three old files
    for step in range(len(steps)):
        folder = Path(shutil.copytree(made, tmp_path / str(step)))
        with killed_at(step, monkeypatch), pytest.raises(KilledError):
            remove(folder, ids[1], ids[4])
        switched = step > steps.index(f"new_file {MANIFEST_NAME}")
        assert len(ShardFolder(folder).rows) == (TRACKLETS - 2 if switched else TRACKLETS)
        assert verify(folder)
        remove(folder, ids[1], ids[4])
        assert contents(folder) == contents(expected)


def test_what_cannot_be_removed_from_is_refused(shards: Path) -> None:
    stored = labels(shards)
    remove(shards, stored.rows[0].id)
    with pytest.raises(InputError, match="has changed meanwhile; run the same command again"):
        remove_tracklets(stored, stored.rows.is_in("id", [stored.rows[0].id]))
    shard = next(shards.glob("shard-00001*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    settled = contents(shards)
    with pytest.raises(InputError, match=r"shard-00001\.arrow: SHA-256"):
        remove(shards, stored.rows[2].id)
    assert contents(shards) == settled
    manifest = json.loads((shards / MANIFEST_NAME).read_text()) | {"index": None, "format_version": 1}
    (shards / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"without an index; add it with ray_jobs/shard\.py --index"):
        labels(shards)


def test_a_manifest_of_today_without_removals_says_nothing_of_them(made: Path) -> None:
    manifest = Manifest.model_validate_json((made / MANIFEST_NAME).read_bytes())
    assert (manifest.replaced, {entry.first_sha256 for entry in manifest.shards}) == ((), {None})


@pytest.mark.slow
def test_remote_shards_and_the_caches_of_the_nodes(made: Path, tmp_path: Path, s3: Any) -> None:
    place = StorageFolder(s3.bucket()) / "data"
    place.upload_folder(made, last=MANIFEST_NAME)
    cache = CacheOptions(folder=tmp_path / "cache")
    before = open_shards(str(place), cache)
    secret, old = frames(before, 1)[0], before.folder
    stored = read_labels(place)
    remove_tracklets(stored, stored.rows.is_in("id", [stored.rows[1].id]))
    assert place.names() == [
        *("index-r1.arrow", "manifest.json", "shard-00000-r1.arrow", "shard-00001.arrow", "shard-00002.arrow")
    ]
    assert drop_cached(cache, read_manifest(place).replaced) == [old]  # this process still has it open
    assert len(open_shards(str(place), cache).rows) == TRACKLETS - 1
    assert old.exists()
    before._in_use.close()  # type: ignore[union-attr]
    after = open_shards(str(place), cache)  # and tells the cache
    assert not old.exists()
    assert not any(secret in path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert frames(after, 1) == frames(ShardFolder(made), 2)
    assert np.array_equal(after.rows.frame_count_N, [FRAMES] * (TRACKLETS - 1))
