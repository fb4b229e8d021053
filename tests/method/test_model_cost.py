"""What a network costs: counts by hand, a time that is measured, and its way to disk and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ccvid import model_cost
from ccvid.config import ModelOptions
from ccvid.model import ReIdModel
from ccvid.model_cost import ModelCost, measure_cost
from ccvid.trained_model import configured_backbone
from data_tools.clips import ClipOptions
from data_tools.cpus import processor
from tests.method.test_onnx_networks import FRAMES, HEIGHT, WIDTH, read, weights, write_card, write_graph
from video_backbones.summary import summarise

SLIM = ModelOptions(backbone="c2d_resnet18_slim", weights="random", height=32, width=16)


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cost, "ENOUGH_SECONDS", 0.0)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_network_costs_what_the_table_of_backbones_says(dtype: torch.dtype | None) -> None:
    model = ReIdModel(configured_backbone(SLIM, ClipOptions(length=2)), nn.Identity(), autocast_dtype=dtype).eval()
    found, expected = measure_cost(model, (2, 32, 16), "cpu"), summarise("c2d_resnet18_slim", (2, 32, 16))
    assert (found.parameters, found.flops) == (expected.parameters, expected.flops)
    assert found.milliseconds > 0
    assert found.machine == f"{processor()}, {'float32' if dtype is None else 'bfloat16'}"
    assert ModelCost.model_validate_json(found.model_dump_json()) == found


def test_a_graph_has_the_values_of_its_weights_and_no_flops(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx", "NTCHW")
    write_card(tmp_path, layout="NTCHW")
    found = measure_cost(read(tmp_path), (FRAMES, HEIGHT, WIDTH), "cpu")
    assert (found.parameters, found.flops) == (weights("NTCHW").size, None)
    assert found.machine.endswith("the graph's own precision")
