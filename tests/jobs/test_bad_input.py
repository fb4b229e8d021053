"""User errors in the commands: one clear message, a non-zero exit code, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.errors import InputError
from data_tools.shard_plan import ShardOptions
from ray_jobs.cli import parse_recipe
from ray_jobs.sharding.shards import ensure_shards
from tests.data.made_videos import make_video
from tests.data.released_formats import make_ccvid
from tests.jobs.head import Head

pytestmark = pytest.mark.slow


def expect_message(done: subprocess.CompletedProcess[str], *parts: str) -> str:
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr + done.stdout, done.stderr[-4000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr[-4000:]
    message = done.stderr[done.stderr.index("error: ") :]
    assert all(part in message for part in parts), message
    return message


def shard(head: Head, kind: str, shards: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    flags = ["--recipe", str(shards.with_name("shard.yaml")), "--data.kind", kind, "--data.shards", str(shards)]
    shards.with_name("shard.yaml").write_text("data: {frames: {height: 32, width: 16}}")
    return head.run("shard.py", *flags, *arguments)


def nothing_left(folder: Path) -> bool:
    return not folder.exists() or not [path for path in folder.iterdir() if path.suffix in (".tmp", ".arrow")]


def test_a_missing_data_set(head: Head, tmp_path: Path) -> None:
    expect_message(
        shard(head, "ccvid", tmp_path / "out", "--data.root", str(tmp_path / "none")), str(tmp_path / "none")
    )
    assert nothing_left(tmp_path / "out")


def test_annotations_that_do_not_parse_are_listed_with_file_and_line(head: Head, tmp_path: Path) -> None:
    make_ccvid(tmp_path / "CCVID")
    with (tmp_path / "CCVID" / "train.txt").open("a") as file:
        file.write("session1/001_01\tonly two\n../../etc\t001\tu0\n")
    lines = len((tmp_path / "CCVID" / "train.txt").read_text().splitlines())
    done = shard(head, "ccvid", tmp_path / "out", "--data.root", str(tmp_path / "CCVID"))
    expect_message(done, f"train.txt:{lines - 1}", f"train.txt:{lines}")
    assert nothing_left(tmp_path / "out")


def test_a_zero_byte_jpeg_is_quarantined_and_too_many_are_an_error(head: Head, tmp_path: Path) -> None:
    make_ccvid(tmp_path / "CCVID")
    pictures = sorted((tmp_path / "CCVID").rglob("*.jpg"))
    pictures[0].write_bytes(b"")
    done = shard(head, "ccvid", tmp_path / "out", "--data.root", str(tmp_path / "CCVID"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 tracklets in quarantine" in done.stdout
    assert f"{pictures[0]}: the file is empty" in done.stdout
    for picture in pictures:
        picture.write_bytes(b"")
    done = shard(head, "ccvid", tmp_path / "other", "--data.root", str(tmp_path / "CCVID"))
    expect_message(done, "max_quarantine_share", "the file is empty")
    assert not (tmp_path / "other" / "manifest.json").exists()


def test_a_truncated_video_and_a_box_outside_the_picture(head: Head, tmp_path: Path) -> None:
    video = make_video(tmp_path / "footage" / "gate.mp4", frame_count=30)
    (tmp_path / "footage" / "gate.txt").write_text("".join(f"{n},1,10,10,20,40,1\n" for n in range(1, 31)))
    with (tmp_path / "footage" / "gate.txt").open("a") as tracks:
        tracks.write("31,1,10,10,20,40,1\n12,2,500,10,20,40,1\n")
    done = shard(head, "footage", tmp_path / "out", "--data.footage.videos", str(tmp_path / "footage"))
    expect_message(done, "gate.txt:31", "gate.txt:32", "500", "96")

    (tmp_path / "footage" / "gate.txt").write_text("".join(f"{n},1,10,10,20,40,1\n" for n in range(1, 31)))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    done = shard(head, "footage", tmp_path / "out", "--data.footage.videos", str(tmp_path / "footage"))
    expect_message(done, "gate.mp4")
    assert nothing_left(tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting needs more rights than this machine gives")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_space(head: Head, small_disk: Path, tmp_path: Path) -> None:
    make_ccvid(tmp_path / "CCVID", frame_count=60)
    shards = small_disk / "out"
    recipe = tmp_path / "shard.yaml"
    recipe.write_text("data: {kind: ccvid, frames: {height: 256, width: 128}}")
    arguments = ["--recipe", str(recipe), "--data.root", str(tmp_path / "CCVID"), "--data.shards", str(shards)]
    expect_message(head.run("shard.py", *arguments), "No space left on device", str(shards))
    assert list(shards.iterdir()) == []


def test_a_run_folder_that_cannot_be_written(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = head.run("train.py", "--recipe", str(tiny_recipe), "--run.storage", str(tmp_path / "file"))
    expect_message(done, str(tmp_path / "file"))


@pytest.fixture
def own_shards(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "own"))


def test_a_flipped_byte_stops_training_and_verify(head: Head, tiny_recipe: Path, own_shards: Path) -> None:
    path = own_shards / "shard-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    flags = ["--recipe", str(tiny_recipe), "--data.shards", str(own_shards)]
    expect_message(head.run("train.py", *flags), "shard-00001.arrow: SHA-256")
    expect_message(head.run("shard.py", *flags, "--verify"), "shard-00001.arrow: SHA-256")


def test_a_frame_that_cannot_be_decoded_stops_two_workers_with_one_message(
    head: Head, tiny_recipe: Path, own_shards: Path
) -> None:
    path = own_shards / "shard-00000.arrow"
    path.write_bytes(path.read_bytes().replace(b"\xff\xd8\xff\xe0\x00\x10JFIF", bytes(10)))
    flags = ["--recipe", str(tiny_recipe), "--data.shards", str(own_shards), "--data.verify_checksums", "false"]
    done = head.run("train.py", *flags, "--compute.workers", "2", "--batch.identities", "1")
    expect_message(done, "not a complete JPEG or PNG picture", "verify the shards")


def test_verify_is_content_with_good_shards(head: Head, tiny_recipe: Path) -> None:
    done = head.run("shard.py", "--recipe", str(tiny_recipe), "--verify")
    assert done.returncode == 0, done.stderr
    assert "all checksums and frames are correct" in done.stdout


def test_a_damaged_index_is_named_and_made_again(head: Head, tiny_recipe: Path, own_shards: Path) -> None:
    path, manifest = own_shards / "index.arrow", (own_shards / "manifest.json").read_bytes()
    right = path.read_bytes()
    path.write_bytes(right.replace(b"gallery", b"callery", 1))
    flags = ["--recipe", str(tiny_recipe), "--data.shards", str(own_shards)]
    expect_message(head.run("train.py", *flags), "index.arrow: SHA-256", "ray_jobs/shard.py --index")
    expect_message(head.run("shard.py", *flags, "--verify"), "index.arrow: SHA-256")
    done = head.run("shard.py", *flags, "--index", "--verify")
    assert done.returncode == 0, done.stderr
    assert "all checksums and frames are correct" in done.stdout
    assert path.read_bytes() == right
    assert (own_shards / "manifest.json").read_bytes() == manifest


def test_a_manifest_of_a_newer_version(head: Head, tiny_recipe: Path, own_shards: Path) -> None:
    path = own_shards / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 4}))
    done = head.run("train.py", "--recipe", str(tiny_recipe), "--data.shards", str(own_shards))
    expect_message(done, "manifest.json: format version 4", "update the program")


def test_too_few_identities_and_too_many_workers(head: Head, tiny_recipe: Path) -> None:
    done = head.run("train.py", "--recipe", str(tiny_recipe), "--compute.workers", "2")
    expect_message(done, "too few identities", "the training items have 4, but 2 workers")
    done = head.run("train.py", "--recipe", str(tiny_recipe), "--compute.workers", "200")
    expect_message(done, "200 workers", "do not fit the cluster's 2 CPUs")


def test_weights_that_cannot_be_had(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    done = head.run("train.py", "--recipe", str(tiny_recipe), "--model.weights", str(tmp_path / "none.pth"))
    expect_message(done, str(tmp_path / "none.pth"))


def test_a_folder_with_other_storage_or_other_results(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe, _ = parse_recipe(["--recipe", str(tiny_recipe)], program="train.py", description="")
    source = recipe.data.model_copy(update={"frames": ShardOptions(format="source")})
    with pytest.raises(InputError, match=r"stored as 'jpeg'.*--data\.frames\.format jpeg"):
        ensure_shards(source)
    scores = tmp_path / "runs" / "tiny"
    scores.mkdir(parents=True)
    (scores / "metrics.json").write_text("{}")
    done = head.run("train.py", "--recipe", str(tiny_recipe))
    expect_message(done, "scores of an evaluation; choose another --run.name")
