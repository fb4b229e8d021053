"""Weights of other networks as a starting point: their names, places and patch filters made ours.

What is not recognised keeps its name, so that loading names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, cat

_RENAMED = {
    ".mlp.ffn_ln.": ".mlp.norm.",
    ".attn.inner_attn_ln.": ".attn.norm.",
    ".mlp.w1.": ".mlp.fc1_g.",
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
}
"""Original EVA-CLIP's names and timm's."""
_SEPARATE_BIASES = {".attn.q_bias": ".attn.q_proj.bias", ".attn.v_bias": ".attn.v_proj.bias"}
"""The same, where queries and values have projections of their own."""


def trunk_state(
    state: Mapping[str, Tensor], *, grid: tuple[int, int], patch: tuple[int, int], places: int
) -> dict[str, Tensor]:
    """A state under our names and in our shapes as far as that can be.

    Args:
        state: timm's, open_clip's (`visual.trunk.`), original EVA-CLIP's (`visual.`), released or ours.
        grid: Our rows and columns of patches.
        patch: Our patch's height and width.
        places: Our learned places: one for each patch, and one or two for the head tokens.
    """
    given = _timm_names(_image_part(state))
    filters = given.get("patch_embed.proj.weight")
    if filters is not None and filters.ndim == 4 and filters.shape[2:] != patch:
        given["patch_embed.proj.weight"] = resample_patch_embed(filters, list(patch))
    if "pos_embed" in given and given["pos_embed"].ndim == 3:
        coloured = "extra_token1" in given and "cls_token_img" not in given
        given["pos_embed"] = _placed(given["pos_embed"], 1 + coloured, grid, places)
    return given


def _image_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole CLIP's image network without its prefix; anything else unchanged."""
    for prefix in ("visual.trunk.", "visual."):
        if f"{prefix}pos_embed" in state:
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return dict(state)


def _timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without tables of rotary positions, which are computed; the norm after average pooling as the class token's."""
    renamed = dict(_RENAMED)
    if "blocks.0.attn.q_proj.weight" in state:
        renamed |= _SEPARATE_BIASES
    if "norm.weight" not in state:
        renamed["fc_norm."] = "norm."
    found = {}
    for name, value in state.items():
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        if "rope." not in name:
            found[name] = value
    return found


def _placed(place_1KD: Tensor, heads: int, grid: tuple[int, int], places: int) -> Tensor:
    """Places of [head tokens, patches] for our grid; a single head token's stands for both of ours.

    As many patches as ours are taken for our grid, any other number for a square one, or left alone if it is none.
    """
    patches, own_patches = place_1KD.shape[1] - heads, math.prod(grid)
    side = math.isqrt(max(patches, 0))
    if patches != own_patches and side >= 1 and side * side == patches:
        place_1KD = resample_abs_pos_embed(place_1KD, list(grid), [side, side], num_prefix_tokens=heads)
    if heads == 1 and places == own_patches + 2:
        return cat((place_1KD[:, :1], place_1KD), dim=1)
    return place_1KD
