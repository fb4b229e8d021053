"""timm's image networks as per-frame backbones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from video_backbones import BackboneError, WeightsError
from video_backbones.factory import build_backbone

CLIP = (3, 64, 32)
SIZES = {"timm/resnet10t": 512, "timm/vit_tiny_patch16_224": 192, "timm/mobilenetv3_small_050": 1024}


def clips(batch: int) -> Tensor:
    return torch.randn(batch, 3, 3, 64, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SIZES)
def test_features_are_the_mean_of_timms_own(name: str) -> None:
    backbone = build_backbone(name, weights="random", clip_size=CLIP).double().eval()
    size: dict[str, Any] = {"img_size": (64, 32)} if "vit" in name else {}
    network = timm.create_model(name.removeprefix("timm/"), num_classes=0, **size).double().eval()
    network.load_state_dict({k.removeprefix("network."): v for k, v in backbone.state_dict().items() if "network" in k})
    with torch.no_grad():
        expected = torch.stack([network(frame) for frame in clips(2).double().unbind(1)]).mean(0)
        feature = backbone(clips(2).double())
    assert feature.shape == (2, SIZES[name])
    torch.testing.assert_close(feature, backbone.bn(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SIZES)
def test_every_parameter_is_trained(name: str) -> None:
    backbone = build_backbone(name, weights="random", temporal_pool="attention", clip_size=CLIP)
    with torch.autocast("cpu", torch.bfloat16):
        feature = backbone(clips(4))
    torch.autograd.backward((feature * torch.randn_like(feature)).sum())
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_a_file_with_timms_names_and_a_classifier_loads(tmp_path: Path) -> None:
    network = timm.create_model("resnet10t", num_classes=7)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone("timm/resnet10t", weights=tmp_path / "w.pth", clip_size=CLIP)
    torch.testing.assert_close(backbone.state_dict()["network.conv1.0.weight"], network.state_dict()["conv1.0.weight"])
    torch.save(timm.create_model("resnet14t").state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: does not fit TimmFrames: .*unexpected network.layer1"):
        build_backbone("timm/resnet10t", weights=tmp_path / "other.pth", clip_size=CLIP)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_position_tables_of_a_file_are_interpolated(name: str, tmp_path: Path) -> None:
    network = timm.create_model(name)
    torch.save({**network.state_dict(), "x.attn_mask": torch.ones(2)}, tmp_path / "w.pth")
    backbone = build_backbone(f"timm/{name}", weights=tmp_path / "w.pth", clip_size=(3, 256, 128))
    own = {n.removeprefix("network."): value for n, value in backbone.state_dict().items() if n.startswith("network.")}
    given = network.state_dict()
    other = [n for n, value in own.items() if not torch.equal(value, given[n])]  # shows that the others were loaded
    assert other
    assert all("pos_embed" in n or "relative_position_bias_table" in n for n in other)

    torch.save(backbone.state_dict(), tmp_path / "own.pth")
    with pytest.raises(WeightsError, match="has shape"):
        build_backbone(f"timm/{name}", weights=tmp_path / "own.pth", clip_size=(3, 192, 64), whole=True)


def test_what_cannot_be_made() -> None:
    with pytest.raises(BackboneError, match="timm/crossvit_tiny_240 does not accept frames of 64x32"):
        build_backbone("timm/crossvit_tiny_240", weights="random", clip_size=CLIP)
    with pytest.raises(BackboneError, match="timm has no model 'resnet18x'; did you mean timm/resnet18"):
        build_backbone("timm/resnet18x", weights="random")
    with pytest.raises(BackboneError, match="pools over space itself"):
        build_backbone("timm/resnet10t", weights="random", spatial_pool="gem")
    with pytest.raises(WeightsError, match="no kinetics weights"):
        build_backbone("timm/resnet10t", weights="kinetics")


def test_without_timm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BackboneError, match=r"needs timm: pip install 'ccvid\[timm\]'"):
        build_backbone("timm/resnet10t", weights="random")
