"""CSCI's networks by name: `csci_plain/NAME`, `csci_image/NAME`, `csci_video/NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers.pos_embed_sincos import RotaryEmbeddingCat
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from video_backbones.choices import CSCI_OWN_SIZES, BackboneChoices, BackboneError, csci_parts
from video_backbones.csci.networks import CsciImage, CsciNetwork, CsciPlain, CsciVideo
from video_backbones.csci.rotary import RotaryTable
from video_backbones.timm_frames import create_timm, timm_for

_KINDS: Mapping[str, type[CsciNetwork]] = {
    "csci_plain": CsciPlain,
    "csci_image": CsciImage,
    "csci_video": CsciVideo,
}
_TIMM_MODULES = tuple(f"timm.models.{part}" for part in ("eva", "vision_transformer", "deit"))
"""Where timm's networks of these two classes come from."""
_EVA_CLIP: Mapping[str, Any] = {
    "mlp_ratio": 8 / 3,
    "qkv_fused": False,
    "swiglu_mlp": True,
    "scale_mlp": True,
    "scale_attn_inner": True,
    "use_rot_pos_emb": True,
    "global_pool": "token",
    "num_classes": 0,
}
"""What makes timm's Eva an EVA-02-CLIP."""


def build_csci(name: str, choices: BackboneChoices) -> CsciNetwork:
    """The network with random weights.

    Raises:
        BackboneError: timm does not know it, it is none that CSCI can be built on, or not for such frames.
    """
    family, inner = csci_parts(name)
    if choices.spatial_pool not in ("max", "avg"):
        raise BackboneError(f"{name} has no maps to pool: expected spatial pool avg or max, got {choices.spatial_pool}")
    network = _own(inner, choices) if inner in CSCI_OWN_SIZES else _timms(name, choices)
    size, patch = choices.clip_size[1:], network.patch_embed.patch_size
    if size[0] % patch[0] or size[1] % patch[1]:
        raise BackboneError(
            f"{name}: frames of {size[0]}x{size[1]} are no whole number of patches of {patch[0]}x{patch[1]}"
        )
    try:
        return _KINDS[family](network, choices, _rotary(network))
    except BackboneError as error:
        raise BackboneError(f"{name}: {error}") from None


def pretrained_state(name: str, choices: BackboneChoices) -> dict[str, Tensor]:
    """timm's weights for the network, with places and patch filter for frames of this size.

    Raises:
        WeightsError: They cannot be obtained.
    """
    return dict(create_timm(name, choices, pretrained=True, **_patch(choices)).state_dict())


def eva_clip(size: tuple[int, int], patch: int, *, width: int, depth: int, heads: int, drop_path: float = 0.0) -> Eva:
    """timm's Eva of EVA-02-CLIP's structure with random weights and rotary positions of its own grid."""
    return Eva(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        drop_path_rate=drop_path,
        **_EVA_CLIP,
    )


def _own(inner: str, choices: BackboneChoices) -> Eva:
    size = CSCI_OWN_SIZES[inner]
    return eva_clip(
        choices.clip_size[1:],
        choices.patch or size.patch,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        drop_path=choices.drop_path,
    )


def _timms(name: str, choices: BackboneChoices) -> Eva | VisionTransformer:
    """timm's network, pooled by its class token."""
    module = timm_for(name).models.model_entrypoint(csci_parts(name)[1]).__module__
    if module not in _TIMM_MODULES:
        raise BackboneError(f"{name}: expected one of timm's EVA-02 or ViT networks, not one of {module}")
    pooled = {"global_pool": "token", "drop_path_rate": choices.drop_path}
    network = create_timm(name, choices, pretrained=False, **pooled, **_patch(choices))
    if not isinstance(network, Eva | VisionTransformer) or type(network) not in (Eva, VisionTransformer):
        raise BackboneError(f"{name}: expected one of timm's EVA-02 or ViT networks, got {type(network).__name__}")
    places = None if network.pos_embed is None else network.pos_embed.shape[1]
    if network.cls_token is None or network.num_prefix_tokens != 1 or places != network.patch_embed.num_patches + 1:
        raise BackboneError(f"{name}: expected a network with a class token alone and a learned place for each token")
    return network


def _patch(choices: BackboneChoices) -> dict[str, Any]:
    return {} if choices.patch is None else {"patch_size": choices.patch}


def _rotary(network: Eva | VisionTransformer) -> RotaryTable | None:
    """The network's rotary positions, if it has them.

    Raises:
        BackboneError: They are of another kind than EVA-02's.
    """
    rope = getattr(network, "rope", None)
    if rope is None:
        return None
    settings = ("temperature", "grid_offset", "grid_indexing", "in_pixels", "rotate_half")
    kind = tuple(getattr(rope, setting, None) for setting in settings)
    if type(rope) is not RotaryEmbeddingCat or kind != (10000.0, 0.0, "ij", False, False):
        raise BackboneError("its rotary positions are of another kind than EVA-02's")
    grid, reference = (
        None if shape is None else (shape[0], shape[1]) for shape in (rope.feat_shape, rope.ref_feat_shape)
    )
    assert grid is not None
    return RotaryTable(grid, rope.dim, reference)
