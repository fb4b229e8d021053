"""Making shards on object storage: the same bytes as on a disk, even if processes are killed on the way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.errors import InputError
from data_tools.manifest import MANIFEST_NAME, read_manifest
from data_tools.shard_plan import plan_shards
from data_tools.shard_writer import prepare_folder, write_shard
from data_tools.shards import verify_shard
from data_tools.storage import StorageFolder
from tests.data.test_shards import contents, small, walk
from tests.made_shards import make_shards
from tests.processes import kill_within
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow


def remote_contents(folder: StorageFolder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.names()}


def test_shards_on_s3_have_the_bytes_of_local_ones(s3: S3Server, tmp_path: Path) -> None:
    dataset, options = walk(tmp_path), small(shard_mebibytes=0.015)
    folder = StorageFolder(s3.bucket()) / "data"
    manifest = make_shards(dataset, str(folder), options)
    assert manifest == make_shards(dataset, tmp_path / "local", options)
    assert remote_contents(folder) == contents(tmp_path / "local")
    counts = [verify_shard(folder, entry, manifest.image_size, frames=True) for entry in manifest.shards]
    assert sum(counts) == 6 * 30
    plans = plan_shards(dataset.tracklets, options)
    assert prepare_folder(plans, folder) == manifest
    with pytest.raises(InputError, match="already holds data set 'made'"):
        prepare_folder(plans[:1], folder)


def test_finished_shards_are_kept(s3: S3Server, tmp_path: Path) -> None:
    dataset, options = walk(tmp_path), small(shard_mebibytes=0.015)
    folder, plans = StorageFolder(s3.bucket()) / "data", plan_shards(dataset.tracklets, options)
    prepare_folder(plans, folder)
    record = write_shard(plans[0], folder, options)
    s3.refuse_writes()
    assert write_shard(plans[0], folder, options) == record


def test_a_damaged_remote_shard_is_found(s3: S3Server, tmp_path: Path) -> None:
    folder = StorageFolder(s3.bucket()) / "data"
    manifest = make_shards(walk(tmp_path), str(folder), small())
    entry = manifest.shards[0]
    folder.write(entry.file, bytes(entry.size_bytes))
    with pytest.raises(InputError, match=rf"^{folder}/{entry.file}: SHA-256"):
        verify_shard(folder, entry, manifest.image_size, frames=False)
    folder.delete(entry.file)
    with pytest.raises(InputError, match="listed in the manifest but missing"):
        read_manifest(folder)


MAKE = """
import sys
from pathlib import Path
from data_tools.shard_plan import plan_shards
from data_tools.shard_writer import prepare_folder
from data_tools.storage import StorageFolder
from tests.data.test_shards import small, walk
from tests.made_shards import make_shards
dataset, folder, options = walk(Path(sys.argv[1])), StorageFolder(sys.argv[2]), small(shard_mebibytes=0.015)
if prepare_folder(plan_shards(dataset.tracklets, options), folder) is None:  # not finished before the kill
    make_shards(dataset, sys.argv[2], options)
"""


def test_killed_at_any_moment_and_run_again(s3: S3Server, tmp_path: Path) -> None:
    make_shards(walk(tmp_path), tmp_path / "whole", small(shard_mebibytes=0.015))
    for kill in range(3):
        folder = StorageFolder(s3.bucket()) / "data"
        command = [sys.executable, "-c", MAKE, str(tmp_path), str(folder)]
        process = subprocess.Popen(command, text=True)
        while process.poll() is None and not folder.names():
            time.sleep(0.01)
        kill_within(process, 0.3, f"kill {kill}, the first file is written")
        if MANIFEST_NAME in (written := remote_contents(folder)):  # complete; records may still be next to it
            assert {name: data for name, data in written.items() if name[0] != "."} == contents(tmp_path / "whole")
        subprocess.run(command, check=True)
        assert remote_contents(folder) == contents(tmp_path / "whole")
