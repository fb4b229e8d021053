"""The heads and the model that holds them."""

from __future__ import annotations

import pytest
import torch

from ccvid.model import CosineClassifier, IdentityClassifier, ReIdModel
from video_backbones.factory import build_backbone


def test_cosines_equal_a_naive_loop() -> None:
    classifier = CosineClassifier(5, 3).double()
    feature = torch.randn(4, 5, dtype=torch.float64)
    cosine = classifier(feature)
    for b in range(4):
        for c in range(3):
            x, w = feature[b], classifier.weight[c]
            assert cosine[b, c].item() == pytest.approx((x @ w / (x @ x).sqrt() / (w @ w).sqrt()).item())


def test_cosines_do_not_depend_on_lengths() -> None:
    classifier = CosineClassifier(5, 3)
    feature = torch.randn(4, 5)
    before = classifier(feature)
    with torch.no_grad():
        classifier.weight.mul_(7)
    torch.testing.assert_close(classifier(3 * feature), before)


def test_held_cosines_are_the_same_and_move_only_the_feature() -> None:
    classifier = CosineClassifier(5, 3)
    feature = torch.randn(4, 5, requires_grad=True)
    held = classifier.held_cosine(feature)
    assert torch.equal(held, classifier(feature))
    torch.autograd.backward(held.square().sum())
    assert classifier.weight.grad is None
    (expected,) = torch.autograd.grad(classifier(feature).square().sum(), feature)
    torch.testing.assert_close(feature.grad, expected)


def test_state_names_are_the_released_ones() -> None:
    assert list(CosineClassifier(5, 3).state_dict()) == ["weight"]
    assert list(IdentityClassifier(5, 3).state_dict()) == ["classifier.weight", "classifier.bias"]


def test_cosine_classifier_begins_with_unit_directions() -> None:
    weight = CosineClassifier(64, 200).weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(200))
    assert weight.mean().abs() < 0.01


@pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
def test_model_gives_float32_feature_and_logits(autocast_dtype: torch.dtype | None) -> None:
    backbone = build_backbone("c2d_resnet18_slim", weights="random")
    model = ReIdModel(backbone, IdentityClassifier(backbone.feature_size, 7), autocast_dtype=autocast_dtype).eval()
    frames = torch.randn(2, 3, 3, 32, 16)
    with torch.inference_mode():
        feature, logits = model(frames)
        assert torch.equal(feature, model.embed(frames))
        assert torch.equal(logits, model.identity_classifier(feature))
    assert (feature.shape, logits.shape) == ((2, 256), (2, 7))
    assert feature.dtype == logits.dtype == torch.float32
