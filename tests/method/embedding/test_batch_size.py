"""How many clips fit the memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ccvid.config import ModelOptions
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.batch_size import CPU_CLIPS, MOST_CLIPS, clips_that_fit, largest_batch
from video_backbones.factory import build_backbone

OPTIONS = ModelOptions(backbone="c2d_resnet18_slim", weights="random", height=32, width=16)


@pytest.mark.parametrize(
    ("fixed", "each", "room", "clips"),
    [(100, 10, 180, 8), (100, 10, 179, 4), (0, 10, 10**9, MOST_CLIPS), (100, 10, 50, 1), (100, 0, 200, 64)],
)
def test_the_largest_power_of_two_that_fits(fixed: int, each: int, room: int, clips: int) -> None:
    asked = []

    def peak_bytes(batch: int) -> int:
        asked.append(batch)
        return fixed + each * batch

    assert largest_batch(peak_bytes, room) == clips
    assert asked == [2, 4]


def test_a_cpu_takes_the_usual_number() -> None:
    model = ReIdModel(build_backbone("c2d_resnet18_slim", weights="random"), nn.Identity())
    assert clips_that_fit(model.eval(), 4, OPTIONS) == CPU_CLIPS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_batch_fits() -> None:
    model = ReIdModel(build_backbone("c2d_resnet18_slim", weights="random"), nn.Identity())
    clips = clips_that_fit(model.cuda().eval(), 4, OPTIONS)
    assert clips >= CPU_CLIPS
    with torch.no_grad():
        assert len(model.embed(torch.zeros(clips, 4, 3, 32, 16, device="cuda"))) == clips
