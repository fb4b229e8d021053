"""Which Ray cluster a command joins, and its message if there is none to join or none can be started."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from data_tools.errors import InputError
from ray_jobs.cluster import address, connection, start
from ray_jobs.cluster.token import make_token
from tests.jobs.head import ROOT, Head, is_alive
from tests.processes import PATIENCE_SECONDS

CONNECT = """
import ray
from ray_jobs.cluster import connection, start
from ray_jobs.cli import run_job

def main(arguments):
    {before}
    connection.connect()
    print("joined", ray.get_runtime_context().gcs_address)

run_job(main)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ray's temporary files; nothing else of this machine or its user counts."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray"


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user who has set only the given variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | more


def start_connecting(settings: Mapping[str, str], before: str = "") -> subprocess.Popen[str]:
    code = CONNECT.format(before=before or "pass")
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=dict(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refusal(process: subprocess.Popen[str]) -> str:
    """The message of a command that ends with exactly one."""
    output, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, output + complaint
    assert complaint.startswith("error: "), complaint
    assert complaint.count("\n") == 1, complaint
    return complaint


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("head", "expected host:port"),
        ("head:port", "expected host:port"),
        ("127.0.0.1:99999", "expected host:port"),
        ("http://127.0.0.1:8265", "ray job submit"),
        ("ray://127.0.0.1:10001", "ray job submit"),
        ("no-such-host.invalid:6379", "no Ray cluster answers there"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_named_address_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, named: str, reason: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    with pytest.raises(InputError, match=f"RAY_ADDRESS={named}: .*{reason}"):
        address.cluster_to_join()


@pytest.mark.usefixtures("folder")
def test_a_named_cluster_that_is_gone_or_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = closed_port()
    monkeypatch.setenv("RAY_ADDRESS", gone)
    with pytest.raises(InputError, match=f"RAY_ADDRESS={gone}: .*Connection refused"):
        address.cluster_to_join()
    monkeypatch.setattr(address, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match=r"no answer within 0\.5 s"):
            address.cluster_to_join()


def test_a_cluster_that_nobody_named_and_is_gone_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert address.cluster_to_join() is None
    assert capsys.readouterr().out == ""
    gone = closed_port()
    (folder / "ray_current_cluster").write_text(gone)  # like `ray start --head`
    assert address.cluster_to_join() is None
    output = capsys.readouterr().out
    assert gone in output
    assert output.count("\n") == 1
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert address.cluster_to_join() is None
    assert capsys.readouterr().out == ""


def test_auto_wants_a_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", frozenset)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(InputError, match="RAY_ADDRESS=auto: no Ray cluster runs on this machine"):
        address.cluster_to_join()
    gone = closed_port()
    (folder / "ray_current_cluster").write_text(gone)
    with pytest.raises(InputError, match=f"RAY_ADDRESS=auto \\({gone}\\): "):
        address.cluster_to_join()


def test_one_message_where_no_cluster_can_be_had(tmp_path: Path) -> None:
    """A cluster that is gone; a temporary folder whose name is too long for a socket, and one that is a file."""
    gone, long, file = closed_port(), tmp_path / ("long" * 30), tmp_path / "file"
    file.touch()
    cases = [{"RAY_ADDRESS": gone}, {"RAY_TMPDIR": str(long)}, {"RAY_TMPDIR": str(file)}]
    processes = [start_connecting(environment(tmp_path, **case)) for case in cases]
    messages = [refusal(process) for process in processes]
    for message, expected in zip(messages, (f"RAY_ADDRESS={gone}: ", str(long), str(file)), strict=True):
        assert expected in message
    assert all("set RAY_TMPDIR to" in message for message in messages[1:])


def test_a_start_that_times_out_is_tried_once_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed first start is cleaned up; if the second fails too, the message names the logs."""
    left: list[subprocess.Popen[bytes]] = []

    def init(_address: str, **_settings: Any) -> None:
        if len(left) != 1:
            left.append(subprocess.Popen(["sleep", "600"]))
            raise Exception("The current node timed out during startup. This could happen because ...")
        left.append(subprocess.Popen(["true"]))

    monkeypatch.setattr(ray, "init", init)
    start.start_cluster()
    assert len(left) == 2
    assert left[0].wait() == -9
    assert "timed out" in capsys.readouterr().out
    left[1].wait()
    with pytest.raises(InputError, match=f"timed out during startup.*{folder}/session_latest/logs"):
        start.start_cluster()
    assert [process.wait() for process in left[2:]] == [-9, -9]
    assert not any(is_alive(process.pid) for process in left)


@pytest.mark.usefixtures("folder")
def test_a_cluster_that_answers_and_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(_address: str, **_settings: Any) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with Ray 2.9")

    monkeypatch.setattr(connection, "cluster_to_join", lambda: "10.0.0.1:6379")
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match=r"10\.0\.0\.1:6379: Version mismatch"):
        connection.connect()


def test_two_commands_agree_on_the_token_that_the_first_one_made(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    make_token(path)
    token = path.read_text()
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_token(path)
    assert path.read_text() == token
    assert os.listdir(path.parent) == ["auth_token"]


@pytest.mark.slow
def test_a_living_cluster_is_joined_if_it_accepts_the_user(head: Head, tmp_path: Path) -> None:
    """By the address left on the machine and the user's own token; given explicitly, and refused without the token."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(head.address)
    token = head.environment["RAY_AUTH_TOKEN_PATH"]
    found = start_connecting(environment(tmp_path, RAY_TMPDIR=str(tmp_path), RAY_AUTH_TOKEN_PATH=token))
    output, complaint = found.communicate(timeout=PATIENCE_SECONDS)
    assert (found.returncode, complaint) == (0, ""), complaint
    first, joined = output.splitlines()
    assert first == f"joining the Ray cluster at {head.address}"
    assert joined.endswith(head.address.partition(":")[2])
    named = environment(tmp_path, RAY_ADDRESS=head.address)
    other = named | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another" * 5}
    for process in [start_connecting(settings) for settings in (named, other)]:
        assert "RAY_AUTH_MODE=token" in refusal(process)


@pytest.mark.slow
def test_a_cluster_without_cpus(tmp_path: Path) -> None:
    before = "connection.CPU_SECONDS, start._cpus = 1, lambda: 0"
    process = start_connecting(environment(tmp_path, RAY_ADDRESS="local"), before)
    output, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, output + complaint
    assert "has no CPUs; add a node with CPUs" in complaint.splitlines()[-1]
    assert "Traceback" not in complaint


@pytest.mark.slow
def test_two_commands_at_once_beside_a_cluster_of_another_user(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    """Each on its own cluster and with a new user's home folder; no part of Ray contacts another one."""
    temporary = head.own.temporary
    settings = environment(tmp_path, OMP_NUM_THREADS="1", RAY_TMPDIR=str(temporary))
    (temporary / "ray").mkdir(exist_ok=True)
    (temporary / "ray" / "ray_current_cluster").write_text(head.address)
    command = [sys.executable, "ray_jobs/train.py", "--recipe", str(tiny_recipe), "--train.epochs", "1"]
    runs = [
        subprocess.Popen(
            [*command, "--run.name", name],
            env=settings,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    for run in runs:
        output, complaint = run.communicate(timeout=PATIENCE_SECONDS)
        assert run.returncode == 0, output + complaint
        assert output.startswith(f"ignoring the Ray cluster at {head.address}: it requires a token, or does not accept")
        for sign in ("multiple active Ray instances", "PlacementGroupCleaner", "Token authentication"):
            assert sign not in output + complaint
        assert "clothes-changing" in output
