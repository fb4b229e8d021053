"""Every loss of the released code that is also here, by its name in ``reference/losses.npz``."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ccvid.losses.arcface import arcface_loss
from ccvid.losses.circle import circle_loss
from ccvid.losses.clothes_adversarial import clothes_adversarial_loss
from ccvid.losses.cosface import cosface_loss
from ccvid.losses.identity import identity_loss
from ccvid.losses.pairs import contrastive_loss, pair_circle_loss, pair_cosface_loss, triplet_loss
from ccvid.training.cal_update import BatchLoss
from tests.method.loss_reference import tensor


def _adversarial(cosine_BC: Tensor, clothes_B: Tensor, *, epsilon: float) -> Tensor:
    same_person_BC = (tensor("owner") == tensor("pids")[:, None]).to(cosine_BC.device)
    return clothes_adversarial_loss(cosine_BC, clothes_B, same_person_BC, epsilon=epsilon)


RELEASED_LOSSES: dict[str, tuple[str, str, BatchLoss]] = {
    **{
        f"cal.eps{epsilon}": ("clothes_cos", "clothes", partial(_adversarial, epsilon=epsilon))
        for epsilon in (0.0, 0.1, 0.5, 1.0)
    },
    "label_smooth": ("id_logits", "pids", partial(identity_loss, label_smoothing=0.1)),
    **{
        f"{name}.m{margin}": ("id_cos", "pids", partial(loss, scale=16.0, margin=margin))
        for name, loss in (("arcface", arcface_loss), ("cosface", cosface_loss), ("circle", circle_loss))
        for margin in (0.0, 0.2)
    },
    "triplet.m0.3": ("features", "pids", partial(triplet_loss, margin=0.3)),
    "contrastive.s16": ("features", "pids", partial(contrastive_loss, scale=16.0)),
    "pair_cosface.s16.m0.3": ("features", "pids", partial(pair_cosface_loss, scale=16.0, margin=0.3)),
    "pair_circle.s16.m0.3": ("features", "pids", partial(pair_circle_loss, scale=16.0, margin=0.3)),
}
"""The reference arrays that it is computed from, the array of its classes, and the loss here."""


def value_and_gradient(name: str, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """A loss computed in ``dtype`` on ``device``, and its gradient; both in float64 on the CPU."""
    source, classes, loss = RELEASED_LOSSES[name]
    given = tensor(source).detach().to(device, dtype).requires_grad_()
    value = loss(given, tensor(classes).to(device))
    (gradient,) = torch.autograd.grad(value, given)
    return value.detach().double().cpu(), gradient.double().cpu()
