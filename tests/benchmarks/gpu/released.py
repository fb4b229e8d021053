"""The released numbers: features, losses and four updates, against the float64 reference.

Float32 is held to what rounding explains. After an update of Adam, whose first steps are of the same size however
small a gradient is, rounding is magnified some ten thousand times: there the losses may be a twentieth off, while
the same updates in float64 show that the arithmetic is the reference's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.backbones.reference_values import REFERENCE
from tests.backbones.released_networks import NETWORKS, ReleasedNetwork
from tests.benchmarks.gpu.device import plain_float32
from tests.benchmarks.gpu.results import Results
from tests.benchmarks.gpu.sizes import Sizes
from tests.benchmarks.gpu.task import Task
from tests.method.loss_reference import REFERENCE as LOSS_REFERENCE
from tests.method.released_losses import RELEASED_LOSSES, value_and_gradient
from tests.method.released_trajectory import EXPECTED, STEPS, ReleasedTrajectory
from video_backbones.released import from_released

FEATURES, ATTENDING_FEATURES = 1e-4, 1e-2
"""Largest error of float32 features, relative; non-local blocks amplify rounding, on a CPU to 4e-4."""
LOSS_VALUE, LOSS_GRADIENT = 1e-5, 1e-4
FIRST_LOSSES, LATER_LOSSES, LAST_COSINE = 1e-4, 5e-2, 5e-2
EXACT_LOSSES, EXACT_FEATURES = 1e-7, 1e-6


def run(task: Task) -> None:
    with plain_float32():
        for network in NETWORKS[: task.sizes.networks]:
            _features(network, task.device, task.results)
        _losses(task.device, task.results)
        _updates(task.device, task.sizes, task.results)


def _features(network: ReleasedNetwork, device: torch.device, results: Results) -> None:
    backbone = network.build().eval()
    backbone.load_state_dict(from_released(network.state))
    backbone.to(device)
    expected = torch.from_numpy(np.load(REFERENCE / "backbone_features.npz")[network.layout])
    frames = network.frames.float().to(device)
    with torch.inference_mode():
        plain = backbone(frames).double().cpu()
        with torch.autocast(device.type, torch.bfloat16):
            rough = backbone(frames).double().cpu()
    tolerance = ATTENDING_FEATURES if "nl" in network.layout else FEATURES
    results.error(f"features of {network.layout}, float32", _largest_error(plain, expected), tolerance)
    results.fact(f"features of {network.layout}, bf16: largest difference", _largest_error(rough, expected), "{:.1e}")
    cosine = cosine_similarity(rough, expected).min().item()
    results.fact(f"features of {network.layout}, bf16: lowest cosine", cosine, "{:.6f}")


def _losses(device: torch.device, results: Results) -> None:
    values, gradients = {}, {}
    for name in RELEASED_LOSSES:
        value, gradient = value_and_gradient(name, torch.float32, device)
        values[name] = _largest_error(value, torch.from_numpy(LOSS_REFERENCE[f"{name}.loss"]))
        gradients[name] = _largest_error(gradient, torch.from_numpy(LOSS_REFERENCE[f"{name}.grad"]))
    for what, errors, tolerance in (("value", values, LOSS_VALUE), ("gradient", gradients, LOSS_GRADIENT)):
        worst = max(errors, key=errors.__getitem__)
        results.error(f"{what} of {len(errors)} losses, float32 (worst: {worst})", errors[worst], tolerance)


def _updates(device: torch.device, sizes: Sizes, results: Results) -> None:
    for dtype, name in ((torch.float64, "float64"), (torch.float32, "float32")):
        exact = dtype == torch.float64
        trajectory = ReleasedTrajectory(dtype, device)
        for step, losses in zip(range(sizes.updates), trajectory.updates(), strict=False):
            error = float(np.abs(np.array(losses) / EXPECTED[f"step{step}"] - 1).max())
            tolerance = EXACT_LOSSES if exact else FIRST_LOSSES if step == 0 else LATER_LOSSES
            results.error(f"losses of update {step + 1}, {name}", error, tolerance)
        if sizes.updates < STEPS:
            continue
        features, expected = trajectory.features().double().cpu(), torch.from_numpy(EXPECTED["final_features"])
        if exact:
            results.error(f"features after the updates, {name}", _largest_error(features, expected), EXACT_FEATURES)
        else:
            distance = 1 - cosine_similarity(features, expected).min().item()
            results.error(f"features after the updates, {name}: 1 − cosine", distance, LAST_COSINE)


def _largest_error(found: Tensor, expected: Tensor) -> float:
    """Relative to the reference's largest number."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
