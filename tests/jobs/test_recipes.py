"""The recipes: every file is a valid recipe, and the published ones match their publications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ccvid.config import ProtocolOptions, Recipe
from ray_jobs.cli import RECIPES, parse_recipe, read_recipe, recipe_names
from ray_jobs.sharding.sources import shard_folder

VIDEO: dict[str, Any] = {
    "data.frames.format": "source",
    "clip.length": 8,
    "clip.stride": 4,
    "batch.identities": 4,
    "batch.clips": 4,
    "batch.spread_outfits": False,
    "augment.flip": 0.5,
    "augment.crop": 0.0,
    "augment.erase": 0.0,
    "model.backbone": "c2d_resnet50",
    "model.weights": "imagenet",
    "model.last_stride": 1,
    "model.height": 256,
    "model.width": 128,
    "model.resize_filter": "bicubic",
    "model.spatial_pool": "max",
    "model.temporal_pool": "mean",
    "method.clothes_loss": True,
    "method.clothes_labels": "given",
    "method.clothes_memory": False,
    "method.start_epoch": 50,
    "method.scale": 16.0,
    "method.epsilon": 0.1,
    "method.weight": 1.0,
    "method.identity_loss": "cross_entropy",
    "method.label_smoothing": 0.0,
    "method.pair_loss": "none",
    "optim.name": "adam",
    "optim.learning_rate": 3.5e-4,
    "optim.clothes_learning_rate": None,
    "optim.weight_decay": 5e-4,
    "optim.schedule": "multistep",
    "optim.milestones": (40, 80, 120),
    "optim.decay": 0.1,
    "optim.warmup_epochs": 0.0,
    "optim.clip_norm": None,
    "train.epochs": 150,
    "train.held_out_share": 0.0,
    "train.test_weights": "last",
    "train.bf16": False,
    "train.sync_batchnorm": False,
    "train.ema_decay": None,
    "score.flip": False,
    "score.protocols": (),
    "score.single_shot_draws": 0,
    "compute.workers": 2,
}
"""The video recipe as published: 16 clips on each of two workers, four per identity."""

IMAGE: dict[str, Any] = {
    **VIDEO,
    "clip.length": 1,
    "clip.stride": 1,
    "clip.piece": 0,
    "batch.clips": 8,
    "augment.crop": 0.5,
    "augment.erase": 0.5,
    "model.height": 384,
    "model.width": 192,
    "model.resize_filter": "bilinear",
    "model.spatial_pool": "max_avg",
    "method.start_epoch": 25,
    "method.label_smoothing": 0.1,
    "optim.milestones": (20, 40),
    "train.epochs": 60,
    "score.flip": True,
}
"""The image recipe as published: 32 pictures on each of two workers, eight per identity."""

CSCI: dict[str, Any] = {
    "data.frames.format": "source",
    "clip.piece": 0,
    "batch.identities": 4,
    "batch.clips": 2,
    "batch.spread_outfits": False,
    "augment.flip": 0.5,
    "augment.crop": 0.5,
    "augment.erase": 0.5,
    "model.weights": "imagenet",
    "model.height": 224,
    "model.width": 224,
    "model.resize_filter": "bilinear",
    "model.drop_path": 0.0,
    "model.attention": "s2a",
    "method.name": "csci",
    "method.csci.triplet_weight": 1.0,
    "method.csci.colour_weight": 1.0,
    "method.csci.disentangling_weight": 1.0,
    "method.csci.motion_weight": 1.0,
    "method.csci.triplets_of_all_workers": False,
    "optim.name": "sgd",
    "optim.learning_rate": 2e-5,
    "optim.momentum": 0.9,
    "optim.weight_decay": 0.05,
    "optim.decay_all": True,
    "optim.bias_rate": 2.0,
    "optim.layer_decay": None,
    "optim.schedule": "epoch_cosine",
    "optim.warmup_epochs": 20.0,
    "optim.warmup_rate": 7.8125e-7,
    "optim.final_rate": 2e-6,
    "optim.clip_norm": None,
    "train.epochs": 60,
    "train.first_stage": None,
    "train.held_out_share": 0.0,
    "train.test_weights": "last",
    "train.ema_decay": None,
    "score.flip": False,
    "score.single_shot_draws": 0,
    "compute.workers": 2,
}
"""CSCI's recipe as released: eight pictures or clips on each of two workers, two per identity."""

CSCI_IMAGE: dict[str, Any] = {
    **CSCI,
    "model.backbone": "csci_image/eva02_large_patch14_clip_224.merged2b",
    "clip.length": 1,
    "clip.stride": 1,
}
CSCI_STAGE_1: dict[str, Any] = {
    **CSCI,
    "model.backbone": "csci_plain/eva02_large_patch14_clip_224.merged2b",
    "clip.length": 1,
    "clip.stride": 4,
    "clip.test_length": 8,
    "clip.test_places": (4,),
}
CSCI_VIDEO: dict[str, Any] = {
    **CSCI,
    "model.backbone": "csci_video/eva02_large_patch14_clip_224.merged2b",
    "model.resize_filter": "bicubic",
    "clip.length": 4,
    "clip.stride": 4,
    "clip.test_length": 8,
    "clip.test_places": (0, 2, 4, 6),
    "augment.crop": 0.0,
    "augment.erase": 0.0,
    "method.csci.picture_augment.flip": 0.5,
    "method.csci.picture_augment.crop": 0.5,
    "method.csci.picture_augment.erase": 0.5,
    "method.csci.picture_filter": "bilinear",
}


def colours(planes: str, bins: int, *, range_scaled: bool) -> dict[str, Any]:
    """A released colour profile."""
    found = {"kind": "rgb_uv", "planes": planes, "bins": bins, "sigma": 0.02, "range_scaled": range_scaled}
    return {f"method.csci.colours.{name}": value for name, value in found.items()}


FOUR_EACH = {"batch.identities": 8, "batch.clips": 4}
"""16 x 4 pictures on the two workers together."""

PUBLISHED: dict[str, dict[str, Any]] = {
    "ccvid_paper": {**VIDEO, "data.kind": "ccvid", "clip.piece": 64},
    "ccvid_baseline_paper": {**VIDEO, "data.kind": "ccvid", "clip.piece": 64, "method.clothes_loss": False},
    "mevid_paper": {**VIDEO, "data.kind": "mevid", "clip.piece": 0},
    "ltcc_paper": {**IMAGE, "data.kind": "ltcc"},
    "prcc_paper": {**IMAGE, "data.kind": "prcc", "score.single_shot_draws": 10},
    "vc_clothes_paper": {
        **IMAGE,
        "data.kind": "vc_clothes",
        "score.protocols": (
            ProtocolOptions(name="same_clothes_cameras_2_3", within={"camera": ("2", "3")}),
            ProtocolOptions(name="clothes_changing_cameras_3_4", within={"camera": ("3", "4")}),
        ),
    },
    "deepchange_paper": {**IMAGE, **FOUR_EACH, "data.kind": "deepchange", "data.deepchange.part": "test"},
    "last_paper": {
        **IMAGE,
        **FOUR_EACH,
        "data.kind": "last",
        "data.last.part": "test",
        "method.pair_loss": "triplet",
        "method.pair_weight": 1.0,
        "method.pair_margin": 0.3,
    },
    "ccvid_csci_paper": {
        **CSCI_VIDEO,
        **colours("three", 64, range_scaled=True),
        "data.kind": "ccvid",
        "train.epochs": 100,
        "train.first_stage": "ccvid_csci_stage1_paper",
    },
    "mevid_csci_paper": {
        **CSCI_VIDEO,
        **colours("mean", 32, range_scaled=True),
        "data.kind": "mevid",
        "train.first_stage": "mevid_csci_stage1_paper",
    },
    "ccvid_csci_stage1_paper": {**CSCI_STAGE_1, "data.kind": "ccvid"},
    "mevid_csci_stage1_paper": {**CSCI_STAGE_1, "data.kind": "mevid"},
    "ltcc_csci_paper": {**CSCI_IMAGE, **colours("mean", 64, range_scaled=False), "data.kind": "ltcc"},
    "prcc_csci_paper": {**CSCI_IMAGE, **colours("three", 16, range_scaled=True), "data.kind": "prcc"},
}
FASTER = {"ccvid_cal": "ccvid_paper", "ccvid_baseline": "ccvid_baseline_paper", "mevid_cal": "mevid_paper"}


def recipe(name: str) -> Recipe:
    flags = {
        "footage": ("--data.footage.videos", "/data"),
        "footage_cal": ("--data.footage.videos", "/data"),
        "footage_unlabelled": ("--data.footage.videos", "/data"),
        "synthetic": (),
        "synthetic_csci": (),
        "synthetic_csci_stage1": (),
    }.get(name, ("--data.root", "/data"))
    return parse_recipe(["--recipe", name, *flags], program="train.py", description="")[0]


def setting(options: BaseModel, place: str) -> object:
    for name in place.split("."):
        options = dict(options)[name]
    return options


def settings(values: Mapping[str, Any], above: str = "") -> dict[str, object]:
    """Every leaf by its dotted path."""
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= settings(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_recipe_states_the_published_figures(name: str) -> None:
    found = recipe(name)
    assert {place: setting(found, place) for place in PUBLISHED[name]} == PUBLISHED[name]
    of_cal = 16 if found.data.kind in ("ccvid", "mevid") else 32
    assert found.batch.identities * found.batch.clips == (8 if found.method.name == "csci" else of_cal)


def test_every_recipe_with_the_suffix_is_compared_with_what_was_published() -> None:
    assert {name for name in recipe_names() if name.endswith("_paper")} == PUBLISHED.keys()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_recipe_leaves_no_figure_to_the_defaults(name: str) -> None:
    """Defaults may change; a published value that differs from today's default is written in the file."""
    defaults = Recipe()
    written = settings(read_recipe(name))
    differing = {place for place, value in PUBLISHED[name].items() if setting(defaults, place) != value}
    assert {place for place in differing if not any(leaf.startswith(place) for leaf in written)} == set()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_named_by_its_file_and_explained(name: str) -> None:
    found, text = recipe(name), (RECIPES / f"{name}.yaml").read_text()
    assert found.run.name == name
    assert text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize(("fast", "paper"), sorted(FASTER.items()))
def test_a_faster_recipe_differs_from_the_published_one_only_where_it_says(fast: str, paper: str) -> None:
    found, published = (settings(recipe(name).model_dump()) for name in (fast, paper))
    differing = {place for place in found if found[place] != published[place]}
    assert differing == {
        "run.name",
        "data.frames.format",
        "train.held_out_share",
        "train.test_weights",
        "train.bf16",
        "compute.workers",
    }
    assert found["data.frames.format"] == "jpeg"
    assert (found["data.frames.height"], found["data.frames.width"]) == (256, 128)


def test_shards_of_another_storage_have_another_folder() -> None:
    """Otherwise a published run would continue with the shards of a faster one."""
    fast, published = (shard_folder(recipe(name).data) for name in ("ccvid_cal", "ccvid_paper"))
    assert (fast.name, published.name) == ("ccvid", "ccvid-source")
    assert fast.parent == published.parent
