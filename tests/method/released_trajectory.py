"""Repeat four updates of CAL by the released code on C2D-ResNet-50 (``reference/training_trajectory.npz``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccvid.model import CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.training.cal_update import CalUpdate
from ccvid.training.clothes_heads import ClothesHead
from tests.backbones.reference_values import fill, reference_input
from tests.method.loss_reference import tensor
from video_backbones.factory import build_backbone

EXPECTED = dict(np.load(Path(__file__).parent / "reference" / "training_trajectory.npz"))
STEPS = 4


class ReleasedTrajectory:
    """The reference's model, heads and optimizers before the first update, in ``dtype`` on ``device``."""

    def __init__(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> None:
        self._dtype, self._device = dtype, torch.device(device)
        backbone = build_backbone("c2d_resnet50", weights="random")
        self.model = ReIdModel(backbone, IdentityClassifier(2048, 6)).double()
        self.clothes_classifier = CosineClassifier(2048, 15).double()
        fill(backbone)
        fill(self.model.identity_classifier, prefix="id_head.")
        fill(self.clothes_classifier, prefix="clothes_head.")
        with torch.no_grad():
            for parameter in self.model.identity_classifier.parameters():
                parameter.mul_(0.05)
        self.model.to(self._device, self._dtype)
        self.clothes_classifier.to(self._device, self._dtype)
        head = ClothesHead(self.clothes_classifier, _adam(self.clothes_classifier), tensor("owner").to(device))
        self._update = CalUpdate(self.model, _adam(self.model), head)

    def updates(self) -> Iterator[list[float]]:
        """Run the updates; returns the identity, clothes and adversarial loss of each, like ``EXPECTED``'s stepN."""
        person_B, clothes_B = (torch.from_numpy(EXPECTED[name]).to(self._device) for name in ("pids", "clothes"))
        for step in range(STEPS):
            frames_BTCHW = reference_input(f"train{step}", (8, 3, 4, 64, 32)).to(self._device, self._dtype)
            result = self._update(frames_BTCHW, person_B, clothes_B, train_clothes=True, adversarial=True)
            yield [result.losses[name].item() for name in ("identity", "clothes", "adversarial")]

    def features(self) -> Tensor:
        """The counterpart of ``EXPECTED``'s final_features, (2, 2048); leaves the model in evaluation mode."""
        frames_BTCHW = reference_input("clip", (2, 3, 8, 64, 32)).to(self._device, self._dtype)
        with torch.inference_mode():
            return self.model.eval().embed(frames_BTCHW)


def _adam(module: torch.nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=3.5e-4, weight_decay=5e-4)
