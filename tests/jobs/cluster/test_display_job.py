"""What jobs on a real cluster show: from workers to the driver, in a pipe, and on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.jobs.breaking import expect_success
from tests.jobs.head import ROOT, Head
from tests.jobs.telling_driver import MESSAGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_workers_tell_in_order_and_go_on_where_nobody_listens(head: Head) -> None:
    command = [str(head.python), "-m", "tests.jobs.telling_driver"]
    environment = head.driver_environment
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    lines = expect_success(done).splitlines()
    start = lines.index("telling first")
    assert lines[start + 1 : start + 1 + MESSAGES] == [f"first {number}" for number in range(MESSAGES)]
    assert lines[start + 1 + MESSAGES :] == ["sharding: 3/8 shards  left 0:01:30", "heard all", "still working: True"]
    assert "Traceback" not in done.stderr


def test_a_driver_may_end_before_its_mailbox_is_up(head: Head) -> None:
    """Ray ends a process with an error whose threads call it after its shutdown."""
    command = [str(head.python), "-m", "tests.jobs.telling_driver", "leave"]
    environment = head.driver_environment
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert "threads: MainThread" in expect_success(done)
    assert "listener" not in done.stdout


def test_a_terminal_shows_one_live_display(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    """A whole run on a terminal of 80 columns."""
    arguments = ["--recipe", str(tiny_recipe), "--train.epochs", "12", "--train.log_every_seconds", "0.2"]
    arguments += ["--score.report", "true"]
    screen = on_a_terminal(head, *arguments)
    frames = screen.replace("\r", "").split("\x1b[2K")  # each refresh removes the lines of the previous one
    assert any("training  epoch" in frame and "clips/s" in frame and "━" in frame for frame in frames), screen[-5000:]
    assert any("training on 1 worker" in frame for frame in frames)
    assert any("held-out mAP, epoch" in frame for frame in frames)
    assert screen.count("✓ training: ") == 1
    assert "identity accuracy" in screen
    assert f"report: {tmp_path}" in screen.replace("\n", "")
    assert not re.search(r"step \d+/\d+  [\d.]+ clips/s", screen), "plain lines beside the display"
    for text in ("RayTrainWorker", "pid=", "Traceback", "WARNING"):
        assert text not in screen, text


def on_a_terminal(head: Head, *arguments: str) -> str:
    """Everything that train.py writes to a terminal until it ends successfully."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**head.driver_environment, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        head.command("train.py", *arguments), env=environment, cwd=ROOT, stdout=follower, stderr=follower
    )
    os.close(follower)
    written = b""
    try:
        while part := _read(leader):
            written += part
    finally:
        os.close(leader)
        process.kill()
        process.wait()
    return written.decode(errors="replace")


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # how Linux signals that the other end is closed
        return b""
