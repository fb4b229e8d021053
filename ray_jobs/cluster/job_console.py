"""Showing the news of a job's workers on the console of its driver: an actor collects it, the driver shows it.

Senders never wait. If the driver or the actor is gone, news is dropped.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_tools.progress import Message, News, message, show, use_console, using_console

NAMESPACE = "ccvid"
MOST_WAITING = 10_000
"""Most undelivered news that are kept."""
TAKE_SECONDS = 30.0
"""How long the driver waits for news before it asks again."""
SETTLE_SECONDS = 60.0
"""How long to wait for news in transit; a busy machine may take long to start the actor."""
CLOSE_SECONDS = 2.0
LOOK_SECONDS = 0.5
"""How often the driver, while it waits for news, looks whether it is to stop."""

Result = TypeVar("Result")


class Mailbox:
    """An actor on the driver's node that lives as long as the driver."""

    def __init__(self) -> None:
        self._news: deque[News | int] = deque(maxlen=MOST_WAITING)
        self._arrived = asyncio.Event()

    async def post(self, news: list[News | int]) -> None:
        """Receive news from a worker; numbers are the driver's own markers."""
        self._news.extend(news)
        self._arrived.set()

    async def take(self) -> list[News | int]:
        """The news received, in order; waits a while if there is none."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), TAKE_SECONDS)
        self._arrived.clear()
        news = list(self._news)
        self._news.clear()
        return news


class Listener:
    """Shows the workers' news in the driver, from a thread."""

    def __init__(self, job: str) -> None:
        make: Any = ray.remote(Mailbox).options(
            name=_name(job),
            namespace=NAMESPACE,
            num_cpus=0,
            max_concurrency=MOST_WAITING,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        )
        self.job, self.heard = job, 0
        self._mailbox = make.remote()
        self._mark, self._seen, self._ending, self._left = 0, threading.Condition(), False, threading.Event()
        self._last_mark, self._ended = 0, False
        self._thread = threading.Thread(target=self._listen, daemon=True, name="listener")
        self._thread.start()

    def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Return once everything received so far is shown; gives up after ``seconds``."""
        self._mark += 1
        with suppress(Exception):  # Ray is gone, and the news with it
            self._mailbox.post.remote([self._mark])
            with self._seen:
                self._seen.wait_for(lambda: self._last_mark >= self._mark or self._ended, seconds)

    def close(self) -> None:
        """Show what was received, and end the thread: one that calls Ray after its shutdown ends the process."""
        self._ending = True
        self.settle(CLOSE_SECONDS)
        self._left.set()
        self._thread.join()

    def _listen(self) -> None:
        try:
            self._show_all()
        finally:
            with self._seen:
                self._ended = True
                self._seen.notify_all()

    def _show_all(self) -> None:
        while not self._ending:
            try:
                taken = self._mailbox.take.remote()
                while not ray.wait([taken], timeout=LOOK_SECONDS)[0]:
                    if self._left.is_set():
                        return
                arrived = ray.get(taken)
            except Exception:  # the actor or Ray is gone
                return
            for news in arrived:
                if not isinstance(news, int):
                    self.heard += 1
                    show(news)
            with self._seen:
                self._last_mark = max([self._last_mark, *(mark for mark in arrived if isinstance(mark, int))])
                self._seen.notify_all()


class _Driver:
    listener: Listener | None = None


def listen() -> None:
    """In a driver: start showing its workers' news."""
    _close()
    _Driver.listener = Listener(ray.get_runtime_context().get_job_id())
    atexit.register(_close)  # before Ray's own, which was registered earlier


def settle() -> None:
    """In a driver: show everything its workers have sent so far."""
    if _Driver.listener is not None:
        _Driver.listener.settle()


@contextmanager
def message_if_silent(seconds: float, text: Callable[[], str]) -> Iterator[None]:
    """In a driver: show ``text()`` if workers have sent nothing ``seconds`` after the start of the block."""
    listener = _Driver.listener
    heard = listener.heard if listener is not None else 0

    def tell() -> None:
        if listener is not None and listener.heard == heard:
            with suppress(Exception):  # Ray is gone
                message(text())

    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class DriversConsole:
    """In a worker: the console of its job's driver. A separate thread sends, so that callers never wait.

    Args:
        sender: prefix of messages, to distinguish workers.
    """

    def __init__(self, mailbox: Any, sender: str = "") -> None:
        self._mailbox, self._sender = mailbox, sender
        self._waiting: deque[News] = deque(maxlen=MOST_WAITING)
        self._changed, self._sending = threading.Condition(), False

    def show(self, news: News) -> None:
        if self._sender and isinstance(news, Message):
            news = Message(f"{self._sender}: {news.text}", news.transient)
        with self._changed:
            self._waiting.append(news)
            if not self._sending:
                self._sending = True
                threading.Thread(target=self._send, daemon=True, name="telling").start()

    def flush(self) -> None:
        """Wait until all news has arrived or cannot arrive any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._sending, SETTLE_SECONDS)

    def _send(self) -> None:
        """One call at a time, because an async actor may process several in any order."""
        while True:
            with self._changed:
                news = list(self._waiting)
                self._waiting.clear()
                if not news:
                    self._sending = False
                    self._changed.notify_all()
                    return
            with suppress(Exception):  # never a reason to stop the work
                ray.get(self._mailbox.post.remote(news))


def drivers_console(sender: str = "") -> DriversConsole | None:
    """The console of this worker's driver; None if the driver does not listen."""
    try:
        mailbox = ray.get_actor(_name(ray.get_runtime_context().get_job_id()), namespace=NAMESPACE)
    except Exception:  # no such actor, or Ray does not answer
        return None
    return DriversConsole(mailbox, sender)


def use_drivers_console() -> None:
    """In an actor of a job: send its news to the driver from now on."""
    if console := drivers_console():
        use_console(console)


def with_drivers_console(function: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a function for a Ray task, so that its news goes to the driver."""

    @wraps(function)
    def wrapped(*arguments: Any) -> Result:
        console = drivers_console()
        if console is None:
            return function(*arguments)
        with using_console(console):
            try:
                return function(*arguments)
            finally:
                console.flush()

    return wrapped


def _name(job: str) -> str:
    return f"console of job {job}"


def _close() -> None:
    if _Driver.listener is not None:
        _Driver.listener.close()
        _Driver.listener = None
