"""Variants of a CAL training step: the released formulation, and a whole step captured as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Adam

from ccvid.model import CosineClassifier, IdentityClassifier
from ccvid.training.cal_update import CalUpdate
from ccvid.training.clothes_heads import ClothesHead
from ccvid.training.trainer import Trainer
from data_tools.loader import ClipBatch
from data_tools.transforms import normalise
from tests.benchmarks.bench_backbone import Conv3dResNet
from video_backbones.c2d import C2DResNet
from video_backbones.factory import build_backbone

Step = Callable[[], object]


def recipe_step(trainer: Trainer, batch: ClipBatch) -> Step:
    """The trainer's step: frames normalised on the device, both updates."""

    def step() -> None:
        trainer.passes[0].update(batch, trainer.recipe.method.start_epoch)

    return step


class ReleasedModel(nn.Module):
    """The network of 1 x k x k Conv3d in float32; with two passes, the first only serves the clothes classifier."""

    def __init__(self, backbone: str, persons: int, *, passes: int) -> None:
        super().__init__()
        folded = build_backbone(backbone, weights="random")
        assert isinstance(folded, C2DResNet)
        self.backbone = Conv3dResNet(folded)
        self.classifier = IdentityClassifier(folded.feature_size, persons)
        self.passes = passes

    def forward(self, frames_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> feature (B, D), identity logits (B, P)."""
        for _ in range(self.passes - 1):
            with torch.no_grad():
                self.backbone(frames_BTCHW)
        feature_BD = self.backbone(frames_BTCHW)
        return feature_BD, self.classifier(feature_BD)


def released_step(trainer: Trainer, batch: ClipBatch, *, passes: int) -> Step:
    """The same batch and losses with frames normalised beforehand, like the released loader."""
    device, split = trainer.run.device, trainer.split
    model = ReleasedModel(trainer.recipe.model.backbone, len(split.persons), passes=passes).to(device)
    clothes = CosineClassifier(trainer.model.backbone.feature_size, len(split.clothes)).to(device)
    owner_N = torch.from_numpy(split.owner_N).to(device)
    update = CalUpdate(model, _adam(model), ClothesHead(clothes, _adam(clothes), owner_N))
    frames_BTCHW = normalise(batch.frames_BTCHW).contiguous()
    return lambda: update(frames_BTCHW, batch.person_B, batch.clothes_B, train_clothes=True, adversarial=True)


def captured_step(trainer: Trainer, batch: ClipBatch) -> Step:
    """A whole step as one CUDA graph, for a trainer that has run no step yet; its batch stays in place."""
    optimizers = trainer.parts.optimizers.values()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["capturable"] = True
    step = recipe_step(trainer, batch)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):  # one-time choices, compilation and allocations must not be in the graph
            step()
    torch.cuda.current_stream().wait_stream(stream)
    for optimizer in optimizers:
        optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _adam(module: nn.Module) -> Adam:
    return Adam(module.parameters(), 3.5e-4, weight_decay=5e-4)
