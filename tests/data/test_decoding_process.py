"""Decoding in a process that can be killed: hangs and crashes do not affect the others."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools import crops
from data_tools.datasets.problems import Dataset
from data_tools.decoding_process import DecodingProcess, decoding_process
from data_tools.errors import UnreadableSourceError
from data_tools.shard_plan import ShardOptions
from data_tools.tracklet import Tracklet, VideoFrames
from data_tools.video.pictures import Pulse
from tests.data.made_videos import make_video
from tests.made_shards import make_shards

HANG_SECONDS = 6.0


def count_to(_pulse: Pulse, number: int) -> Iterator[tuple[int, bytes]]:
    for item in range(number):
        yield item, bytes(10_000)


def process_id(_pulse: Pulse) -> Iterator[int]:
    yield os.getpid()


def loop_deaf(_pulse: Pulse) -> Iterator[int]:
    """Like a decoder that loops in native code without releasing the GIL."""
    yield 1
    ctypes.PyDLL(None).usleep(ctypes.c_uint(2**31))


def go_slowly(pulse: Pulse, seconds: float) -> Iterator[int]:
    for _ in range(int(seconds / 0.2)):
        time.sleep(0.2)
        pulse()
    yield 1


def crash(_pulse: Pulse) -> Iterator[int]:
    yield 1
    os.abort()


def refuse(_pulse: Pulse) -> Iterator[int]:
    yield 1
    raise UnreadableSourceError("no picture")


def fail(_pulse: Pulse) -> Iterator[int]:
    yield 1
    raise IndexError("of nothing")


def print_much(_pulse: Pulse) -> Iterator[int]:
    print("a library's remark")
    os.write(1, b"another\n")
    yield 1


@pytest.fixture
def process() -> Iterator[DecodingProcess]:
    process = DecodingProcess()
    yield process
    process.close()


def test_items_come_in_order_from_one_long_lived_process(process: DecodingProcess) -> None:
    assert [number for number, _ in process.run(count_to, 500, what="a")] == list(range(500))
    first, second = (next(iter(list(process.run(process_id, what="a")))) for _ in range(2))
    assert first == second != os.getpid()
    assert list(process.run(print_much, what="a")) == [1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (loop_deaf, "a.mp4: decoding made no progress for 6 s and was stopped"),
        (crash, r"a.mp4: the decoding process crashed on it \(exit code -6\)"),
        (refuse, "^no picture$"),
        (fail, "^a.mp4: decoding failed: IndexError: of nothing$"),
    ],
)
def test_what_goes_wrong_is_reported_and_the_next_source_is_read(
    process: DecodingProcess, function: object, message: str
) -> None:
    with pytest.raises(UnreadableSourceError, match=message):
        list(process.run(function, what="a.mp4", hang_seconds=HANG_SECONDS))  # type: ignore[arg-type]
    assert len(list(process.run(count_to, 3, what="b.mp4"))) == 3


def test_slow_work_that_goes_on_is_not_ended(process: DecodingProcess) -> None:
    list(process.run(process_id, what="a"))  # its start is not timed
    assert list(process.run(go_slowly, 2 * HANG_SECONDS, what="a", hang_seconds=HANG_SECONDS)) == [1]


def test_a_slow_reader_does_not_count(process: DecodingProcess) -> None:
    list(process.run(process_id, what="a"))
    items = process.run(count_to, 300, what="a", hang_seconds=1)
    next(items)
    time.sleep(2.5)
    assert len(list(items)) == 299


def test_a_reader_that_leaves_early_does_not_disturb_the_next(process: DecodingProcess) -> None:
    items = process.run(count_to, 1000, what="a")
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert len(list(process.run(count_to, 3, what="b"))) == 3


@pytest.mark.skipif(not Path("/proc").exists(), reason="asks Linux which processes there are")
def test_the_child_ends_with_its_parent() -> None:
    """Also a child that hangs, and a parent that is killed."""
    program = (
        "from data_tools.decoding_process import decoding_process; import os, time\n"
        "from tests.data.test_decoding_process import process_id\n"
        "[child] = decoding_process().run(process_id, what='a')\n"
        "print(child, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


real_crops = crops.encoded_crops


def crops_of_all_but_one(
    pulse: Pulse, video: Path, *arguments: object
) -> Iterator[tuple[int, bytes | UnreadableSourceError]]:
    if video.stem == "stuck":
        yield from loop_deaf(pulse)  # type: ignore[misc]
    yield from real_crops(pulse, video, *arguments)  # type: ignore[arg-type]


def test_a_video_that_hangs_is_quarantined_and_the_others_are_sharded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "encoded_crops", crops_of_all_but_one)
    tracklets = tuple(
        Tracklet(name, name, "0", "0", "train", VideoFrames(make_video(tmp_path / f"{name}.mp4"), (1, 2)), (1, 2))
        for name in ("first", "stuck", "third")
    )
    options = ShardOptions(format="source", max_quarantine_share=0.5, hang_seconds=HANG_SECONDS)
    manifest = make_shards(Dataset("made", tracklets), tmp_path / "shards", options)
    assert manifest.split_tracklets["train"] == 2
    [left_out] = manifest.quarantine
    assert left_out.tracklet == "stuck"
    assert left_out.reason == f"{tmp_path / 'stuck.mp4'}: decoding made no progress for 6 s and was stopped"
    assert decoding_process() is decoding_process()
