"""Finding out whether bfloat16 is faster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ccvid import precision
from ccvid.config import ModelOptions, Recipe
from ccvid.model import ReIdModel
from ccvid.precision import TRIED_PICTURES, bf16_speed
from ccvid.training import trainer as trainer_module
from ccvid.training.context import LocalRun
from ccvid.training.trainer import Trainer
from data_tools.clips import ClipOptions
from data_tools.shards import ShardFolder
from video_backbones import backbone_names

CPU = torch.device("cpu")
SLIM = ModelOptions(backbone="c2d_resnet18_slim", weights="random", height=64, width=32)


@pytest.fixture
def no_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0.0)


def pretend(monkeypatch: pytest.MonkeyPatch, float32: float, bf16: float) -> list[tuple[int, ...]]:
    """Make steps take that many seconds; returns the shapes of what is timed."""
    tried: list[tuple[int, ...]] = []

    def step(model: ReIdModel, frames: torch.Tensor) -> float:
        tried.append(tuple(frames.shape))
        return bf16 if model.autocast_dtype is torch.bfloat16 else float32

    monkeypatch.setattr(precision, "_step_seconds", step)
    return tried


@pytest.mark.usefixtures("no_tries")
def test_ratio_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0.3, 0.1)
    assert bf16_speed(SLIM, ClipOptions(), CPU) == pytest.approx(3)


@pytest.mark.usefixtures("no_tries")
def test_an_emulation_is_tried_once_on_small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, 0.1, 2.0)
    large = SLIM.model_copy(update={"height": 256, "width": 128})
    assert bf16_speed(large, ClipOptions(), CPU) == pytest.approx(0.05)
    assert set(tried) == {(2, 1, 3, 64, 32)}
    assert len(tried) == 3


@pytest.mark.usefixtures("no_tries")
@pytest.mark.parametrize("size", [(384, 192), (224, 224), (256, 128), (100, 50)])
def test_pictures_stay_of_their_shape(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    tried = pretend(monkeypatch, 0.1, 0.1)
    height, width = size
    bf16_speed(SLIM.model_copy(update={"height": height, "width": width}), ClipOptions(), CPU)
    for shape in set(tried):
        assert shape[-2] * width == shape[-1] * height
        assert shape[-2] * shape[-1] <= TRIED_PICTURES[-1] or shape[-2] % 32 or shape[-1] % 32


@pytest.mark.usefixtures("no_tries")
@pytest.mark.parametrize("name", backbone_names())
def test_every_backbone_can_be_tried(name: str) -> None:
    options = ModelOptions(backbone=name, weights="random", height=64, width=32)
    before = torch.random.get_rng_state()
    assert bf16_speed(options, ClipOptions(), CPU) > 0
    assert torch.equal(torch.random.get_rng_state(), before), "a run's first weights depend on its seed alone"


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    assert bf16_speed(SLIM, ClipOptions(), CPU) > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("speed", "expected"), [(2.0, True), (1.0, False), (0.1, False)])
def test_a_trainer_decides_where_nobody_has(
    speed: float, expected: bool, monkeypatch: pytest.MonkeyPatch, tiny_shards: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(trainer_module, "bf16_speed", lambda *_: speed)
    values = {
        "data": {"shards": tiny_shards},
        "batch": {"identities": 2, "clips": 2},
        "model": {"backbone": "c2d_resnet18_slim", "weights": "random", "height": 32, "width": 16},
        "clip": {"length": 2, "stride": 2, "piece": 0},
    }
    recipe = Recipe.model_validate({**values, "train": {"bf16": "auto"}})
    made = Trainer(recipe, ShardFolder(tiny_shards), LocalRun(tmp_path))
    assert made.recipe.train.bf16 is expected
    assert made.model.autocast_dtype is (torch.bfloat16 if expected else None)


@pytest.mark.parametrize("text", ["auto", "AUTO", True, "true", "false", "1"])
def test_what_may_be_asked_for(text: object) -> None:
    found = Recipe.model_validate({"train": {"bf16": text}}).train.bf16
    assert found == ("auto" if str(text).lower() == "auto" else str(text).lower() in ("true", "1"))


@pytest.mark.parametrize("value", ["fast", 3, None, "", [1]])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected auto, true or false"):
        Recipe.model_validate({"train": {"bf16": value}})
