"""Sharding as a job, killed at a random moment and run again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.chance import chance
from tests.data.made_videos import make_video
from tests.jobs.head import Head

pytestmark = pytest.mark.slow

VIDEOS, FRAMES = 12, 240


def make_footage(folder: Path) -> None:
    """Videos with two overlapping tracks each."""
    for number in range(VIDEOS):
        make_video(folder / f"gate{number}.mp4", frame_count=FRAMES, codec="libx264")
        rows = [
            f"{frame},{track},{10 + 30 * track},5,24.5,50,1\n" for frame in range(1, FRAMES + 1) for track in (1, 2)
        ]
        (folder / f"gate{number}.txt").write_text("".join(rows))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_killed_sharding_job_goes_on_and_ends_with_the_same_bytes(head: Head, tmp_path: Path) -> None:
    make_footage(tmp_path / "footage")
    recipe = tmp_path / "shard.yaml"
    recipe.write_text("data: {kind: footage, frames: {height: 64, width: 32, shard_mebibytes: 0.2}}")
    arguments = ["--recipe", str(recipe), "--data.footage.videos", str(tmp_path / "footage"), "--data.shards"]
    done = head.run("shard.py", *arguments, str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "frames/s" in done.stdout
    assert "left 0:00:00" in done.stdout
    shards = len(list((tmp_path / "whole").glob("shard-*.arrow")))
    assert shards > 6

    folder = tmp_path / "killed"
    finished = chance().randint(1, shards - 2)
    print(f"killed once {finished} of {shards} shards are finished")
    process = head.start("shard.py", *arguments, str(folder))
    deadline = time.monotonic() + 120
    while len(list(folder.glob("shard-*.arrow"))) < finished:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = head.run("shard.py", *arguments, str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(folder) == contents(tmp_path / "whole")
    again = head.run("shard.py", *arguments, str(folder))
    assert "already finished" in again.stdout
