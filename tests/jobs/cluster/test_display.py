"""What a job shows: live on a terminal, in plain lines elsewhere, and from its workers."""

from __future__ import annotations

import io
import sys
import time

import pytest
from rich.console import Console

from data_tools.progress import Message, Progress, State
from ray_jobs.cluster.worker_events import place_of, reason
from ray_jobs.display import Display, is_live, packed

TRAINING = Progress(
    "training",
    12,
    48,
    "steps",
    place="epoch 2/6 step 4/8",
    rates=((120.4, "clips"),),
    figures=("data wait 2%", "loss: identity 2.24, clothes 3.64, adversarial –", "identity accuracy 0.53"),
    seconds=30.0,
    seconds_left=90.0,
    note="held-out mAP, epoch 1: general 62.7%",
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def terminal(width: int = 80) -> Console:
    return Console(file=Terminal(), width=width, height=24, force_terminal=True, color_system=None, highlight=False)


def shown(display: Display, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(display)
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("stream", "environment", "live"),
    [
        (Terminal(), {"TERM": "xterm-256color"}, True),
        (Terminal(terminal=False), {"TERM": "xterm-256color"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_where_a_display_is_live(stream: Terminal, environment: dict[str, str], live: bool) -> None:
    assert is_live(stream, environment) is live


def test_all_of_training_within_80_columns() -> None:
    clock = Clock()
    display = Display(terminal(), clock)
    clock.now = 5.0
    display.show(State("training on 2 workers", lasting=True))
    display.show(TRAINING)
    display.show(Progress("embedding", 30, 120, "clips", within="training"))
    clock.now = 70.0
    lines = shown(display)
    assert lines[0].startswith("training  epoch 2/6 step 4/8 ━")
    assert lines[0].endswith("25% left 0:01:30")
    assert lines[1:4] == [
        "  120 clips/s  data wait 2%  loss: identity 2.24, clothes 3.64, adversarial –",
        "  identity accuracy 0.53",
        "  held-out mAP, epoch 1: general 62.7%",
    ]
    assert lines[4].startswith("embedding  30/120 clips ━")
    assert "training on 2 workers  0:01:05" in lines[5]
    assert len(lines) == 6
    for width in (30, 80, 200):
        assert max(map(len, shown(display, width))) <= width


def test_work_and_states_follow_each_other() -> None:
    console = terminal()
    display = Display(console, Clock())
    display.show(State("starting Ray"))
    assert "starting Ray" in "".join(shown(display))
    display.show(Progress("sharding", 1, 4, "shards", rates=((50.0, "frames"),)))
    assert "starting Ray" not in "".join(shown(display))
    display.show(Progress("sharding", 4, 4, "shards", rates=((60.0, "frames"),), seconds=8.0))
    display.show(Message("told above", transient=True))
    display.show(Message("a message of\ntwo lines"))
    display.show(State("starting 2 workers"))
    (line,) = shown(display)
    assert "starting 2 workers" in line
    file = console.file
    assert isinstance(file, io.StringIO)
    assert file.getvalue() == "✓ sharding: 4/4 shards  60 frames/s  0:00:08\na message of\ntwo lines\n"


def test_what_else_is_printed_goes_above_and_nothing_is_left_at_the_end() -> None:
    console = terminal()
    long = "a line that is longer than the terminal is wide " * 3
    with Display(console) as display:
        display.show(TRAINING)
        print("printed by somebody")
        print("a warning", file=sys.stderr)
        display.show(Message(long))
        time.sleep(0.6)  # some refreshes
    file = console.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    assert "printed by somebody\n" in text
    assert "a warning" in text
    assert long in text  # not split: the terminal wraps it, and it can be copied as a whole
    assert text.endswith("\x1b[2K")  # the last thing is that its own lines are removed
    assert not isinstance(sys.stdout, Terminal)


def test_items_are_packed_unbroken() -> None:
    assert packed(["a" * 10, "b" * 10, "c" * 30], 24) == ["a" * 10 + "  " + "b" * 10, "c" * 30]
    assert packed([], 24) == []


def test_a_checkpoints_place_and_a_failures_reason_in_words() -> None:
    assert place_of({"epoch": 3, "best_score": 0.1}) == "epoch 3"
    assert place_of({"epoch": 2, "step": 5}) == "epoch 3, step 5"
    assert reason(ValueError("first\n  last  \n\n")) == "last"
    assert reason(ValueError()) == "ValueError"
