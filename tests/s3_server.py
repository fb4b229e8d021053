"""An S3 server (moto) as a separate process on this machine, which counts, delays and refuses on command.

with S3Server() as server:
    os.environ.update(server.environment)
    StorageFolder(server.bucket()).write("x", b"...")
    server.refuse_writes()
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from itertools import count
from typing import Any, Self
from urllib.parse import quote, unquote

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONTROL = "/-/"
WRITES = ("PUT", "POST", "DELETE")
READS = ("GET", "HEAD")


class S3Server:
    """The process, from a test's side."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._buckets = count(1)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3_server", str(self.port)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError("the S3 server did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a client needs."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self) -> str:
        """The URI of a new, empty bucket."""
        name = f"bucket-{next(self._buckets)}"
        self._call("PUT", f"/{name}")
        return f"s3://{name}"

    @property
    def bytes_sent(self) -> int:
        """Bytes of all answers since the start."""
        return int(self._control("bytes"))

    def reads(self) -> list[str]:
        """The paths of all objects that were asked for since the start, each as often as it was."""
        return self._control("reads").split()

    def refuse_writes(self) -> None:
        """Answer 503 to every write until :meth:`accept`."""
        self._control("refuse", *WRITES)

    def refuse_reads(self) -> None:
        """Answer 503 to every read until :meth:`accept`."""
        self._control("refuse", *READS)

    def accept_writes(self) -> None:
        """Answer as usual again."""
        self._control("refuse")

    accept = accept_writes

    def forbid(self) -> None:
        """Answer 403 to everything until :meth:`accept`, as with wrong keys."""
        self._control("forbid", *READS, *WRITES)

    def delay_reads(self, seconds: float) -> None:
        """Delay every answer to a GET by that long."""
        self._control("delay", str(seconds))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _control(self, *words: str) -> str:
        return self._call("GET", CONTROL + "/".join(map(quote, words)))

    def _call(self, method: str, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == 200, (method, path, answer.status, text)
            return text
        finally:
            connection.close()


class _Counted:
    """moto's WSGI application and, under ``/-/``, its controls."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._sent, self._lock = 0, threading.Lock()
        self._reads: list[str] = []
        self._status, self._refused, self._delay = "", frozenset[str](), 0.0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith(CONTROL):
            answer = self._steer(*unquote(path.removeprefix(CONTROL)).split("/")).encode()
            start_response("200 OK", [("Content-Length", str(len(answer)))])
            return [answer]
        if method in self._refused:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(self._status, [("Content-Length", "0")])
            return []
        if method == "GET":
            self._reads.append(path)
            time.sleep(self._delay)
        return self._count(self._application(environ, start_response))

    def _steer(self, command: str, *words: str) -> str:
        if command in ("refuse", "forbid"):
            self._status = "503 Slow Down" if command == "refuse" else "403 Forbidden"
            self._refused = frozenset(words)
        elif command == "delay":
            self._delay = float(words[0])
        elif command == "reads":
            return "\n".join(map(quote, self._reads))
        return str(self._sent)

    def _count(self, body: Iterable[bytes]) -> Iterator[bytes]:
        for block in body:
            with self._lock:
                self._sent += len(block)
            yield block


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    application = _Counted(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
