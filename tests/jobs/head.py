"""A Ray head of the tests' own, whose Python has the dependencies but not this project."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Head:
    """`ray start --head` with its own ports, temporary folder and token; ``stop`` ends exactly its processes."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.python = _python_without_project(folder / "env")
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths must be short
        (folder / "token").write_text(secrets.token_hex(32))
        self.port, self.dashboard = _free_port(), _free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))},
            "HOME": str(folder),
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",  # a job's `python` is the head's
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        start = [self.python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", cpus]
        ports = ["--port", self.port, "--dashboard-port", self.dashboard, "--dashboard-agent-listen-port", _free_port()]
        self.log = folder / "head.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(part) for part in (*start, *ports, "--temp-dir", self.temporary)],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def run(self, script: str, *arguments: str, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a job's script as a user would, as a driver on this cluster, to its end."""
        return subprocess.run(
            self.command(script, *arguments),
            env=self.driver_environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """The same, left running; its output is one stream."""
        return subprocess.Popen(
            self.command(script, *arguments),
            env=self.driver_environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, script: str, *arguments: str) -> list[str]:
        return [str(self.python), f"ray_jobs/{script}", *arguments]

    @property
    def driver_environment(self) -> dict[str, str]:
        # Drivers that are not submitted as jobs bring the project by path, as an editable install would.
        return self.environment | {"RAY_ADDRESS": f"127.0.0.1:{self.port}", "PYTHONPATH": str(ROOT)}

    def submit(self, working_dir: Path, *command: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir` with the logs followed."""
        submit = [str(self.python), "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(working_dir)]
        return subprocess.run(
            [*submit, "--address", f"http://127.0.0.1:{self.dashboard}", "--", *command],
            env=self.environment,
            cwd=working_dir,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def stop(self) -> None:
        """End every process of this cluster and remove its files."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if (
                    probe.connect_ex(("127.0.0.1", self.dashboard)) == 0
                    and "Ray runtime started" in self.log.read_text()
                ):
                    return
            time.sleep(0.5)
        raise RuntimeError(f"the head did not start:\n{self.log.read_text()[-3000:]}")


def _python_without_project(folder: Path) -> Path:
    """A virtual environment that sees this one's packages; an editable install's own hook is not run there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    purelib = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = subprocess.run([str(python), "-c", "import ray, torch, ccvid"], cwd=folder, capture_output=True, text=True)
    assert "No module named 'ccvid'" in found.stderr, found.stderr
    return python


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
