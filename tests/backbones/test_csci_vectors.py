"""CSCI's networks against the released code's numbers (`reference/csci`), in float64."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from timm.layers.pos_embed_sincos import build_rotary_pos_embed
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from tests.backbones.csci_networks import FOLDER, FRAMES, GRID, filled, vectors
from tests.backbones.reference_values import fill, reference_input
from video_backbones.choices import AttentionName
from video_backbones.csci.attention import ATTENTION
from video_backbones.csci.initial_weights import trunk_state
from video_backbones.csci.networks import ColourHead, CsciImage, CsciNetwork, CsciPlain, CsciVideo, ImageTokens
from video_backbones.csci.rotary import rotary_table

COLOURS, PERSONS, PATCHES = 48, 5, 24
NEAR = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)
"""The vectors are to be met to 1e-9."""
IMAGE, VIDEO = vectors("image_network"), vectors("video_network")
ATTENTIONS: dict[str, AttentionName] = {"s2a": "s2a", "masked": "masked", "traditional": "joint"}
"""The released names and ours."""


def images() -> Tensor:
    return reference_input("csci_images", (4, 3, 48, 32)).transpose(1, 2)


def clips() -> Tensor:
    return reference_input("csci_clips", (3, 3, FRAMES, 48, 32))


def as_released(x_NKD: Tensor) -> Tensor:
    """Tokens with the class token before the patches, as the release has them."""
    heads = x_NKD.shape[1] - PATCHES - 1
    return torch.cat((x_NKD[:, :heads], x_NKD[:, -1:], x_NKD[:, heads:-1]), dim=1)


def logits(feature_BD: Tensor, head: str) -> Tensor:
    layer = nn.Linear(32, PERSONS).double()
    fill(layer, prefix=f"{head}.")
    result: Tensor = layer(feature_BD)
    return result


def colour_output(colour_BD: Tensor) -> Tensor:
    head = ColourHead(32, COLOURS).double()
    fill(head)
    result: Tensor = head(colour_BD)
    return result


def tokens_after_blocks(network: CsciNetwork) -> list[Tensor]:
    """Filled while the network runs."""
    found: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _module, _given, x_NKD: found.append(as_released(x_NKD)))
    return found


def check_image_way(tokens: ImageTokens, expected: dict[str, Tensor], name: str, head: str) -> None:
    NEAR(tokens.feature_BD, expected[f"{name}.feature"])
    NEAR(tokens.colour_BD, expected[f"{name}.colour_feature"])
    NEAR(colour_output(tokens.colour_BD), expected[f"{name}.colour_output"])
    NEAR(logits(tokens.feature_BD, head), expected[f"{name}.logits"])
    NEAR(cosine_similarity(*tokens).abs().mean(), expected[f"{name}.disentangle"])


@torch.no_grad()
def test_the_colour_image_network() -> None:
    network = filled(CsciImage)
    found = tokens_after_blocks(network)
    check_image_way(network.image_way(images()), IMAGE, "s2a", "head")
    for number, tokens_BKD in enumerate(found):
        NEAR(tokens_BKD, IMAGE[f"s2a.tokens_after_block{number}"])
    assert len(found) == 3


@torch.no_grad()
def test_frames_of_a_clip_are_pooled_by_their_mean() -> None:
    for network, name in ((filled(CsciImage), "s2a.feature"), (filled(CsciPlain), "plain.feature")):
        NEAR(network(torch.unflatten(images(), 0, (2, 2))), torch.unflatten(IMAGE[name], 0, (2, 2)).mean(1))


@torch.no_grad()
def test_the_plain_image_network() -> None:
    feature_BD = filled(CsciPlain)(images().unsqueeze(1))
    NEAR(feature_BD, IMAGE["plain.feature"])
    NEAR(logits(feature_BD, "head"), IMAGE["plain.logits"])


@torch.no_grad()
def test_the_video_way() -> None:
    network = filled(CsciVideo)
    found = tokens_after_blocks(network)
    NEAR(network.frame_features(clips()), VIDEO["video.frame_features"])
    for number, tokens_NKD in enumerate(found):
        NEAR(tokens_NKD, VIDEO[f"video.tokens_after_block{number}"])
    assert len(found) == 3
    feature_BD = network(clips())
    NEAR(feature_BD, VIDEO["video.feature"])
    NEAR(logits(feature_BD, "head"), VIDEO["video.logits"])


@torch.no_grad()
def test_the_image_way_of_the_video_network() -> None:
    check_image_way(filled(CsciVideo).image_way(images()), VIDEO, "image", "head_image")


@torch.no_grad()
@pytest.mark.parametrize("released", ATTENTIONS)
def test_the_ways_of_attention(released: str) -> None:
    """Attention is linear in the values, so the unit matrix as values shows its weights."""
    network = filled(CsciImage, attention=ATTENTIONS[released])
    seen: list[Tensor] = []

    def spying(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attend = ATTENTION[ATTENTIONS[released]]
        unit = torch.eye(query.shape[2], dtype=query.dtype).expand(*query.shape[:2], -1, -1)
        weights_HQK = attend(query, key, unit)[0]
        seen.append(as_released(as_released(weights_HQK).mT).mT)
        return attend(query, key, value)

    network.attend = spying
    NEAR(network.image_way(images()).feature_BD, IMAGE[f"{released}.feature"])
    NEAR(seen[0], IMAGE[f"{released}.attention"])
    assert torch.equal((seen[0] > 0).all(0), IMAGE[f"{released}.visible"])


def test_rotary_positions() -> None:
    NEAR(rotary_table(GRID, 16, GRID), IMAGE["rope"])
    network = filled(CsciImage)
    assert network.rotary is not None
    NEAR(network.rotary.table_NF[1:-1], IMAGE["rope"])
    assert torch.equal(network.float().double().rotary.table_NF[1:-1], rotary_table(GRID, 16, GRID))  # type: ignore[union-attr]
    assert network.bfloat16().rotary.table_NF.dtype == torch.float32  # type: ignore[union-attr]
    scaled = build_rotary_pos_embed(list(GRID), dim=16, in_pixels=False, ref_feat_shape=[16, 16])
    torch.testing.assert_close(rotary_table(GRID, 16, (16, 16)).float(), torch.cat(scaled, -1), rtol=0, atol=2e-6)


@torch.no_grad()
def test_timms_rotary_positions() -> None:
    table_PF = torch.cat(build_rotary_pos_embed(list(GRID), dim=16, in_pixels=False), -1)
    for network, given, expected in (
        (filled(CsciImage), images().unsqueeze(1), IMAGE["s2a.feature.float32_rope"]),
        (filled(CsciVideo), clips(), VIDEO["video.feature.float32_rope"]),
    ):
        assert network.rotary is not None
        network.rotary.table_NF[1:-1] = table_PF
        NEAR(network(given), expected)


def test_places_of_another_grid() -> None:
    place_1KD = reference_input("csci_load_pos_embed", (1, 17, 32)).transpose(1, 2)
    loaded = trunk_state({"pos_embed": place_1KD}, grid=GRID, patch=(8, 8), places=26)
    torch.testing.assert_close(loaded["pos_embed"], IMAGE["load.pos_embed.from_4x4"], rtol=0, atol=1e-6)


def test_names_are_the_released_ones() -> None:
    """Without the heads, whose names are those of `ColourHead` and of ccvid's classifiers."""
    layouts = json.loads((FOLDER / "layouts.json").read_text())
    colour_head = {name: list(value.shape) for name, value in ColourHead(32, COLOURS).state_dict().items()}
    for key, network in (
        ("tiny_plain_image", filled(CsciPlain)),
        ("tiny_colour_image", filled(CsciImage)),
        ("tiny_colour_video", filled(CsciVideo)),
    ):
        heads = {} if key == "tiny_plain_image" else colour_head
        ours = {name: list(value.shape) for name, value in network.state_dict().items()}
        released = {name: shape for name, shape in layouts[key] if not name.startswith("head")}
        assert {**ours, **heads} == released
        assert not ours.keys() & heads.keys()
