"""A Ray cluster of the tests' own, whose Python has the dependencies but not this project.

Several nodes on one machine are several raylets, each with its own ports, temporary folder and, if wanted, network
namespace. Each is one `ray start --block` in a session of its own: by it all that it started is found and ended,
and nothing else.
"""

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.jobs.namespaces import Namespace, Network
from tests.processes import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
QUICK_HEARTBEATS = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
"""A dead node is declared dead after about three seconds instead of half a minute or more."""
PATIENT = {
    "RAY_worker_niceness": "0",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "600",
}
"""A start is never given up because the machine is slow, and no worker has to wait for all others."""
FIRST_PORT, PORTS_EACH = 20_000, 1_500
TOO_SLOW = "The current node timed out during startup"
"""The exit code of `ray start` if the raylet needs more than half a minute, which no setting changes."""


class Node:
    """One `ray start --block` with all its processes."""

    def __init__(
        self,
        start: Sequence[object],
        environment: Mapping[str, str],
        log: Path,
        *,
        namespace: Namespace | None = None,
        port: int | None = None,
    ) -> None:
        self.namespace = namespace
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths must be short
        self._log, self._environment, self._port = log, dict(environment), port
        self._command = [
            *(namespace.prefix if namespace else []),
            *map(str, start),
            *(["--node-ip-address", namespace.address] if namespace else []),
            *("--temp-dir", str(self.temporary), "--dashboard-agent-listen-port", str(_free_port())),
            *("--object-store-memory", str(100 * 2**20)),
        ]
        self.begin()

    def begin(self) -> None:
        """Start its processes; returns when they are up."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._begin_once(deadline):
            print(f"{self._log.stem}: Ray gave up its start, once more")

    def kill(self) -> None:
        """Kill all its processes at once, as in a power failure: raylet, workers, and on a head the GCS."""
        while found := self.processes():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait()
        self._guardian.communicate()

    def stop(self) -> None:
        """End all its processes and remove its files."""
        self.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def processes(self) -> list[int]:
        """The live processes of its session."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) == self.process.pid]

    def _begin_once(self, deadline: float) -> bool:
        """Whether they are up; False if this machine was too slow for Ray, which is then stopped."""
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        # Waits until this process ends, however that happens, and lets nothing outlive it.
        self._guardian = subprocess.Popen(
            ["sh", "-c", 'read -r _; pkill -KILL -s "$0"', str(self.process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        while not ("Ray runtime started" in (output := self._log.read_text()) and self._listens()):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                output = self._log.read_text()
                if ended and TOO_SLOW in output and time.monotonic() < deadline:
                    return False
                raise RuntimeError(f"a node did not start:\n{output[-3000:]}")
            time.sleep(0.2)
        return True

    def _listens(self) -> bool:
        """Whether its port, if any, accepts connections; asked of the kernel, in any namespace."""
        table = Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]
        sockets = (line.split()[1:4] for line in table)
        listening = {int(local.split(":")[1], 16) for local, _, state in sockets if state == "0A"}
        return self._port is None or self._port in listening


class Head:
    """The head with its own ports, temporary folder and token, and the nodes that were added to it.

    Args:
        folder: an empty folder.
        cpus: of the head itself.
        dashboard: whether jobs can be submitted to it and its state be asked for, which takes a dozen processes.
        network: gives the head and each node a namespace of it; close it after the head has stopped.
        settings: environment variables of every process of the cluster and of its drivers.
    """

    def __init__(
        self,
        folder: Path,
        cpus: int = 2,
        *,
        dashboard: bool = True,
        network: Network | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.python = _python_without_project(folder / "env")
        (folder / "token").write_text(secrets.token_hex(32))
        self.port, self.dashboard = _free_port(), _free_port()
        self.nodes: list[Node] = []
        self._folder, self._network = folder, network
        self.environment = {
            **_outside(),
            "HOME": str(folder),
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",  # a job's `python` is the head's
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            **PATIENT,
            **(settings or {}),
        }
        parts = ["--port", self.port, "--dashboard-port", self.dashboard, "--include-dashboard", dashboard]
        parts += ["--ray-client-server-port", _free_port(), "--no-monitor"]  # no autoscaling here
        self.own = self._start("head", cpus, "--head", *parts, port=self.dashboard if dashboard else None)

    @property
    def address(self) -> str:
        """The address at which drivers and nodes find the cluster."""
        return f"{self.own.namespace.address if self.own.namespace else '127.0.0.1'}:{self.port}"

    def add_node(self, cpus: int = 1) -> Node:
        """Add a node on this machine."""
        node = self._start(f"node{len(self.nodes)}", cpus, "--address", self.address)
        self.nodes.append(node)
        return node

    def kill(self) -> None:
        """Kill the head node at once, and with it what it knew about the cluster."""
        self.own.kill()

    def restart(self) -> None:
        """Start the head again after ``kill``, at the same address; earlier nodes do not rejoin it."""
        self.own.begin()

    def living_nodes(self) -> list[Node]:
        return [node for node in self.nodes if is_alive(node.process.pid)]

    def processes(self) -> list[int]:
        """The live processes of all its nodes."""
        return [pid for node in [self.own, *self.nodes] for pid in node.processes()]

    def run(self, script: str, *arguments: str, seconds: float = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run a job's script to its end, as a user would, as a driver on this cluster."""
        return subprocess.run(
            self.command(script, *arguments),
            env=self.driver_environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """The same, left running; stdout and stderr are one stream."""
        return subprocess.Popen(
            self.command(script, *arguments),
            env=self.driver_environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, script: str, *arguments: str) -> list[str]:
        return [*self._inside, str(self.python), f"ray_jobs/{script}", *arguments]

    @property
    def driver_environment(self) -> dict[str, str]:
        # Drivers that are not submitted as jobs find the project by path, like an editable install.
        return self.environment | {"RAY_ADDRESS": self.address, "PYTHONPATH": str(ROOT)}

    def submit(
        self, working_dir: Path, *command: str, seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir`, following the logs."""
        return self.jobs("submit", "--working-dir", str(working_dir), "--", *command, seconds=seconds)

    def jobs(self, verb: str, *arguments: str, seconds: float = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run `ray job VERB ...` on this cluster to its end."""
        address = f"http://127.0.0.1:{self.dashboard}"
        return subprocess.run(
            [*self._inside, *self._ray, "job", verb, "--address", address, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def stop(self) -> None:
        """End every process of this cluster and remove its files."""
        for node in [*self.nodes, self.own]:
            node.stop()

    @property
    def _ray(self) -> list[str]:
        return [str(self.python), "-m", "ray.scripts.scripts"]

    @property
    def _inside(self) -> list[str]:
        return self.own.namespace.prefix if self.own.namespace else []

    def _start(self, name: str, cpus: int, *arguments: object, port: int | None = None) -> Node:
        start = [*self._ray, "start", "--block", "--num-cpus", cpus, *arguments]
        log = self._folder / f"{name}.log"
        return Node(start, self.environment, log, namespace=self._network.add() if self._network else None, port=port)


def is_alive(pid: int) -> bool:
    return _session(pid) is not None


def _session(pid: int) -> int | None:
    """Of a live process; None if it has ended."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else int(session)


def _python_without_project(folder: Path) -> Path:
    """A virtual environment that sees this one's packages; an editable install's own hook does not run there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    purelib = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = "from importlib.util import find_spec; print([bool(find_spec(n)) for n in ('ray', 'torch', 'ccvid')])"
    found = subprocess.run([str(python), "-c", code], env=_outside(), cwd=folder, capture_output=True, text=True)
    assert found.stdout == "[True, True, False]\n", found.stdout + found.stderr
    return python


def _outside() -> dict[str, str]:
    """This process's environment without its settings for Ray and Python, including the project's path."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}


def _free_port() -> int:
    """A free port below those that the kernel gives to outgoing connections, so that it stays free.

    Each of pytest's workers has a range of its own, above those that Ray gives to its workers.
    """
    first = FIRST_PORT + PORTS_EACH * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = first + secrets.randbelow(PORTS_EACH)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
