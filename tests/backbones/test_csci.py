"""CSCI's networks on timm's: what they accept, refuse and keep equal; their numbers are in `test_csci_vectors`."""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests.backbones.csci_networks import FRAMES, SIZE, tiny
from video_backbones import BackboneError, csci_names
from video_backbones.choices import CSCI_FAMILIES, BackboneChoices
from video_backbones.csci.networks import ColourHead, CsciImage, CsciNetwork, CsciPlain, CsciVideo
from video_backbones.csci.rotary import RotaryTable
from video_backbones.csci.trunk import eva_clip
from video_backbones.factory import build_backbone
from video_backbones.summary import summarise

KINDS: list[type[CsciNetwork]] = [CsciPlain, CsciImage, CsciVideo]
CLIP = (3, 64, 32)


def frames(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("vit_tiny_patch16_224", None),
        ("vit_tiny_patch16_224", 8),
        ("vit_xsmall_patch16_clip_224", None),  # a norm before the blocks
        ("deit_tiny_patch16_224", None),
        ("eva02_tiny_patch14_224", 16),  # projections together
    ],
)
def test_the_plain_network_gives_timms_class_token(name: str, patch: int | None) -> None:
    backbone = build_backbone(f"csci_plain/{name}", weights="random", clip_size=CLIP, patch=patch).eval()
    more: dict[str, Any] = {} if patch is None else {"patch_size": patch}
    theirs = timm.create_model(name, num_classes=0, img_size=CLIP[1:], global_pool="token", **more).eval()
    theirs.load_state_dict(backbone.state_dict())
    clip = torch.randn(2, 3, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.stack([theirs(frame) for frame in clip.unbind(1)]).mean(0)
        found = backbone(clip)
    assert backbone.feature_size == expected.shape[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_adapters_of_blocks() -> None:
    """With and without layer scale, with projections apart and together."""
    theirs: list[Eva | VisionTransformer] = [
        eva_clip((32, 32), 16, width=32, depth=2, heads=2),
        VisionTransformer(img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=0, init_values=0.5),
        Eva(img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=0, init_values=0.5, global_pool="token"),
    ]
    picture = torch.randn(2, 3, 32, 32)
    for network in theirs:
        with torch.no_grad():
            expected = network.eval()(picture)
            rotary = RotaryTable((2, 2), 16) if getattr(network, "rope", None) else None
            found = CsciPlain(network, BackboneChoices(), rotary).eval()(picture.unsqueeze(1))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", CSCI_FAMILIES)
def test_any_size_that_the_patch_divides(family: str) -> None:
    for clip_size, patch in (((1, 64, 32), None), ((2, 24, 40), None), ((3, 64, 32), 16), ((2, 30, 20), 5)):
        backbone = build_backbone(f"{family}/eva_slim", weights="random", clip_size=clip_size, patch=patch)
        clip = torch.randn(2, clip_size[0], 3, *clip_size[1:])
        with torch.autocast("cpu", torch.bfloat16):
            feature = backbone(clip)
        assert feature.shape == (2, backbone.feature_size)
        assert feature.dtype == torch.float32
        assert "bn.weight" not in backbone.state_dict()
        assert backbone.get_parameter("patch_embed.proj.weight").shape[-1] == (patch or 8)
    with pytest.raises(BackboneError, match="made for frames of 30x20, got 20x30"):
        backbone(torch.randn(1, 2, 3, 20, 30))


def test_any_number_of_frames_but_for_the_video_network() -> None:
    with torch.no_grad():
        for kind in (CsciPlain, CsciImage):
            assert tiny(kind)(frames(2, 7)).shape == (2, 32)
        with pytest.raises(BackboneError, match="made for clips of 4 frames, got 7"):
            tiny(CsciVideo)(frames(2, 7))


@torch.no_grad()
def test_both_ways_end_in_float32_under_autocast() -> None:
    network = tiny(CsciVideo).eval()
    exact = network.frame_features(frames(2, FRAMES)), *network.image_way(frames(2))
    with torch.autocast("cpu", torch.bfloat16):
        rough = network.frame_features(frames(2, FRAMES)), *network.image_way(frames(2))
    assert {feature.dtype for feature in rough} == {torch.float32}
    assert all((one - other).norm() < 0.05 * other.norm() for one, other in zip(rough, exact, strict=True))


@pytest.mark.parametrize(
    ("name", "choices", "problem"),
    [
        ("csci_plain/resnet18", {}, "expected one of timm's EVA-02 or ViT networks, not one of timm.models.resnet"),
        ("csci_plain/vit_tiny_patch16_22", {}, "timm has no model .*; did you mean csci_plain/vit_tiny_patch16_224"),
        ("csci_plain/vit_relpos_small_patch16_224", {}, "expected one of timm's EVA-02 or ViT networks"),
        ("csci_plain/vit_pe_core_tiny_patch16_384", {}, "its rotary positions are of another kind"),
        ("csci_plain/vit_small_patch14_reg4_dinov2", {"patch": 16}, "a class token alone and a learned place for each"),
        (
            "csci_plain/vit_tiny_patch16_224",
            {"clip_size": (4, 60, 32)},
            "60x32 are no whole number of patches of 16x16",
        ),
        ("csci_plain/eva_slim", {"spatial_pool": "gem"}, "has no maps to pool"),
        (
            "csci_plain/eva_slim",
            {"attention": "masked"},
            "no attention to set: .* of csci_image/NAME, csci_video/NAME$",
        ),
        ("c2d_resnet18_slim", {"patch": 8}, "c2d_resnet18_slim has no patch to set: .* csci_plain/NAME, csci_image"),
        ("timm/vit_tiny_patch16_224", {"drop_path": 0.1}, "has no drop_path to set"),
        ("csci_audio/eva_slim", {}, "no backbone 'csci_audio/eva_slim', expected .*, csci_video/NAME or timm/NAME"),
    ],
)
def test_what_cannot_be_made(name: str, choices: dict[str, object], problem: str) -> None:
    with pytest.raises(BackboneError, match=problem):
        build_backbone(name, weights="random", **{"clip_size": (4, 64, 32), **choices})  # type: ignore[arg-type]


def test_without_timm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BackboneError, match=r"csci_plain/eva_slim needs timm: pip install 'ccvid\[timm\]'"):
        build_backbone("csci_plain/eva_slim", weights="random")


def gradients(network: CsciNetwork) -> tuple[Tensor, ...]:
    """Outputs and gradients of both ways in training mode."""
    torch.manual_seed(2)
    clip = frames(3, FRAMES)
    outputs = [network(clip)]
    if isinstance(network, CsciImage | CsciVideo):
        outputs += network.image_way(clip[:, 0])
    torch.autograd.backward(torch.stack([(output * torch.randn_like(output)).sum() for output in outputs]).sum())
    return *outputs, *(torch.zeros(0) if p.grad is None else p.grad for p in network.parameters())


@pytest.mark.parametrize("drop_path", [0.0, 0.4])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_change_nothing(kind: type[CsciNetwork], drop_path: float) -> None:
    torch.manual_seed(1)
    plain = tiny(kind, drop_path=drop_path).train()
    recomputed = deepcopy(plain)
    recomputed.checkpoint_blocks = True
    calls: list[nn.Module] = []
    recomputed.blocks[1].register_forward_pre_hook(lambda block, _given: calls.append(block))
    expected, found = gradients(plain), gradients(recomputed)
    assert len(calls) == (2 if kind is CsciPlain else 4)  # forward and backward of each way
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_every_parameter_is_trained() -> None:
    for kind in KINDS:
        network = tiny(kind)
        gradients(network)
        silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert silent == []


def test_drop_path_rises_with_depth() -> None:
    blocks = tiny(CsciVideo, drop_path=0.4).blocks
    assert [getattr(block.drop_path1, "drop_prob", 0) for block in blocks] == pytest.approx([0, 0.2, 0.4])
    kept = build_backbone("csci_plain/vit_tiny_patch16_224", weights="random", clip_size=CLIP, drop_path=0.3)
    assert kept.get_submodule("blocks.11.drop_path2").drop_prob == pytest.approx(0.3)


def test_initial_values_are_the_published_ones() -> None:
    torch.manual_seed(1)
    video, image = tiny(CsciVideo), tiny(CsciImage)
    assert not video.temporal_tokens.any()
    assert torch.equal(video.extra_pos_in_temporal, video.pos_embed[:, :1])
    assert torch.equal(image.pos_embed[:, 0], image.pos_embed[:, 1])
    bound = (6 / (3 * 256 + 32)) ** 0.5
    prompts = torch.stack([block.temporal_prompt_embeddings for block in video.blocks])  # type: ignore[misc]
    assert bound * 0.9 < prompts.abs().max() <= bound
    for token in (video.extra_token1, video.cls_token_img, image.extra_token1):
        assert 0.01 < token.std() < 0.03
    head = ColourHead(32, 48)
    assert torch.equal(head.norm2.weight, torch.ones(32))
    assert 0.9 / 32**0.5 < head.mlp.fc1_g.weight.abs().max() <= 1 / 32**0.5


def test_the_slim_network_costs_what_a_slim_resnet_does() -> None:
    """The ResNet with its last stride of 2, which the summary does not take: 39.4 million operations a frame."""
    assert [summarise(name, (1, 64, 32)).weights for name in csci_names()] == [("random",)] * 3
    assert summarise("csci_plain/eva_slim", (1, 64, 32)).flops == pytest.approx(39.4e6, rel=0.03)
