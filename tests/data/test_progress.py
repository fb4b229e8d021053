"""Progress records: their lines, rates and time left, and the console that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from data_tools.progress import (
    Kept,
    Message,
    Meter,
    News,
    PlainConsole,
    Progress,
    State,
    all_kept,
    message,
    note_kept,
    seconds_left,
    state,
    using_console,
)


@dataclass
class Heard:
    """A console that keeps what it shows."""

    news: list[News] = field(default_factory=list)

    def show(self, news: News) -> None:
        self.news.append(news)

    @property
    def lines(self) -> list[str]:
        return [news.line() for news in self.news if isinstance(news, Progress) and not news.tick]

    @property
    def ticks(self) -> list[Progress]:
        return [news for news in self.news if isinstance(news, Progress) and news.tick]


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def heard() -> Iterator[Heard]:
    console = Heard()
    with using_console(console):
        yield console


def test_a_line_has_what_there_is() -> None:
    whole = Progress(
        "training",
        3,
        8,
        "steps",
        place="epoch 1/2 step 3/4",
        rates=((120.4, "clips"), (3.25, "tracklets")),
        figures=("data wait 2%",),
        seconds_left=3725.4,
        note="shown elsewhere",
    )
    assert whole.line() == "epoch 1/2 step 3/4  120 clips/s  3.2 tracklets/s  data wait 2%  left 1:02:05"
    assert Progress("sharding", 3, 8, "shards").line() == "sharding: 3/8 shards"
    assert Progress("fetching", 0.5, 2).line() == "fetching: 0.5/2"


def test_plain_console_prints_lines_and_leaves_out_what_is_for_a_live_display(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with using_console(PlainConsole()):
        message("found: a CPU")
        message("told by the progress, too", transient=True)
        state("starting")
        note_kept("checkpoint", "epoch 1")
        PlainConsole().show(Progress("sharding", 1, 8, tick=True))
        PlainConsole().show(Progress("sharding", 2, 8))
    assert capsys.readouterr().out == "found: a CPU\ntold by the progress, too\nstarting\nsharding: 2/8\n"


def test_a_meter_counts_rates_and_the_time_left(heard: Heard) -> None:
    clock = Clock()
    meter = Meter("sharding", 10, "shards", every_seconds=5, clock=clock)
    clock.now += 0.4
    meter.add(1, frames=100)
    assert [(tick.done, tick.seconds_left) for tick in heard.ticks] == [(0, None)]  # that it has begun
    clock.now += 1.6
    meter.add(1, frames=100)  # 200 frames in 2 s, 8 of 10 shards left at one a second
    assert [(tick.done, tick.seconds_left, tick.rates) for tick in heard.ticks][1:] == [(2, 8.0, ((100.0, "frames"),))]
    clock.now += 3.0
    meter.add(3, frames=300)
    assert heard.lines == ["sharding: 5/10 shards  100 frames/s  left 0:00:05"]
    clock.now += 1.0
    meter.add(5, frames=700)
    assert heard.lines[1:] == ["sharding: 10/10 shards  200 frames/s  left 0:00:00"]


def test_the_time_left_goes_by_the_work_where_that_is_not_what_is_counted(heard: Heard) -> None:
    clock = Clock()
    meter = Meter("embedding", 4, "tracklets", work=100, every_seconds=1, clock=clock)
    clock.now += 2.0
    meter.add(2, work=20)  # half of the tracklets, a fifth of the clips
    assert heard.lines == ["embedding: 2/4 tracklets  left 0:00:08"]


def test_brief_work_is_reported_only_if_it_takes_long(heard: Heard) -> None:
    clock = Clock()
    quick = Meter("embedding", 2, every_seconds=5, brief=True, clock=clock)
    quick.add(2)
    assert heard.lines == []
    assert [tick.finished for tick in heard.ticks] == [False, True]  # otherwise a live display would continue with it
    heard.news.clear()
    slow = Meter("embedding", 2, every_seconds=5, brief=True, within="training", clock=clock)
    clock.now += 2.0
    slow.add(1)
    assert [(tick.done, tick.within) for tick in heard.ticks] == [(0, "training"), (1, "training")]
    clock.now += 4.0
    slow.add(1)
    assert heard.lines == ["embedding: 2/2  left 0:00:00"]


def test_no_time_is_known_before_anything_is_done() -> None:
    assert seconds_left(0, 10, 5.0) is None
    assert seconds_left(2, 10, 5.0) == 20.0
    assert seconds_left(12, 10, 5.0) == 0.0


def test_the_last_word_on_what_is_kept(heard: Heard) -> None:
    note_kept("test shards", "1 of 3 shards")
    note_kept("test checkpoint", "a checkpoint of epoch 1")
    note_kept("test shards", "2 of 3 shards")
    assert all_kept()[-2:] == ["2 of 3 shards", "a checkpoint of epoch 1"]
    assert heard.news == [
        Kept("test shards", "1 of 3 shards"),
        Kept("test checkpoint", "a checkpoint of epoch 1"),
        Kept("test shards", "2 of 3 shards"),
    ]


def test_a_console_is_used_for_a_while(heard: Heard) -> None:
    inner = Heard()
    with using_console(inner):
        message("inside")
    state("outside")
    assert (inner.news, heard.news) == ([Message("inside")], [State("outside")])
