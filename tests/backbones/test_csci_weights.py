"""Weights for CSCI's networks: every kind of file, places and filters of other sizes, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from video_backbones import WeightsError
from video_backbones.backbone import VideoBackbone
from video_backbones.choices import CSCI_FAMILIES, BackboneChoices
from video_backbones.csci import trunk
from video_backbones.csci.networks import ColourHead
from video_backbones.factory import build_backbone
from video_backbones.timm_frames import create_timm

CLIP = (2, 48, 32)
State = dict[str, Tensor]


def made(family: str, weights: str | Path = "random", **more: Any) -> VideoBackbone:
    return build_backbone(f"{family}/eva_slim", weights=weights, **{"clip_size": CLIP, **more})


def random_state(family: str, *, seed: int = 1, **more: Any) -> State:
    torch.manual_seed(seed)
    return dict(made(family, **more).state_dict())


def saved(state: Mapping[str, object], folder: Path) -> Path:
    torch.save(dict(state), folder / "w.pth")
    return folder / "w.pth"


def with_heads(state: State) -> State:
    """As released: heads beside the network."""
    colour = ColourHead(96, 16).state_dict()
    heads = {f"{head}.{part}": torch.zeros(5) for head in ("head", "head_image") for part in ("weight", "bias")}
    return {**state, **colour, **heads, "cloth_embed": torch.zeros(1, 3)}


def as_eva_clip(state: State) -> State:
    """A whole original EVA-CLIP's names."""
    renamed = (
        (".mlp.norm.", ".mlp.ffn_ln."),
        (".attn.norm.", ".attn.inner_attn_ln."),
        (".mlp.fc1_g.", ".mlp.w1."),
        (".mlp.fc1_x.", ".mlp.w2."),
        (".mlp.fc2.", ".mlp.w3."),
        (".attn.q_proj.bias", ".attn.q_bias"),
        (".attn.v_proj.bias", ".attn.v_bias"),
    )
    found = {"logit_scale": torch.ones(()), "text.token_embedding.weight": torch.zeros(2, 2)}
    for name, value in state.items():
        for ours, theirs in renamed:
            name = name.replace(ours, theirs)
        found[f"visual.{name}"] = value
    rope = {"visual.rope.freqs_cos": torch.ones(3), "visual.blocks.0.attn.rope.freqs_sin": torch.ones(3)}
    return {**found, **rope, "visual.head.weight": torch.zeros(4, 96)}


FILES: dict[str, Callable[[State], State]] = {
    "timm or ours": lambda state: state,
    "open_clip": lambda state: {
        **{f"visual.trunk.{n}": x for n, x in state.items()},
        "visual.head.proj.weight": state["norm.bias"],
    },
    "EVA-CLIP": as_eva_clip,
    "released": lambda state: {f"module.{name}": value for name, value in with_heads(state).items()},
    "a run's": lambda state: {
        **{f"backbone.{name}": value for name, value in state.items()},
        "identity_classifier.classifier.weight": torch.zeros(5, 96),
    },
    "averaged by its patches": lambda state: {
        (f"fc_{name}" if name.startswith("norm.") else name): value for name, value in state.items()
    },
}


@pytest.mark.parametrize("family", CSCI_FAMILIES)
@pytest.mark.parametrize("kind", FILES)
def test_a_plain_network_starts_each_of_the_three(kind: str, family: str, tmp_path: Path) -> None:
    given = random_state("csci_plain")
    file = saved(FILES[kind](given), tmp_path)
    fresh = random_state(family, seed=2)
    torch.manual_seed(2)
    loaded = made(family, file).state_dict()
    place_1KD = given["pos_embed"]
    expected = {**fresh, **given}
    if family == "csci_image":
        expected["pos_embed"] = torch.cat((place_1KD[:, :1], place_1KD), 1)
    if family == "csci_video":
        expected["extra_pos_in_temporal"] = place_1KD[:, :1]
    assert loaded.keys() == expected.keys()
    assert [name for name, value in loaded.items() if not torch.equal(value, expected[name])] == []


@pytest.mark.parametrize("family", CSCI_FAMILIES)
@pytest.mark.parametrize("whole", [False, True])
def test_a_released_network_is_the_same_as_a_start_and_as_a_whole(family: str, whole: bool, tmp_path: Path) -> None:
    given = random_state(family)
    loaded = made(family, saved(FILES["released"](given), tmp_path), whole=whole).state_dict()
    assert all(torch.equal(value, given[name]) for name, value in loaded.items())


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("csci_image", "missing extra_token1; pos_embed has shape (1, 25, 96), expected (1, 26, 96)"),
        (
            "csci_video",
            "missing temporal_tokens; missing extra_token1; missing cls_token_img; missing extra_pos_in_tem",
        ),
    ],
)
def test_a_whole_model_has_all_that_is_new(family: str, missing: str, tmp_path: Path) -> None:
    file = saved(random_state("csci_plain"), tmp_path)
    with pytest.raises(WeightsError) as caught:
        made(family, file, whole=True)
    assert missing in str(caught.value)


@pytest.mark.parametrize("family", ["csci_plain", "csci_image"])
def test_places_and_filters_of_another_size_are_resized(family: str, tmp_path: Path) -> None:
    given = random_state(family, clip_size=(2, 64, 64), patch=16)  # 4 x 4 patches
    loaded = made(family, saved(given, tmp_path)).state_dict()
    heads = 2 if family == "csci_image" else 1
    place = resample_abs_pos_embed(given["pos_embed"], [6, 4], [4, 4], num_prefix_tokens=heads)
    assert torch.equal(loaded["pos_embed"], place)
    filters = resample_patch_embed(given["patch_embed.proj.weight"], [8, 8])
    assert torch.equal(loaded["patch_embed.proj.weight"], filters)
    with pytest.raises(WeightsError, match="has shape"):
        made(family, saved(given, tmp_path), whole=True)


@pytest.mark.parametrize(
    ("family", "changed", "problem"),
    [
        ("csci_plain", {"blocks.0.mlp.fc3.weight": torch.ones(2)}, "unexpected blocks.0.mlp.fc3.weight"),
        ("csci_plain", {"extra_token1": torch.ones(1, 1, 96)}, "unexpected extra_token1"),
        (
            "csci_plain",
            {"pos_embed": torch.ones(1, 31, 96)},
            r"pos_embed has shape \(1, 31, 96\), expected \(1, 25, 96",
        ),
        ("csci_plain", {"pos_embed": torch.ones(3)}, r"pos_embed has shape \(3,\)"),
        ("csci_video", {"pos_embed": torch.ones(1, 0, 96)}, r"pos_embed has shape \(1, 0, 96\)"),
        ("csci_image", {"patch_embed.proj.weight": torch.ones(96, 192)}, r"proj.weight has shape \(96, 192\)"),
        ("csci_video", {"norm.weight": torch.full((96,), torch.nan)}, "norm.weight is nan"),
        ("csci_video", {"temporal_tokens": torch.zeros(1, 8, 96)}, r"temporal_tokens has shape \(1, 8, 96\), expected"),
        ("csci_plain", {"layer4.2.conv3.weight": torch.ones(2048, 512, 1, 1)}, "weights of c2dres50, expected csci_pl"),
    ],
)
def test_what_does_not_fit_is_named(family: str, changed: State, problem: str, tmp_path: Path) -> None:
    file = saved({**random_state("csci_plain"), **changed}, tmp_path)
    with pytest.raises(WeightsError, match=problem):
        made(family, file)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    state = random_state("csci_plain")
    del state["blocks.3.attn.k_proj.weight"]
    with pytest.raises(WeightsError, match=r"w\.pth: does not fit CsciVideo: missing blocks\.3\.attn\.k_proj\.weight$"):
        made("csci_video", saved(state, tmp_path))


@pytest.mark.parametrize("family", CSCI_FAMILIES)
def test_timms_own_weights(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm gives them where it reaches its server, for a network that it pools by the mean."""
    torch.manual_seed(1)
    theirs = timm.create_model("eva02_tiny_patch14_224", num_classes=0, img_size=(64, 32), patch_size=16)
    asked: list[tuple[str, bool]] = []

    def create(name: str, choices: BackboneChoices, *, pretrained: bool, **more: Any) -> torch.nn.Module:
        asked.append((name, pretrained))
        return theirs if pretrained else create_timm(name, choices, pretrained=False, **more)

    monkeypatch.setattr(trunk, "create_timm", create)
    name = f"{family}/eva02_tiny_patch14_224"
    backbone = build_backbone(name, weights="imagenet", clip_size=(2, 64, 32), patch=16)
    assert asked == [(name, False), (name, True)]
    own, given = backbone.state_dict(), theirs.state_dict()
    assert torch.equal(own["blocks.11.mlp.fc2.weight"], given["blocks.11.mlp.fc2.weight"])
    assert torch.equal(own["norm.weight"], given["fc_norm.weight"])
    assert torch.equal(own["pos_embed"][:, -8:], given["pos_embed"][:, -8:])


def test_what_is_not_published() -> None:
    with pytest.raises(
        WeightsError, match="no imagenet weights are published for csci_image/eva_slim; choose random or"
    ):
        made("csci_image", "imagenet")
    with pytest.raises(WeightsError, match="no kinetics weights are published for csci_plain/vit_tiny_patch16_224; ch"):
        build_backbone("csci_plain/vit_tiny_patch16_224", weights="kinetics", clip_size=(1, 32, 32))
