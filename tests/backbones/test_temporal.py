"""I3D, AP3D and non-local layers against straightforward 3-D forms and naive loops."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, max_pool3d, normalize
from torch.profiler import ProfilerActivity

from video_backbones.appearance_preserving import AppearancePreservingConvolution
from video_backbones.clip_blocks import ClipConvolution, InflatedConvolution
from video_backbones.factory import build_backbone
from video_backbones.non_local import NonLocalBlock
from video_backbones.temporal_resnet import TemporalResNet50

TEMPORAL: tuple[str, ...] = ("i3d_resnet50", "ap3d_resnet50", "nl_resnet50", "ap3d_nl_resnet50")
LENGTHS = (1, 2, 5)


def maps(frames: int, channels: int = 32, height: int = 6, width: int = 5, *, clips: int = 2) -> Tensor:
    """Folded float64 maps (clips * frames, C, H, W), channels-last, as after a ReLU."""
    x = torch.randn(clips * frames, channels, height, width, generator=torch.Generator().manual_seed(frames))
    return x.double().relu().contiguous(memory_format=torch.channels_last)


def unfolded(x_NCHW: Tensor, frames: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    return x_NCHW.reshape(-1, frames, *x_NCHW.shape[1:]).transpose(1, 2)


def folded(x_BCTHW: Tensor) -> Tensor:
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def image_convolution(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(32, 32, 3, stride=stride, padding=1, bias=False)


def convolution(make: Callable[[nn.Conv2d], ClipConvolution], stride: int = 1) -> Any:
    """A convolution without zero weights."""
    torch.manual_seed(0)
    layer = make(image_convolution(stride)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1)
    return layer


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", LENGTHS)
def test_i3d_equals_conv3d(frames: int, stride: int) -> None:
    layer = convolution(InflatedConvolution, stride)
    x = maps(frames).requires_grad_()
    expected = folded(conv3d(unfolded(x, frames), layer.conv3d.weight, stride=(1, stride, stride), padding=1))
    found = layer(x, frames)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    inputs = (x, layer.conv3d.weight)
    weight = torch.randn_like(expected)
    for own, other in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


def reassembled(module: Any, frame_CP: Tensor, neighbour_CP: Tensor) -> Tensor:
    """Align one neighbour to one frame, position by position."""
    semantic, of_frame, of_neighbour, gate = (
        weight.flatten(1)
        for weight in (
            module.semantic_mapping.weight,
            module.x_mapping.weight,
            module.n_mapping.weight,
            module.contrastive_att_net[0].weight,
        )
    )
    columns = []
    for here in range(frame_CP.shape[1]):
        key = normalize(semantic @ frame_CP[:, here], dim=0)
        cosines = torch.stack([key @ normalize(semantic @ other, dim=0) for other in neighbour_CP.unbind(1)])
        laid = neighbour_CP @ (4 * cosines).softmax(0)
        columns.append(laid * (gate @ ((of_frame @ frame_CP[:, here]) * (of_neighbour @ laid))).sigmoid())
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("frames", LENGTHS)
def test_ap3d_equals_naive_loops(frames: int) -> None:
    layer = convolution(AppearancePreservingConvolution, 2)
    x = maps(frames)
    with torch.no_grad():
        found = layer(x, frames)
        spatial = layer.spatial_conv3d(x).reshape(2, frames, 32, -1)
        kernel = layer.temporal_conv3d.weight.flatten(2)
        for clip in range(2):
            for t in range(frames):
                own = spatial[clip, t]
                expected = own + kernel[:, :, 1] @ own
                for tap, neighbour in ((0, t - 1), (2, t + 1)):
                    if 0 <= neighbour < frames:
                        expected += kernel[:, :, tap] @ reassembled(layer.APM, own, spatial[clip, neighbour])
                torch.testing.assert_close(found[clip * frames + t].flatten(1), expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_no_gradient_flows_through_what_the_gate_compares() -> None:
    """With only x_mapping and n_mapping in between, a shift of the input must not pass the gate."""
    layer = convolution(AppearancePreservingConvolution)
    x = maps(3).requires_grad_()
    (felt,) = torch.autograd.grad(layer(x, 3).sum(), x)
    held = deepcopy(layer)
    with torch.no_grad():
        y_BTPC = layer.spatial_conv3d(x).permute(0, 2, 3, 1).reshape(2, 3, -1, 32)
        own_BTPR = layer.APM.x_mapping(y_BTPC)
        affinity = 4 * (s := normalize(layer.APM.semantic_mapping(y_BTPC), dim=-1))[:, :-1] @ s[:, 1:].mT
        following, previous = affinity.softmax(-1) @ y_BTPC[:, 1:], affinity.softmax(-2).mT @ y_BTPC[:, :-1]
        gates = [
            layer.APM.contrastive_att_net(own * layer.APM.n_mapping(other))
            for own, other in ((own_BTPR[:, 1:], previous), (own_BTPR[:, :-1], following))
        ]
    held.APM._gated = lambda neighbour, _: gates.pop(0) * neighbour
    (expected,) = torch.autograd.grad(held(x, 3).sum(), x)
    torch.testing.assert_close(felt, expected)


@pytest.mark.parametrize("size", [(6, 5), (1, 4), (1, 1)])
@pytest.mark.parametrize("frames", LENGTHS)
def test_non_local_equals_its_formula(frames: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block: Any = NonLocalBlock(32).double().eval()
    nn.init.normal_(block.W[1].weight)
    x = maps(frames, 32, *size)
    with torch.no_grad():
        found = block(x, frames)
        x_BCTHW = unfolded(x, frames)
        theta, phi, g = (
            conv3d(x_BCTHW, layer.weight.unsqueeze(2), layer.bias) for layer in (block.theta, block.phi[0], block.g[0])
        )
        kernel = (1, min(2, size[0]), min(2, size[1]))
        phi, g = max_pool3d(phi, kernel).flatten(2), max_pool3d(g, kernel).flatten(2)
        seen = (g @ (theta.flatten(2).mT @ phi).softmax(-1).mT).reshape(2, -1, *x_BCTHW.shape[2:])
        wide = conv3d(seen, block.W[0].weight.unsqueeze(2), block.W[0].bias)
        torch.testing.assert_close(found, folded(x_BCTHW) + block.W[1](folded(wide)))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_batch_statistics_over_folded_frames_are_batchnorm3ds() -> None:
    torch.manual_seed(0)
    block: Any = NonLocalBlock(32).double().train()
    nn.init.normal_(block.W[1].weight)
    reference = nn.BatchNorm3d(32).double()
    reference.weight = block.W[1].weight
    seen: list[Tensor] = []
    block.W[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = maps(5)
    branch = block(x, 5) - x
    torch.testing.assert_close(branch, folded(reference(unfolded(seen[0], 5))))
    torch.testing.assert_close(block.W[1].running_mean, reference.running_mean)
    torch.testing.assert_close(block.W[1].running_var, reference.running_var)


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("kind", [InflatedConvolution, AppearancePreservingConvolution, NonLocalBlock])
def test_bf16_gradients_are_finite_and_near_float32(kind: Any, frames: int) -> None:
    """With two frames, torch's Conv3d reads uninitialised memory."""
    torch.manual_seed(0)
    layer: Any = NonLocalBlock(32).eval() if kind is NonLocalBlock else convolution(kind, 2).float()
    x = maps(frames, clips=4).float()
    if kind is NonLocalBlock:
        nn.init.ones_(layer.W[1].weight)
        x = maps(frames, 32, 1, 1, clips=40).float()  # in larger maps bf16 may pick another of two near-equal maxima
    gradients: list[dict[str, Tensor]] = []
    for autocast in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(x, frames)
        torch.autograd.backward((y.float() * torch.linspace(0, 1, y.numel()).view_as(y).cos()).sum())
        gradients.append({name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None})
    exact, rough = gradients
    whole = torch.cat([value.flatten() for value in exact.values()]).norm()
    for name, value in exact.items():
        assert rough[name].isfinite().all(), name
        assert (rough[name] - value).norm() < 0.05 * value.norm() + 5e-3 * whole, name


@pytest.mark.parametrize("name", TEMPORAL)
def test_a_temporal_network_begins_as_the_image_network(name: str, published_resnet50: dict[str, Tensor]) -> None:
    """3 x 3 x 3 kernels are zero except for the middle; temporal kernels and the last BatchNorms are zero."""
    image, video = (build_backbone(kind, weights="imagenet").double().eval() for kind in ("c2d_resnet50", name))
    video.bn.load_state_dict(image.bn.state_dict())
    frames = torch.randn(1, 3, 3, 64, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(video(frames), image(frames))
    state = video.state_dict()
    assert torch.equal(state["layer4.2.conv2.weight"], published_resnet50["layer4.2.conv2.weight"].double())
    middle = {"i3d_resnet50": "conv3d.weight", "nl_resnet50": "weight"}.get(name, "spatial_conv3d.weight")
    moved = "layer3.6" if name.endswith("nl_resnet50") else "layer3.4"
    kernel = state[f"{moved}.conv2.{middle}"]
    kernel = kernel[:, :, 1] if kernel.ndim == 5 else kernel
    assert torch.equal(kernel, published_resnet50["layer3.4.conv2.weight"].double())


@pytest.fixture
def published_resnet50(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Random weights instead of torchvision's."""
    torch.manual_seed(7)
    state = build_backbone("c2d_resnet50", weights="random").state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("bn.")} | {"fc.bias": torch.ones(3)}
    monkeypatch.setattr("video_backbones.factory.fetch_weights", lambda _: state)
    return state


@pytest.mark.parametrize("name", TEMPORAL)
def test_frames_meet_and_clips_do_not(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, weights="random").double().eval()
    for parameter_name, parameter in backbone.named_parameters():
        if "conv3d" in parameter_name or ".W.1.weight" in parameter_name:
            nn.init.normal_(parameter, std=0.05)
    assert isinstance(backbone, TemporalResNet50)
    both = torch.randn(2, 4, 3, 64, 32, dtype=torch.float64)
    with torch.inference_mode():
        features = backbone(both)
        torch.testing.assert_close(features[1:], backbone(both[1:]), rtol=1e-9, atol=1e-9)
        changed = both.clone()
        changed[0, 3] += 1
        before, after = backbone.feature_maps(both)[:, 0], backbone.feature_maps(changed)[:, 0]
    assert not torch.allclose(before[0], after[0], rtol=1e-6), "frame 0 does not feel frame 3"
    torch.testing.assert_close(before[1], after[1])


def test_no_layer_is_a_conv3d_at_work() -> None:
    """Conv3d modules only hold kernels: neither the modules nor the operator is ever called."""
    called: list[nn.Module] = []
    held = {}
    for name in TEMPORAL:
        backbone = build_backbone(name, weights="random").eval()
        kernels = [module for module in backbone.modules() if isinstance(module, nn.Conv3d)]
        held[name] = len(kernels)
        for module in kernels:
            module.register_forward_pre_hook(lambda module, _: called.append(module))
        with torch.inference_mode(), torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile:
            backbone(torch.zeros(1, 2, 3, 32, 32))
        operators = {event.key for event in profile.key_averages()}
        assert "aten::conv2d" in operators
        assert "aten::conv3d" not in operators
    assert called == []
    assert held == {"i3d_resnet50": 5, "ap3d_resnet50": 5, "nl_resnet50": 0, "ap3d_nl_resnet50": 5}


@pytest.mark.parametrize("name", TEMPORAL)
@pytest.mark.parametrize("frames", [1, 3])
def test_every_parameter_is_reached_and_gradients_repeat_to_the_bit(name: str, frames: int) -> None:
    """DistributedDataParallel waits for a gradient of every parameter, even if it is zero."""
    torch.manual_seed(0)
    backbone = build_backbone(name, weights="random")
    x = torch.randn(2, frames, 3, 64, 32)
    runs = []
    for _ in range(2):
        backbone.zero_grad()
        torch.autograd.backward(backbone.feature_maps(x).square().mean())
        runs.append({n: p.grad for n, p in backbone.named_parameters() if not n.startswith("bn.")})
    assert [n for n, gradient in runs[0].items() if gradient is None or not gradient.isfinite().all()] == []
    assert all(torch.equal(value, runs[1][n]) for n, value in runs[0].items() if value is not None)  # type: ignore[arg-type]
