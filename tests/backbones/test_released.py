"""Released CAL networks: their layouts, their features, and files that hold something else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.backbones.reference_values import REFERENCE
from tests.backbones.released_networks import LAYOUTS, NETWORKS, ReleasedNetwork
from video_backbones import WeightsError
from video_backbones.factory import build_backbone
from video_backbones.released import from_released, layout_of, to_released

C2D, AP3D, AVG, GEM, MAX_AVG = NETWORKS[0], NETWORKS[2], NETWORKS[5], NETWORKS[7], NETWORKS[8]
every_case = pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case.layout)


def released_file(file: Path, state: dict[str, Tensor], *, prefix: str = "") -> Path:
    """A checkpoint as the released code writes it."""
    content = {
        "model_state_dict": {prefix + name: value for name, value in state.items()},
        "classifier_state_dict": {"classifier.weight": torch.ones(75, 4), "classifier.bias": torch.ones(75)},
        "clothes_classifier_state_dict": {"weight": torch.ones(159, 4)},
        "rank1": np.float64(0.817),
        "epoch": 149,
    }
    torch.save(content, file)
    return file


@every_case
def test_features_equal_the_reference(case: ReleasedNetwork) -> None:
    backbone = case.build().double().eval()
    backbone.load_state_dict(from_released(case.state))
    expected = np.load(REFERENCE / "backbone_features.npz")[case.layout]
    with torch.inference_mode():
        feature = backbone(case.frames).numpy()
    np.testing.assert_allclose(feature, expected, rtol=1e-6)


@every_case
def test_names_order_and_shapes_go_out_as_released(case: ReleasedNetwork) -> None:
    state = to_released(case.build(), image=case.is_image)
    assert [(name, list(value.shape)) for name, value in state.items()] == [tuple(row) for row in LAYOUTS[case.layout]]
    assert layout_of(state) == case.layout or case.layout in str(layout_of(state))
    assert all(value.is_contiguous() for value in state.values())


@every_case
def test_in_and_out_again_to_the_bit(case: ReleasedNetwork) -> None:
    given = {name: value.float() if value.is_floating_point() else value for name, value in case.state.items()}
    backbone = case.build()
    backbone.load_state_dict(from_released(given))
    back = to_released(backbone, image=case.is_image)
    assert list(back) == list(given)
    assert all(torch.equal(back[name], given[name]) for name in given)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_checkpoint_is_read(tmp_path: Path, prefix: str) -> None:
    file = released_file(tmp_path / "best_model.pth.tar", AP3D.state, prefix=prefix)
    backbone = AP3D.build(file, whole=True)
    expected = from_released(AP3D.state)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, expected[name].to(value.dtype)), name


@pytest.mark.parametrize(
    ("held", "asked", "message"),
    [
        (AP3D, C2D, "contains weights of ap3dres50, expected c2d_resnet50"),
        (C2D, AP3D, "contains weights of c2dres50, expected ap3d_resnet50"),
        (NETWORKS[1], NETWORKS[4], "contains weights of i3dres50, expected ap3d_nl_resnet50"),
        (NETWORKS[3], NETWORKS[4], "contains weights of nlres50, expected ap3d_nl_resnet50"),
        (NETWORKS[4], ReleasedNetwork("", "r3d_18"), "contains weights of ap3dnlres50, expected r3d_18"),
        (GEM, AP3D, "contains weights of resnet50-gem, expected ap3d_resnet50"),
        (GEM, C2D, "contains weights of resnet50-gem, expected c2d_resnet50 with spatial pool max"),
        (MAX_AVG, GEM, "contains weights of resnet50-maxavg, expected c2d_resnet50 with spatial pool gem"),
        (
            NETWORKS[5],
            MAX_AVG,
            "contains weights of resnet50-avg or resnet50-max, expected c2d_resnet50 with spatial pool max_avg",
        ),
    ],
)
def test_a_file_of_another_backbone_is_named(
    tmp_path: Path, held: ReleasedNetwork, asked: ReleasedNetwork, message: str
) -> None:
    state = {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in LAYOUTS[held.layout]}
    file = released_file(tmp_path / "other.pth.tar", state)
    with pytest.raises(WeightsError) as caught:
        asked.build(file)
    assert str(caught.value) == f"{file}: {message}"


def test_our_own_model_file_lends_its_backbone(tmp_path: Path) -> None:
    backbone = build_backbone("c2d_resnet18_slim", weights="random", temporal_pool="attention")
    state = {f"backbone.{name}": value.contiguous() for name, value in backbone.state_dict().items()}
    file = tmp_path / "model.safetensors"
    save_file({**state, "identity_classifier.classifier.weight": torch.ones(3, 256)}, file)
    again = build_backbone("c2d_resnet18_slim", weights=file, temporal_pool="attention", whole=True)
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(WeightsError, match=r"unexpected temporal_pool\.hidden\.weight"):
        build_backbone("c2d_resnet18_slim", weights=file)


def test_a_starting_point_may_lack_neck_and_pools_a_trained_model_may_not(tmp_path: Path) -> None:
    trunk = {name: value for name, value in C2D.state.items() if not name.startswith("bn.")}
    file = released_file(tmp_path / "trunk.pth.tar", trunk)
    own = C2D.build(file, spatial_pool="gem", temporal_pool="attention").state_dict()
    assert own["spatial_pool.p"].item() == 3
    with pytest.raises(WeightsError, match=r"missing bn\.weight"):
        C2D.build(file, whole=True)


def test_numbers_of_numpy_are_read_and_its_arrays_are_not(tmp_path: Path) -> None:
    numbers = {str(kind): np.ones((), kind)[()] for kind in ("f8", "f4", "i8", "i4", "b1")}
    torch.save({"model_state_dict": C2D.state, **numbers}, tmp_path / "numbers.pth.tar")
    C2D.build(tmp_path / "numbers.pth.tar", whole=True)
    torch.save({"model_state_dict": C2D.state, "curve": np.ones(3)}, tmp_path / "array.pth.tar")
    with pytest.raises(WeightsError, match=r"array\.pth\.tar: .*refused: numpy\.[\w.]+ in it could run code"):
        C2D.build(tmp_path / "array.pth.tar")


def test_damaged_and_hostile_files(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'touched'}",)

    whole = released_file(tmp_path / "whole.pth.tar", {"conv1.weight": torch.ones(64, 3, 1, 7, 7)}).read_bytes()
    file = tmp_path / "cut.pth.tar"
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.pth\.tar: cannot be read as weights"):
            C2D.build(file)
    torch.save({"model_state_dict": {"conv1.weight": torch.ones(1)}, "rank1": Hostile()}, file)
    with pytest.raises(WeightsError, match=r"cut\.pth\.tar: .*\(refused: [\w.]*system in it could run code\)"):
        C2D.build(file)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content", [{"model_state_dict": [1]}, {"model_state_dict": {"conv1.weight": 3}}, {"epoch": 1}]
)
def test_a_checkpoint_without_tensors(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save(content, tmp_path / "odd.pth.tar")
    with pytest.raises(WeightsError, match=r"odd\.pth\.tar: expected names mapped to tensors, got"):
        C2D.build(tmp_path / "odd.pth.tar")


def test_what_was_never_released_is_not_exported() -> None:
    for backbone, image, message in (
        (build_backbone("r3d_18", weights="random"), False, "only c2d, i3d, ap3d, nl and ap3d_nl ResNet-50s"),
        (C2D.build(temporal_pool="gem"), False, "with the temporal pool mean were released"),
        (AP3D.build(), True, "ap3dres50 has no released image format"),
        (GEM.build(), False, "released video networks have the spatial pool max"),
        (AP3D.build(spatial_pool="avg"), True, "ap3dres50 has no released image format"),
    ):
        with pytest.raises(WeightsError, match=message):
            to_released(backbone, image=image)
