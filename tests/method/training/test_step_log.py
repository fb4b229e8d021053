"""What training reports while it runs: files, sinks, progress lines and log records."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ccvid.training.step_log import MetricGroup, StepLog, add_test_scores, flatten
from ccvid.training.update_result import UpdateResult


class Heard:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.values: list[tuple[MetricGroup, int, dict[str, float]]] = []

    def add(self, group: MetricGroup, step: int, values: Mapping[str, float]) -> None:
        self.values.append((group, step, dict(values)))


def result(loss: float) -> UpdateResult:
    losses = {"identity": torch.tensor(loss), "clothes": torch.tensor(1.0)}
    return UpdateResult(losses, identity_accuracy=torch.tensor(0.5))


def test_sinks_get_what_the_files_get(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
    log = StepLog(tmp_path, first_step=0, total_steps=4, clips_per_step=6, sinks=[heard])
    log.add(0, 0.1, result(3.0))
    log.add(1, 0.1, result(2.0))
    log.flush("epoch 1/2 step 2/2", 0.0, epoch=1.0)
    log.add_validation(1, {"general_map": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]  # before it is closed
    log.close()
    train = {"learning_rate": 0.1, "identity_accuracy": 0.5, "clothes_loss": 1.0}
    assert heard.values[:2] == [
        ("train", 0, {**train, "identity_loss": 3.0}),
        ("train", 1, {**train, "identity_loss": 2.0}),
    ]
    group, step, speed = heard.values[2]
    assert (group, step, set(speed)) == ("speed", 1, {"clips_per_second", "data_wait_share", "epoch"})
    assert speed["clips_per_second"] > 0
    assert heard.values[3:] == [("validation", 1, {"general_map": 0.25})]
    assert lines == [{"step": step, **values} for group, step, values in heard.values if group != "speed"]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/identity_loss")] == [(0, 3.0), (1, 2.0)]
    assert board.Scalars("speed/epoch")[0].value == 1.0
    assert board.Scalars("validation/general_map")[0].step == 1
    assert "epoch 1/2 step 2/2" in capsys.readouterr().out


def test_other_ranks_tell_their_sinks_and_the_log_but_print_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ccvid")
    heard = Heard()
    log = StepLog(None, first_step=10, total_steps=20, clips_per_step=6, sinks=[heard])
    log.add(10, 0.1, result(3.0))
    log.flush("epoch 2/2 step 1/10", 0.0)
    log.close()
    assert [group for group, _, _ in heard.values] == ["train", "speed"]
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())
    (record,) = caplog.records
    assert (record.event, record.step, record.getMessage()) == ("progress", 10, "epoch 2/2 step 1/10")  # type: ignore[attr-defined]
    assert record.clips_per_second > 0  # type: ignore[attr-defined]


def test_test_scores_keep_the_names_of_metrics_json() -> None:
    heard = Heard()
    metrics = {"protocols": {"general": {"map": 0.5, "cmc": {"1": 0.25, "5": 1}, "queries": 4}}, "model": "c2d"}
    add_test_scores([heard], 7, metrics)
    assert heard.values == [
        ("test", 7, {"general/map": 0.5, "general/cmc/1": 0.25, "general/cmc/5": 1.0, "general/queries": 4.0})
    ]
    assert flatten({"a": {"b": None, "c": {}}, "d": [1]}, ".") == {"a.b": None, "d": [1]}
