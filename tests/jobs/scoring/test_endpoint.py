"""The HTTP server against hostile clients, with a service that only counts."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from data_tools.errors import InputError
from ray_jobs.scoring.endpoint import Endpoint, Limits
from ray_jobs.scoring.http_requests import RateLimit

TOKEN = "correct-horse-battery-staple"
AUTHORIZED = f"Authorization: Bearer {TOKEN}\r\n"
LIMITS = Limits(body_bytes=1000, json_bytes=100, header_seconds=0.4, body_seconds=0.4, requests_per_second=1e6)


class Counting:
    """Answers with the size of the body; waits where it is told to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.failure: Exception | None = None

    def search(self, body: bytes, content_type: str, query: str) -> Mapping[str, Any]:
        self.bodies.append(body)
        assert self.go_on.wait(30)
        if self.failure is not None:
            raise self.failure
        return {"bytes": len(body), "type": content_type, "query": query}

    def health(self) -> Mapping[str, Any]:
        return {"status": "ok"}


@contextmanager
def served(limits: Limits = LIMITS) -> Iterator[tuple[Endpoint, Counting]]:
    service = Counting()
    with Endpoint("127.0.0.1", 0, TOKEN, service, limits) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield endpoint, service
        finally:
            service.go_on.set()
            endpoint.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with served() as (endpoint, _):
        yield endpoint


def connect(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection(("127.0.0.1", endpoint.server_port), timeout=30)


def rest(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def ask(endpoint: Endpoint, request: str | bytes) -> tuple[int, dict[str, Any], str]:
    """The status, the JSON and the headers of the answer to a request's bytes."""
    with connect(endpoint) as connection:
        connection.sendall(request.encode() if isinstance(request, str) else request)
        answer = rest(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else {}, head.decode()


def post(
    body: str | bytes = b"{}", headers: str = "", *, path: str = "/search", kind: str = "application/json"
) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    length = (
        "" if "length" in headers.lower() or "encoding" in headers.lower() else f"Content-Length: {len(content)}\r\n"
    )
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{AUTHORIZED}Content-Type: {kind}\r\n{length}{headers}\r\n"
    return head.encode() + content


def test_answers(endpoint: Endpoint) -> None:
    status, answer, head = ask(endpoint, post(b"12345", path="/search?top=3", kind="video/mp4"))
    assert (status, answer) == (200, {"bytes": 5, "type": "video/mp4", "query": "top=3"})
    assert "Connection: close" in head
    assert "Content-Type: application/json" in head
    assert ask(endpoint, "GET /health HTTP/1.1\r\n\r\n")[:2] == (200, {"status": "ok"})
    assert endpoint.url == f"http://127.0.0.1:{endpoint.server_port}"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer wrong\r\n",
        f"Authorization: Basic {TOKEN}\r\n",
        f"Authorization: {TOKEN}\r\n",
        f"Authorization: Bearer {TOKEN[:-1]}\r\n",
        f"Authorization: Bearer {TOKEN} {TOKEN}\r\n",
        "Authorization: Bearer \u00e9\u00e8\r\n",
    ],
)
def test_without_the_token_nothing_is_said(header: str, endpoint: Endpoint) -> None:
    for path in ("/search", "/else"):
        status, answer, head = ask(endpoint, f"POST {path} HTTP/1.1\r\n{header}Content-Length: 9999999\r\n\r\n")
        assert (status, answer) == (401, {"error": "expected Authorization: Bearer TOKEN"})
        assert "WWW-Authenticate: Bearer" in head


@pytest.mark.parametrize(
    ("request_line", "status", "problem"),
    [
        ("GET /search", 405, "expected POST"),
        ("DELETE /search", 405, "expected POST"),
        ("POST /health", 405, "expected GET"),
        ("HEAD /health", 405, ""),
        ("BREW /search", 501, "Unsupported method"),
        ("POST /", 404, "there are /health, /search"),
        ("POST /search/../etc", 404, "no such path"),
        ("POST http://x/search", 404, "no such path"),
        (f"GET /{'x' * 70_000}", 414, "not understood"),
    ],
)
def test_other_methods_and_paths(request_line: str, status: int, problem: str, endpoint: Endpoint) -> None:
    found, answer, _ = ask(endpoint, f"{request_line} HTTP/1.1\r\n{AUTHORIZED}Content-Length: 0\r\n\r\n")
    assert found == status
    assert problem in answer.get("error", "")


CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("body", "headers", "status", "problem"),
    [
        (b"x" * 101, "", 413, "more than 100 bytes"),
        (b"", "Content-Length: 101\r\n", 413, "more than 100 bytes"),
        (b"", f"Content-Length: {'9' * 400}\r\n", 413, "more than 100 bytes"),
        (b"{}", "Content-Length: -2\r\n", 400, "not one whole number"),
        (b"{}", "Content-Length: 2\r\nContent-Length: 2\r\n", 400, "not one whole number"),
        (b"{}", "Content-Length: \u0662\r\n", 400, "not one whole number"),
        (b"{}", "X-Length: 2\r\n", 411, "no Content-Length"),
        (b"{}", f"Content-Length: 2\r\n{CHUNKED}", 400, "either Content-Length or"),
        (b"{}", "Transfer-Encoding: gzip, chunked\r\n", 400, "either Content-Length or"),
        (b"0\r\n\r\n", CHUNKED + CHUNKED, 400, "either Content-Length or"),
        (b"65\r\n" + b"x" * 101, CHUNKED, 413, "more than 100 bytes"),
        (b"40\r\n" + b"x" * 64 + b"\r\n40\r\n", CHUNKED, 413, "more than 100 bytes"),
        (b"ffffffff\r\n", CHUNKED, 413, "more than 100 bytes"),
        (b"fffffffff\r\n", CHUNKED, 400, "does not begin with its size"),
        (b"-1\r\n", CHUNKED, 400, "does not begin with its size"),
        (b"2\r\n{}0\r\n\r\n", CHUNKED, 400, "does not end where its size says"),
        (b"2;" + b"x" * 1000, CHUNKED, 400, "does not begin with its size"),
        (b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 40, CHUNKED, 400, "too many trailers"),
    ],
)
def test_bodies_that_are_refused(body: bytes, headers: str, status: int, problem: str, endpoint: Endpoint) -> None:
    found, answer, _ = ask(endpoint, post(body, headers))
    assert (found, problem in answer["error"]) == (status, True), answer


@pytest.mark.parametrize("body", [b"2\r\n{}\r\n0\r\n\r\n", b"1;a=b\r\n{\r\n01\r\n}\r\n0\r\nTrailer: x\r\n\r\n"])
def test_a_body_in_chunks(body: bytes, endpoint: Endpoint) -> None:
    assert ask(endpoint, post(body, CHUNKED))[:2] == (
        200,
        {"bytes": 2, "type": "application/json", "query": ""},
    )


def test_other_types_are_refused_and_have_limits_of_their_own(endpoint: Endpoint) -> None:
    status, answer, _ = ask(endpoint, post(kind="application/x-www-form-urlencoded"))
    assert (status, answer["error"].partition(", got")[0]) == (
        415,
        "expected Content-Type application/json or video/…",
    )
    assert ask(endpoint, post(b"x" * 1000, kind="video/mp4"))[0] == 200
    assert ask(endpoint, post(b"x" * 1001, kind="video/mp4"))[0] == 413


def test_a_body_is_asked_for_only_if_it_is_wanted(endpoint: Endpoint) -> None:
    def expecting(length: int, authorized: str = AUTHORIZED) -> bytes:
        head = f"POST /search HTTP/1.1\r\n{authorized}Content-Type: video/mp4\r\nContent-Length: {length}\r\n"
        with connect(endpoint) as connection:
            connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            answer = connection.recv(1000)
            if answer == b"HTTP/1.1 100 Continue\r\n\r\n":
                connection.sendall(b"x" * length)
            return answer + rest(connection)

    assert b"200 OK" in expecting(7)
    assert expecting(1001).startswith(b"HTTP/1.1 413 ")
    assert expecting(7, "").startswith(b"HTTP/1.1 401 ")


def test_whoever_sends_too_much_still_reads_the_answer(endpoint: Endpoint) -> None:
    for headers in ("", "Content-Length: 1\r\nContent-Length: 2\r\n"):
        assert ask(endpoint, post(b"x" * 900_000, headers))[0] in (400, 413)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"POST /search HTTP/1.1\r\n" + AUTHORIZED.encode(), None),
        (post(b"", "Content-Length: 50\r\n"), 408),
        (post(b"10\r\nx", CHUNKED), 408),
    ],
)
def test_slow_clients_are_cut_off_however_they_drip(sent: bytes, status: int | None, endpoint: Endpoint) -> None:
    began = time.monotonic()
    with connect(endpoint) as connection:
        connection.sendall(sent)
        ended = threading.Event()
        drip = threading.Thread(target=lambda: _drip(connection, ended))
        drip.start()
        answer = rest(connection)
        ended.set()
        drip.join()
    assert (int(answer.split()[1]) if answer else None) == status
    assert time.monotonic() - began < 20  # a byte every 50 ms would do for ever


def _drip(connection: socket.socket, ended: threading.Event) -> None:
    while not ended.wait(0.05):
        try:
            connection.sendall(b"x")
        except OSError:
            return


def test_a_body_that_ends_early(endpoint: Endpoint) -> None:
    for request in (post(b"x", "Content-Length: 50\r\n"), post(b"10\r\nx", CHUNKED)):
        with connect(endpoint) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert b"bytes early" in rest(connection)


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n", b"\x00" * 100 + b"\r\n", b"GET /health\r\n"]
)
def test_what_is_no_http(junk: bytes, endpoint: Endpoint) -> None:
    with connect(endpoint) as connection:
        connection.sendall(junk + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        rest(connection)
    headers = b"".join(b"a%d: b\r\n" % number for number in range(200))
    assert ask(endpoint, b"GET /health HTTP/1.1\r\n" + headers + b"\r\n")[0] == 431
    assert ask(endpoint, "GET /health HTTP/1.1\r\n\r\n")[0] == 200


def test_errors_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    with served() as (endpoint, service):
        service.failure = InputError("embedding has 3 values")
        assert ask(endpoint, post())[:2] == (400, {"error": "embedding has 3 values"})
        service.failure = RuntimeError("a secret path")
        assert ask(endpoint, post())[:2] == (500, {"error": "internal error"})
        service.failure = None
        assert ask(endpoint, post())[0] == 200
    output = capsys.readouterr().out
    assert "error while answering: RuntimeError: a secret path" in output
    assert "127.0.0.1 POST /search: 500" in output


def test_the_log_has_neither_token_nor_query(capsys: pytest.CaptureFixture[str]) -> None:
    with served() as (endpoint, _):
        ask(endpoint, post(path=f"/search?token={TOKEN}"))
        ask(endpoint, f"GET /he\x1b[2Jalth?{TOKEN} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}x\r\n\r\n")
        ask(endpoint, f"\x1b[2J /{TOKEN} HTTP/1.1\r\n\r\n")
        ask(endpoint, f"{TOKEN} /search HTTP/1.1\r\n\r\n")
    output = capsys.readouterr()
    assert TOKEN not in output.out + output.err
    assert "\x1b" not in output.out + output.err
    assert "POST /search: 200" in output.out


def started(endpoint: Endpoint, service: Counting, count: int) -> list[socket.socket]:
    """Connections whose requests are being worked on."""
    service.go_on.clear()
    connections = [connect(endpoint) for _ in range(count)]
    for connection in connections:
        connection.sendall(post())
    wait_until(lambda: len(service.bodies) >= count)
    return connections


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_no_more_are_worked_on_than_allowed() -> None:
    with served(replace(LIMITS, at_once=2)) as (busy, service):
        open_ = started(busy, service, 2)
        status, answer, head = ask(busy, post())
        assert (status, answer["error"], "Retry-After: 1" in head) == (429, "busy", True)
        assert ask(busy, "GET /health HTTP/1.1\r\n\r\n")[0] == 200
        service.go_on.set()
        assert [rest(connection).split()[1] for connection in open_] == [b"200", b"200"]
        assert ask(busy, post())[0] == 200
        for connection in open_:
            connection.close()


def test_no_more_connections_than_allowed() -> None:
    with served(replace(LIMITS, connections=2, header_seconds=30)) as (endpoint, _):
        idle = [connect(endpoint) for _ in range(2)]
        time.sleep(0.2)
        assert ask(endpoint, "GET /health HTTP/1.1\r\n\r\n")[0] == 429
        for connection in idle:
            connection.close()
        wait_until(lambda: ask(endpoint, "GET /health HTTP/1.1\r\n\r\n")[0] == 200)


def test_the_end_waits_for_the_requests_under_way() -> None:
    with served() as (endpoint, service):
        [connection] = started(endpoint, service, 1)
        threading.Timer(0.2, service.go_on.set).start()
        endpoint.shutdown()
    with connection:
        assert b"200 OK" in rest(connection)
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint)


def test_the_rate() -> None:
    now = [0.0]
    limit = RateLimit(2.0, lambda: now[0])
    assert [limit.allows() for _ in range(5)] == [True] * 4 + [False]
    now[0] = 0.4
    assert not limit.allows()
    now[0] = 0.6
    assert [limit.allows(), limit.allows()] == [True, False]
    now[0] = 1000.0
    assert [limit.allows() for _ in range(5)] == [True] * 4 + [False]
    assert RateLimit(0.01, lambda: 0.0).allows()
    with served(replace(LIMITS, requests_per_second=0.5)) as (endpoint, service):
        assert [ask(endpoint, post())[0] for _ in range(3)] == [200, 429, 429]
        assert ask(endpoint, "POST /search HTTP/1.1\r\n\r\n")[0] == 401
        assert len(service.bodies) == 1


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 8460), ("no such host.invalid", 0), ("127.0.0.1", 70_000)])
def test_addresses_that_cannot_be_served(host: str, port: int) -> None:
    with pytest.raises(InputError, match=f"--host {host} --port {port}: cannot be served at: "):
        Endpoint(host, port, TOKEN, Counting())


def test_a_port_in_use(endpoint: Endpoint) -> None:
    with pytest.raises(InputError, match="Address already in use"):
        Endpoint("127.0.0.1", endpoint.server_port, TOKEN, Counting())


def test_ipv6() -> None:
    try:
        endpoint = Endpoint("::1", 0, TOKEN, Counting())
    except InputError:
        pytest.skip("this machine has no IPv6")
    with endpoint:
        assert endpoint.url == f"http://[::1]:{endpoint.server_port}"
