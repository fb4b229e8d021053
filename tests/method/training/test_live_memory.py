"""Memory of training steps, estimated without data: equal to the byte to the same steps with data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ccvid.config import Recipe
from ccvid.training.build import build_training
from ccvid.training.checkpoint import TrainedParts
from ccvid.training.context import LocalRun
from ccvid.training.live_memory import LiveMemory, bytes_of, held_by
from ccvid.training.memory import MemoryEstimate, estimate_memory, held_between_steps, split_of
from ccvid.training.passes import TrainingPass
from data_tools.loader import ClipBatch
from tests.method.training.test_csci_training import csci_recipe
from tests.method.training.test_training import tiny_recipe
from video_backbones.factory import build_backbone

PERSONS, CLOTHES = 6, 12
Make = Callable[[Path], Recipe]


def cal(**sections: dict[str, Any]) -> Make:
    def make(shards: Path) -> Recipe:
        values = tiny_recipe(shards).model_dump()
        for name, section in sections.items():
            values[name] |= section
        return Recipe.model_validate(values)

    return make


def csci(network: str = "csci_video", **sections: dict[str, Any]) -> Make:
    return lambda shards: csci_recipe(shards, network, **sections)


RECIPES: dict[str, Make] = {
    "CAL": cal(),
    "CAL, memory of clothes, average": cal(method={"clothes_memory": True}, train={"ema_decay": 0.9}),
    "baseline, momentum, bfloat16": cal(method={"clothes_loss": False}, optim={"name": "sgd"}, train={"bf16": True}),
    "CAL, recomputed": cal(model={"checkpoint_blocks": True}),
    "CAL on a transformer of timm": cal(model={"backbone": "timm/vit_tiny_patch16_224", "height": 32, "width": 32}),
    "CSCI, plain": csci("csci_plain"),
    "CSCI, images, AdamW": csci("csci_image", optim={"name": "adamw", "learning_rate": 1e-3}),
    "CSCI, video": csci(),
    "CSCI, images, recomputed, in parts, bfloat16": csci(
        "csci_image", model={"checkpoint_blocks": True}, train={"batch_parts": 2, "bf16": True}
    ),
}


def batch_of(recipe: Recipe, each: TrainingPass) -> ClipBatch:
    """Noise with as many clips as the recipe's batches."""
    clips, people = recipe.batch.clips, recipe.batch.identities
    frames = torch.randint(256, (people * clips, each.clip.length, 3, recipe.model.height, recipe.model.width))
    person_B = torch.arange(people).repeat_interleave(clips)
    return ClipBatch(
        frames_BTCHW=frames.to(torch.uint8),
        tracklet_B=person_B,
        person_B=person_B,
        clothes_B=person_B,
        camera_B=person_B,
    )


def real_step(recipe: Recipe, each: TrainingPass, parts: TrainedParts) -> MemoryEstimate:
    """Counted in a step with data."""
    with LiveMemory() as memory:
        for module in (parts.model, *parts.heads.values(), *([] if parts.average is None else [parts.average.module])):
            for tensor in held_by(module):
                memory.add(tensor)
        for optimizer in parts.optimizers.values():
            for state in optimizer.state.values():
                for value in state.values():
                    memory.add(value)
        each.update(batch_of(recipe, each), 1)
    held = held_between_steps(parts)
    return replace(held, activations=memory.peak - held.total)


def real_memory(recipe: Recipe, folder: Path) -> MemoryEstimate:
    """Of the dearest pass."""
    training = build_training(recipe, split_of(PERSONS, CLOTHES), LocalRun(folder))
    training.parts.model.train()
    for each in training.passes:
        each.update(batch_of(recipe, each), 1)
    found = []
    for each in training.passes:
        for optimizer in training.parts.optimizers.values():
            optimizer.zero_grad()
        found.append(real_step(recipe, each, training.parts))
    return max(found, key=lambda estimate: estimate.total)


@pytest.mark.parametrize("name", RECIPES)
def test_steps_without_data_take_what_steps_with_data_take(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name](Path("/not/read"))
    estimate, real = estimate_memory(recipe, PERSONS, CLOTHES, gpu=False), real_memory(recipe, tmp_path)
    assert estimate is not None
    assert replace(estimate, activations=0) == replace(real, activations=0)
    assert estimate.activations == pytest.approx(real.activations, rel=2e-3)


@pytest.mark.parametrize("name", ["csci_plain/eva_slim", "c2d_resnet18_slim", "timm/vit_tiny_patch16_224"])
def test_what_lives_after_a_forward_pass_is_what_autograd_saved(name: str) -> None:
    """Counted in another way: by the hooks that see every tensor that is saved."""
    backbone = build_backbone(name, weights="random", clip_size=(2, 32, 32)).train()
    frames, saved = torch.randn(2, 2, 3, 32, 32), list[torch.Tensor]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with LiveMemory() as memory:
        for tensor in (frames, *held_by(backbone)):
            memory.add(tensor)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            feature = backbone(frames)
    assert memory.live == bytes_of((frames, *held_by(backbone), *saved, feature))
