"""Both stages of CSCI by one command, on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.jobs.breaking import expect_success, metrics
from tests.jobs.head import Head

SMALL: dict[str, Any] = {
    "clip": {"length": 2, "stride": 2, "piece": 0},
    "batch": {"identities": 3, "clips": 2},
    "model": {"backbone": "csci_video/eva_slim", "weights": "random", "height": 32, "width": 16},
    "method": {"name": "csci", "csci": {"colours": {"planes": "mean", "bins": 4}}},
    "train": {"epochs": 1, "log_every_seconds": 1},
    "score": {"report": False, "threshold": {"draws": 100}},
}


@pytest.mark.slow
def test_one_command_trains_both_stages_and_a_second_finds_them_done(
    head: Head, tiny_shards: Path, tmp_path: Path
) -> None:
    first = {**SMALL, "clip": {"length": 1, "stride": 2, "piece": 0, "test_length": 2, "test_places": [1]}}
    first["model"] = {**SMALL["model"], "backbone": "csci_plain/eva_slim"}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))
    second = {**SMALL, "data": {"kind": "footage", "shards": str(tiny_shards)}}
    second["run"] = {"name": "both", "storage": str(tmp_path)}
    second["train"] = {**SMALL["train"], "first_stage": str(tmp_path / "first.yaml")}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    command = ("train.py", "--recipe", str(tmp_path / "second.yaml"), "--compute.workers", "1")
    output = expect_success(head.run(*command))
    assert (
        output.index("stage 1 of 2: ")
        < output.index("stage 2 of 2: run both, from ")
        < output.rindex("clothes-changing")
    )
    (weights,) = (tmp_path / "both-stage1").glob("checkpoint_*/model.safetensors")
    settings = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())
    assert settings["model"]["weights"] == str(weights)
    (trained,) = (tmp_path / "both").glob("checkpoint_*/model.safetensors")
    before, after = (load_file(file)["backbone.norm.weight"] for file in (weights, trained))
    assert 0 < (after - before).abs().max() < 0.1
    assert all("clothes_changing" in metrics(tmp_path / name)["protocols"] for name in ("both-stage1", "both"))
    files = sorted(tmp_path.rglob("metrics.json"))
    times = [file.stat().st_mtime_ns for file in files]
    assert expect_success(head.run(*command)).count("already finished") == 2
    assert [file.stat().st_mtime_ns for file in files] == times
