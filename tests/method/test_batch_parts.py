"""A batch in parts trains as the whole does: for losses over the batch, with a neck, and with random depth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ccvid.batch_parts import in_parts
from ccvid.losses.pairs import triplet_loss
from ccvid.model import CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.training.cal_update import CalUpdate, PairTerm
from ccvid.training.clothes_heads import ClothesHead
from video_backbones.factory import build_backbone

SIZE = (2, 32, 16)
PERSONS = torch.tensor([0, 0, 1, 1, 2, 2, 3])
CLOTHES = torch.tensor([0, 1, 2, 2, 3, 3, 4])
OWNERS = torch.tensor([0, 0, 1, 2, 3])


def frames() -> Tensor:
    return torch.randn(len(PERSONS), SIZE[0], 3, *SIZE[1:], generator=torch.Generator().manual_seed(1)).double()


def model_of(name: str, parts: int) -> ReIdModel:
    torch.manual_seed(3)
    backbone = build_backbone(name, weights="random", clip_size=SIZE)
    if isinstance(backbone.bn, nn.Identity):
        backbone.bn = nn.BatchNorm1d(backbone.feature_size)  # over the batch, so that it must see the whole
    return ReIdModel(backbone, IdentityClassifier(backbone.feature_size, 4), parts=parts).double().train()


def trained(parts: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses of two CAL updates with a batch-hard triplet loss, and the state after them."""
    model = model_of("csci_plain/eva_slim", parts)
    clothes = CosineClassifier(model.feature_size, 5).double()
    head = ClothesHead(clothes, torch.optim.SGD(clothes.parameters(), 0.1), OWNERS)
    pair = PairTerm(loss=lambda feature, person: triplet_loss(feature, person, margin=0.3))
    update = CalUpdate(model, torch.optim.SGD(model.parameters(), 0.1), head, pair=pair)
    losses = []
    for _ in range(2):
        result = update(frames(), PERSONS, CLOTHES, train_clothes=True, adversarial=True)
        losses += list(result.losses.values())
    return losses, {**model.state_dict(), **{f"clothes.{name}": value for name, value in clothes.state_dict().items()}}


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_cal_with_a_neck_and_triplets_is_that_of_the_whole_batch(parts: int) -> None:
    (losses, state), (of_parts, state_of_parts) = trained(1), trained(parts)
    torch.testing.assert_close(of_parts, losses, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state_of_parts, state, rtol=1e-10, atol=1e-12)


def test_one_part_at_a_time_is_held() -> None:
    """What is saved for the backward pass is the input alone; the rest is computed again, part by part."""
    held: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    saved = []
    for parts in (1, 7):
        model, held[:] = model_of("csci_plain/eva_slim", parts), []
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(frames())
        saved.append(sum(held))
    assert saved[1] < saved[0] / 10


def test_running_statistics_count_each_part_once() -> None:
    once, twice = model_of("c2d_resnet18_slim", 1), model_of("c2d_resnet18_slim", 2)
    with torch.no_grad():
        for part in frames().chunk(2):
            once.backbone.pooled(part)
    in_parts(twice.backbone, twice.backbone.pooled, frames(), 2).sum().backward()  # type: ignore[no-untyped-call]
    for name, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name]), name
    assert all(
        parameter.grad is not None for name, parameter in twice.backbone.named_parameters() if "bn." not in name[:3]
    )


def test_random_depth_is_drawn_alike_when_a_part_is_computed_again() -> None:
    torch.manual_seed(0)
    network = build_backbone("csci_plain/eva_slim", weights="random", clip_size=SIZE, drop_path=0.5).double().train()
    gradients = []
    for checkpointed in (False, True):
        copied = copy.deepcopy(network)
        copied.zero_grad()
        torch.manual_seed(5)
        if checkpointed:
            found = in_parts(copied, copied.pooled, frames(), 2)
        else:
            found = torch.cat([copied.pooled(part) for part in frames().chunk(2)])
        found.square().sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([parameter.grad for parameter in copied.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-14)
