"""The table of backbones."""

from __future__ import annotations

import re

import pytest
from torchvision.models import resnet18

from video_backbones.summary import main, summarise


def test_a_summary_counts_parameters_and_work() -> None:
    one, two = (summarise("c2d_resnet18_slim", (frames, 64, 32)) for frames in (1, 2))
    assert one.parameters == two.parameters
    assert two.flops == 2 * one.flops
    stem = 2 * 32 * 16 * (3 * 7 * 7 * 32)
    assert one.flops > stem
    assert (one.feature_size, one.weights) == (256, ("random",))


def test_parameters_are_the_image_networks_without_its_classifier_and_with_the_neck() -> None:
    image = resnet18(num_classes=1)
    expected = sum(parameter.numel() for parameter in image.parameters()) - (512 + 1) + 2 * 512
    assert summarise("c2d_resnet18", (1, 32, 32)).parameters == expected


def test_the_table_names_every_backbone_and_why_one_does_not_take_the_clip(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["c2d_resnet18_slim", "timm/crossvit_tiny_240", "nothing", "--clip", "2", "64", "32"]) == 0
    shown = capsys.readouterr().out
    assert "one clip of 2 frames of 64x32" in shown
    assert "does not accept frames of 64x32" in shown
    assert "no backbone 'nothing'" in shown


def test_the_table_for_documents(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["c2d_resnet18_slim", "--clip", "1", "64", "32", "--markdown"]) == 0
    heading, rule, row = capsys.readouterr().out.splitlines()
    assert heading == "| backbone | features | parameters (M) | GFLOPs | initial weights besides a file |"
    assert rule == "|---|---|---|---|---|"
    assert re.fullmatch(r"\| `c2d_resnet18_slim` \| 256 \| 2\.8 \| 0\.\d \| random \|", row)


def test_a_clip_without_frames_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--clip", "0", "64", "32"])
    assert "expected numbers above 0" in capsys.readouterr().err
