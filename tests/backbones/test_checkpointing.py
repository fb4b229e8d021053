"""Blocks that are recomputed in the backward pass; of CSCI's networks in `test_csci`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from video_backbones import BackboneError
from video_backbones.backbone import VideoBackbone
from video_backbones.choices import NETWORKS, BackboneChoices, Network
from video_backbones.factory import build_backbone


def step(name: str, *, checkpoint_blocks: bool) -> tuple[int, dict[str, Tensor]]:
    """Bytes kept for the backward pass, and all that a step in training mode makes: outputs, gradients and buffers."""
    torch.manual_seed(1)
    backbone = build_backbone(name, weights="random", checkpoint_blocks=checkpoint_blocks, clip_size=(2, 32, 32))
    clips = torch.randn(2, 2, 3, 32, 32)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        feature = backbone(clips)
        before = sum(kept.values())
        torch.autograd.backward((feature * torch.randn_like(feature)).sum())
    gradients = {f"{n}.grad": p.grad for n, p in backbone.named_parameters() if p.grad is not None}
    return before, {"feature": feature, "next random": torch.rand(1), **gradients, **dict(backbone.named_buffers())}


@pytest.mark.parametrize("name", ["c2d_resnet18_slim", "nl_resnet50", "r3d_18", "s3d", "swin3d_t", "mvit_v2_s"])
def test_nothing_changes_but_the_memory(name: str) -> None:
    (memory, expected), (less, found) = (step(name, checkpoint_blocks=chosen) for chosen in (False, True))
    assert expected.keys() == found.keys()
    assert [part for part, value in expected.items() if not torch.equal(value, found[part])] == []
    assert less < memory


def test_who_cannot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match="timm/resnet10t cannot recompute its blocks"):
        build_backbone("timm/resnet10t", weights="random", checkpoint_blocks=True)

    class Other(VideoBackbone):
        def __init__(self, _: BackboneChoices) -> None:
            super().__init__(3, "avg", "mean")

        def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
            return frames_BTCHW

    monkeypatch.setitem(NETWORKS, "other", Network("other:Other"))
    monkeypatch.setattr(Network, "make", lambda _, choices: Other(choices))
    assert build_backbone("other", weights="random").feature_size == 3
    with pytest.raises(BackboneError, match="other cannot recompute its blocks: checkpoint_blocks must be false"):
        build_backbone("other", weights="random", checkpoint_blocks=True)
