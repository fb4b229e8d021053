"""torchvision's video networks: equal to torchvision's own forward, and trainable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import video

from video_backbones import BackboneError, WeightsError
from video_backbones.factory import build_backbone
from video_backbones.weights import load_weights

CLIP = (8, 64, 32)
ORIGINALS: Mapping[str, Callable[[], nn.Module]] = {
    "r3d_18": video.r3d_18,
    "mc3_18": video.mc3_18,
    "r2plus1d_18": video.r2plus1d_18,
    "s3d": video.s3d,
    "swin3d_t": video.swin3d_t,
}
SIZES = {"r3d_18": 512, "mc3_18": 512, "r2plus1d_18": 512, "s3d": 1024, "swin3d_t": 768, "mvit_v2_s": 768}


def clips(batch: int, clip_size: tuple[int, int, int] = CLIP) -> Tensor:
    frames, height, width = clip_size
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(frames))


def last_map_of(network: nn.Module, frames_BCTHW: Tensor) -> Tensor:
    """The input of torchvision's pooling layer."""
    if isinstance(network, video.S3D):
        maps: Tensor = network.features(frames_BCTHW)
        return maps
    found: list[Tensor] = []
    network.get_submodule("avgpool").register_forward_pre_hook(lambda _, given: found.append(given[0]))
    network(frames_BCTHW)
    return found[0]


@pytest.mark.parametrize("name", ORIGINALS)
def test_maps_equal_torchvisions_own(name: str) -> None:
    torch.manual_seed(1)
    original = ORIGINALS[name]().double().eval()
    backbone = build_backbone(name, weights="random", last_stride=2).double().eval()
    load_weights(backbone, original.state_dict(), name)
    frames = clips(2).double()
    with torch.no_grad():
        expected = last_map_of(original, frames.transpose(1, 2))
        torch.testing.assert_close(backbone.feature_maps(frames).transpose(1, 2), expected, rtol=1e-9, atol=1e-9)


def test_mvit_equals_torchvisions_own_after_its_tables_are_stretched() -> None:
    torch.manual_seed(1)
    original = video.mvit_v2_s().double().eval()
    same = build_backbone("mvit_v2_s", weights="random", clip_size=(16, 224, 224)).double().eval()
    load_weights(same, same.from_published(original.state_dict()), "mvit")
    found: list[Tensor] = []
    original.norm.register_forward_hook(lambda _, __, given: found.append(given))
    with torch.no_grad():
        maps = same.feature_maps(clips(1, (16, 224, 224)).double())
        original(clips(1, (16, 224, 224)).double().transpose(1, 2))
    torch.testing.assert_close(maps.permute(0, 1, 3, 4, 2).flatten(1, 3), found[0][:, 1:], rtol=1e-9, atol=1e-9)

    small = build_backbone("mvit_v2_s", weights="random", clip_size=CLIP)
    state = original.float().state_dict()
    stretched = small.from_published(state)
    load_weights(small, stretched, "mvit")
    name = "blocks.0.attn.rel_pos_t"
    assert (len(state[name]), len(stretched[name])) == (15, 7)
    torch.testing.assert_close(stretched[name][3], state[name][7])  # the same distance, 0, in the middle


@pytest.mark.parametrize("name", SIZES)
def test_every_parameter_is_trained_under_autocast_with_finite_gradients(name: str) -> None:
    torch.manual_seed(2)
    backbone = build_backbone(name, weights="random", clip_size=CLIP)
    with torch.autocast("cpu", torch.bfloat16):
        feature = backbone(clips(4))
    assert feature.shape == (4, SIZES[name])
    assert feature.dtype == torch.float32
    torch.autograd.backward((feature * torch.randn_like(feature)).sum())
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


@pytest.mark.parametrize(
    ("name", "frames", "left"),
    [
        ("s3d", 1, 1),
        ("s3d", 4, 1),
        ("s3d", 13, 2),
        ("swin3d_t", 1, 1),
        ("swin3d_t", 3, 2),
        ("mc3_18", 3, 3),
        ("mvit_v2_s", 1, 1),
        ("mvit_v2_s", 7, 4),
    ],
)
def test_frames_taken_and_left(name: str, frames: int, left: int) -> None:
    """Built for these clips or for others."""
    torch.manual_seed(3)
    for made_for in ((frames, 40, 24), CLIP):
        backbone = build_backbone(name, weights="random", clip_size=made_for)
        maps = backbone.feature_maps(clips(2, (frames, 40, 24)))
        assert maps.shape[:3] == (2, left, SIZES[name])
        torch.autograd.backward((maps * torch.randn_like(maps)).sum())
        reached = {n for n, p in backbone.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
        assert reached == {n for n, _ in backbone.named_parameters() if not n.startswith("bn.")}


def test_s3d_in_evaluation_follows_training() -> None:
    torch.manual_seed(4)
    backbone = build_backbone("s3d", weights="random", clip_size=CLIP)
    with torch.no_grad():
        for _ in range(50):
            trained = backbone.feature_maps(clips(4))
        ratio = backbone.eval().feature_maps(clips(4)).std() / trained.std()
    assert 0.4 < ratio < 2.5  # the statistics of such small maps are rough; with a momentum of 0.001 it is 0.01


def test_torchvisions_file_with_its_classifier_loads(tmp_path: Path) -> None:
    for name in ("s3d", "swin3d_t", "mvit_v2_s"):
        state = vars(video)[name]().state_dict()
        torch.save(state, tmp_path / f"{name}.pth")
        own = build_backbone(name, weights=tmp_path / f"{name}.pth", clip_size=CLIP).state_dict()
        same = [n for n, value in own.items() if n in state and torch.equal(value, state[n])]
        assert len(same) >= len([n for n in own if not n.startswith("bn.") and ".rel_pos_" not in n])


def test_names_and_weights_that_there_are_not() -> None:
    with pytest.raises(BackboneError, match="no backbone 'resnet50', expected one of c2d_resnet50, "):
        build_backbone("resnet50", weights="random")
    with pytest.raises(WeightsError, match="no imagenet weights are published for swin3d_t; choose random, kinetics"):
        build_backbone("swin3d_t", weights="imagenet")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c2d_resnet18_slim", "r2plus1d_18"])
def test_compiled_networks_give_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Code compiled for other instructions is wrong, up to NaN, where oneDNN is kept from using those.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    backbone = build_backbone(name, weights="random", clip_size=CLIP).eval()
    with torch.no_grad():
        expected = backbone(clips(2))
        torch.testing.assert_close(torch.compile(backbone)(clips(2)), expected, rtol=1e-3, atol=1e-4)
