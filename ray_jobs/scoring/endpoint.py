"""An HTTP server of a few small answers: JSON, one token, one request a connection, every resource bounded.

A thread serves each connection, up to a number of them; a request gets further only with the token, within the rate,
and while fewer than a number are being worked on. Only then is its body read.
"""

from __future__ import annotations

import hmac
import io
import json
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Protocol

from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.wording import first_line, shown
from ray_jobs.scoring.http_requests import RateLimit, RefusedError, TimedSocket, check_length, read_body

JSON, VIDEO = "application/json", "video/"
"""Content types of requests; that of a clip begins so."""
METHODS = {"/health": "GET", "/search": "POST"}
LINGER_SECONDS = 1.0
"""How long what a refused client still sends is thrown away, so that it reads the answer before the connection ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may cost."""

    body_bytes: int = 32 * 2**20
    json_bytes: int = 2**20
    header_seconds: float = 10.0
    """Until a connection's request line and headers are there."""
    body_seconds: float = 30.0
    requests_per_second: float = 10.0
    at_once: int = 8
    """Requests that are read, wait or are worked on."""
    connections: int = 64


class Service(Protocol):
    """What is served; raises ``InputError`` for a request that cannot be answered."""

    def search(self, body: bytes, content_type: str, query: str) -> Mapping[str, Any]:
        """The answer to a search, of a body of this type."""

    def health(self) -> Mapping[str, Any]:
        """What anybody may know."""


class Endpoint(ThreadingMixIn, HTTPServer):
    """The server, bound when it is made; ``serve_forever`` serves, and ``server_close`` waits for open requests.

    Raises:
        InputError: the address cannot be bound.
    """

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self, host: str, port: int, token: str, service: Service, limits: Limits = Limits()) -> None:
        self.token, self.service, self.limits = token.encode(), service, limits
        self.rate = RateLimit(limits.requests_per_second)
        self.slots = threading.Semaphore(limits.at_once)
        self._connections = threading.Semaphore(limits.connections)
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"--host {host} --port {port}: cannot be served at: {reason}") from None

    def server_bind(self) -> None:
        """Bind without asking a name server who this is."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def url(self) -> str:
        """Where it is reached."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, or refuse it if there are too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.settimeout(LINGER_SECONDS)
            request.sendall(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is nobody's error."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ccvid", ""

    def setup(self) -> None:
        super().setup()
        self._began = time.monotonic()
        self._timed = TimedSocket(self.request, self.server.limits.header_seconds)
        self.rfile = io.BufferedReader(self._timed)
        self._is_checked = self._is_refused = False

    def handle(self) -> None:
        """One request; its connection then ends."""
        self.handle_one_request()

    def handle_expect_100(self) -> bool:
        """Ask for the body only of a request that is not refused."""
        try:
            self._check()
        except RefusedError as refused:
            self._refuse(refused)
            return False
        return super().handle_expect_100()

    def _answer(self) -> None:
        try:
            self._check()
            answer = self.server.service.health() if self._path == "/health" else self._search()
            self._send(200, answer)
        except RefusedError as refused:
            self._refuse(refused)
        except TimeoutError:
            self._refuse(RefusedError(408, "the request took too long"))
        except InputError as error:
            self._refuse(RefusedError(400, str(error)))
        except ConnectionError:
            pass  # nobody is there to be told
        except Exception as error:
            message(f"error while answering: {type(error).__name__}: {first_line(error)}")
            self._refuse(RefusedError(500, "internal error"))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer

    def _check(self) -> None:
        """Everything that can be said before the body is read; raises ``RefusedError``."""
        if self._is_checked:
            return
        method = METHODS.get(self._path)
        if self._path != "/health" and not self._has_token():
            raise RefusedError(401, "expected Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        if method is None:
            raise RefusedError(404, f"no such path; there are {', '.join(METHODS)}")
        if self.command != method:
            raise RefusedError(405, f"expected {method}", {"Allow": method})
        if method == "POST":
            if self._type != JSON and not self._type.startswith(VIDEO):
                raise RefusedError(415, f"expected Content-Type {JSON} or {VIDEO}…, got {shown(self._type)}")
            self._length = check_length(self.headers, self._most_bytes)
            if not self.server.rate.allows():
                raise RefusedError(429, "too many requests", {"Retry-After": "1"})
        self._is_checked = True

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    @property
    def _type(self) -> str:
        return self.headers.get_content_type()

    @property
    def _most_bytes(self) -> int:
        limits = self.server.limits
        return limits.json_bytes if self._type == JSON else limits.body_bytes

    def _has_token(self) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(errors="replace"), self.server.token
        )

    def _search(self) -> Mapping[str, Any]:
        if not self.server.slots.acquire(blocking=False):
            raise RefusedError(429, "busy", {"Retry-After": "1"})
        try:
            self._timed.extend(self.server.limits.body_seconds)
            body = read_body(self.rfile, self._length, self._most_bytes)
            return self.server.service.search(body, self._type, self.path.partition("?")[2])
        finally:
            self.server.slots.release()

    def _refuse(self, refused: RefusedError) -> None:
        self._is_refused = True
        self._send(refused.status, {"error": refused.problem}, refused.headers)

    def _send(self, status: int, answer: Mapping[str, Any], headers: Mapping[str, str] = {}) -> None:
        content = json.dumps(answer).encode()
        self.connection.settimeout(self.server.limits.body_seconds)
        with suppress(OSError):
            self.send_response(status)
            for name, value in {"Content-Type": JSON, **headers, "Connection": "close"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What http.server itself refuses: no HTTP, too long, an unknown method."""
        self.close_connection = True
        self._refuse(RefusedError(code, message or "not understood"))

    def finish(self) -> None:
        """Throw away, within limits, what a refused client still sends: unread, it would take the answer with it."""
        with suppress(OSError):
            if self._is_refused:
                self.connection.shutdown(socket.SHUT_WR)
                self._timed.extend(LINGER_SECONDS)
                left = self.server.limits.body_bytes
                while left > 0 and (received := len(self._timed.read(min(left, 2**16)) or b"")):
                    left -= received
        with suppress(OSError):
            super().finish()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        """One line for each answer; what a client wrote, such as a token in the wrong place, is not in it."""
        known = hasattr(self, "path") and self._path in METHODS and hasattr(self, f"do_{self.command}")
        what = f"{self.command} {self._path}" if known else "unknown request"
        message(f"{self.client_address[0]} {what}: {int(code)}, {time.monotonic() - self._began:.2f} s")

    def log_message(self, format: str, *arguments: object) -> None:
        """http.server's own words are not shown."""
