"""CSCI's updates against two epochs of the released code, in float64, with our optimizer and schedule."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccvid.csci_options import CsciOptions
from ccvid.model import ReIdModel
from ccvid.optim_options import OptimOptions
from ccvid.training.csci_model import CsciHeads, CsciModel, new_classifier
from ccvid.training.csci_update import CsciUpdate
from ccvid.training.optimizers import build_optimizer, layers_above
from ccvid.training.schedules import learning_rate
from ccvid.training.update_result import UpdateResult
from tests.backbones.csci_networks import FRAMES, SIZE, Kind, filled
from tests.backbones.reference_values import fill, reference_input
from video_backbones.csci.networks import CsciImage, CsciNetwork, CsciPlain, CsciVideo

PERSONS, COLOURS, EPOCHS = 5, 48, 60
BATCH = 8
NEAR = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
OPTIM = OptimOptions(
    name="sgd",
    learning_rate=2e-3,
    momentum=0.9,
    weight_decay=0.05,
    bias_rate=2,
    schedule="epoch_cosine",
    warmup_epochs=20,
    warmup_rate=7.8125e-5,
    final_rate=2e-6,
)
"""As released, at a hundred times the rate."""

with np.load(Path(__file__).parents[1] / "reference" / "csci_trajectory.npz") as arrays:
    EXPECTED = {name: torch.from_numpy(arrays[name]) for name in arrays.files}


class Trained:
    """One of the tiny networks, filled as the reference's, with its heads, optimizer and update."""

    def __init__(self, kind: type[Kind]) -> None:
        backbone = filled(kind).train()
        self.model = ReIdModel(backbone, new_classifier(32, PERSONS).double())
        _fill_classifier(self.model.identity_classifier, "head.")
        heads = None if kind is CsciPlain else CsciHeads(32, COLOURS, PERSONS if kind is CsciVideo else None).double()
        if heads is not None:
            fill(heads.colour)
            if heads.head_image is not None:
                _fill_classifier(heads.head_image, "head_image.")
        self.whole = CsciModel(self.model, heads)
        self.optimizer = build_optimizer(OPTIM, OPTIM.learning_rate, self.whole)
        self.update = CsciUpdate(self.whole, self.optimizer, CsciOptions())

    @property
    def backbone(self) -> CsciNetwork:
        assert isinstance(self.model.backbone, CsciNetwork)
        return self.model.backbone

    def begin(self, epoch: int) -> list[float]:
        """Set the rates of an epoch, counted from 1; returns them, the usual one first."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(OPTIM, group["peak_lr"], epoch - 1, EPOCHS)
        return sorted(group["lr"] for group in self.optimizer.param_groups)


def _fill_classifier(classifier: nn.Module, prefix: str) -> None:
    fill(classifier.classifier, prefix=prefix)  # type: ignore[arg-type]


def pictures(epoch: int) -> Tensor:
    return reference_input(f"csci_train_images{epoch}", (BATCH, 3, *SIZE)).transpose(1, 2)


def clips(epoch: int) -> Tensor:
    return reference_input(f"csci_train_clips{epoch}", (BATCH, 3, FRAMES, *SIZE))


def compare(result: UpdateResult, name: str) -> None:
    NEAR(torch.stack(list(result.losses.values())), EXPECTED[name])


def embedded(backbone: CsciNetwork, frames: Tensor) -> Tensor:
    with torch.inference_mode():
        return backbone.eval()(frames)  # type: ignore[no-any-return]


def test_the_plain_network_follows_the_release() -> None:
    trained = Trained(CsciPlain)
    for epoch in (1, 2):
        NEAR(torch.tensor(trained.begin(epoch), dtype=torch.float64), EXPECTED[f"plain.lr{epoch}"])
        compare(trained.update.plain(pictures(epoch).unsqueeze(1), EXPECTED["pids"]), f"plain.step{epoch}")
    images = reference_input("csci_images", (4, 3, *SIZE)).transpose(1, 2)
    NEAR(embedded(trained.backbone, images.unsqueeze(1)), EXPECTED["plain.final_features"])


def test_the_image_network_follows_the_release() -> None:
    trained = Trained(CsciImage)
    for epoch in (1, 2):
        NEAR(torch.tensor(trained.begin(epoch), dtype=torch.float64), EXPECTED[f"image.lr{epoch}"])
        targets = EXPECTED[f"targets{epoch}"]
        compare(trained.update.pictures(pictures(epoch), targets, EXPECTED["pids"]), f"image.step{epoch}")
    images = reference_input("csci_images", (4, 3, *SIZE)).transpose(1, 2)
    NEAR(embedded(trained.backbone, images.unsqueeze(1)), EXPECTED["image.final_features"])
    assert isinstance(trained.backbone, CsciImage)
    NEAR(trained.backbone.extra_token1.detach(), EXPECTED["image.final_colour_token"])


def test_the_video_network_follows_the_release_in_both_ways() -> None:
    trained = Trained(CsciVideo)
    persons = EXPECTED["pids"]
    for epoch in (1, 2):
        NEAR(torch.tensor(trained.begin(epoch), dtype=torch.float64), EXPECTED[f"video.lr{epoch}"])
        targets = EXPECTED[f"targets{epoch}"]
        compare(trained.update.pictures(pictures(epoch), targets, persons), f"video.image.step{epoch}")
        compare(trained.update.clips(clips(epoch), persons), f"video.video.step{epoch}")
    backbone = trained.backbone
    assert isinstance(backbone, CsciVideo)
    NEAR(embedded(backbone, reference_input("csci_clips", (3, 3, FRAMES, *SIZE))), EXPECTED["video.final_features"])
    with torch.inference_mode():
        images = reference_input("csci_images", (4, 3, *SIZE)).transpose(1, 2)
        NEAR(backbone.image_way(images).feature_BD, EXPECTED["video.final_image_features"])
    NEAR(backbone.extra_token1.detach(), EXPECTED["video.final_colour_token"])


@pytest.mark.parametrize("loss", ["triplet", "colour", "disentangling"])
def test_a_loss_of_weight_zero_is_told_but_not_trained_with(loss: str) -> None:
    states = []
    for weight in (0.0, 1.0):
        trained = Trained(CsciImage)
        options = CsciOptions.model_validate({f"{loss}_weight": weight})
        update = CsciUpdate(trained.whole, trained.optimizer, options)
        trained.begin(1)
        compare(update.pictures(pictures(1), EXPECTED["targets1"], EXPECTED["pids"]), "image.step1")
        states.append(trained.whole.state_dict())
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_norm_and_heads_are_no_layers_and_tokens_come_before_the_first() -> None:
    above = layers_above(Trained(CsciVideo).whole)
    own = "model.backbone."
    blocks = {
        name.removeprefix(f"{own}blocks.").partition(".")[0]: layer for name, layer in above.items() if "blocks" in name
    }
    assert blocks == {"0": 3, "1": 2, "2": 1}
    for name, layer in above.items():
        if not name.startswith(f"{own}blocks."):
            is_head = name.startswith(("heads.", "model.identity_classifier.", f"{own}norm."))
            assert layer == (0 if is_head else 4), name
