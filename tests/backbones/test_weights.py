"""Weights are loaded completely and only if they fit; otherwise the error gives the reason."""

from __future__ import annotations

import io
import math
import pickle
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet18

from video_backbones import WeightsError, weights
from video_backbones.backbone import VideoBackbone
from video_backbones.factory import build_backbone
from video_backbones.pickles import count_values

TINY: str = "c2d_resnet18_slim"
"""A backbone without published weights."""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    made = build_backbone(TINY, weights="random").state_dict()
    return {name: value.contiguous() for name, value in made.items()}


def save(state: dict[str, Tensor], file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return file


def equal(backbone: VideoBackbone, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_from_a_file(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    file = save(state, tmp_path / name)
    assert equal(build_backbone(TINY, weights=file), state)
    assert equal(build_backbone(TINY, weights=str(file)), state)


def test_an_image_classifier_lends_all_but_its_last_layer(tmp_path: Path) -> None:
    image = resnet18(weights=None).state_dict()
    old = {name: value for name, value in image.items() if "num_batches_tracked" not in name}
    backbone = build_backbone("c2d_resnet18", weights=save(old, tmp_path / "resnet18.pth"))
    own = backbone.state_dict()
    assert torch.equal(own["layer4.1.conv2.weight"], image["layer4.1.conv2.weight"])
    assert {name for name in own if name not in old and "num_batches" not in name} == {
        "bn.weight",
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
    }


def test_every_misfit_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    broken = dict(state)
    del broken["layer2.0.conv1.weight"]
    broken["layer5.weight"] = torch.zeros(3)
    broken["bn1.bias"] = torch.zeros(7)
    file = save(broken, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError) as caught:
        build_backbone(TINY, weights=file)
    assert str(caught.value) == (
        f"{file}: does not fit C2DResNet: missing layer2.0.conv1.weight; unexpected layer5.weight; "
        "bn1.bias has shape (7,), expected (32,)"
    )


def test_weights_of_another_backbone(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = save(state, tmp_path / "slim.safetensors")
    with pytest.raises(WeightsError, match=r"conv1.weight has shape .*and \d+ more$"):
        build_backbone("c2d_resnet18", weights=file)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_damaged_files(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    whole = save(state, tmp_path / name).read_bytes()
    for content in (b"", b"not weights", whole[:9], whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            build_backbone(TINY, weights=tmp_path / name)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"conv1.weight": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(WeightsError, match=r"hostile\.pth"):
        build_backbone(TINY, weights=tmp_path / "hostile.pth")
    assert not (tmp_path / "touched").exists()


def test_a_file_without_a_state_dict(tmp_path: Path) -> None:
    for content, found in (
        ({"epoch": 3}, "'epoch': int"),
        ([1.0], "list"),
        ({1: torch.ones(1)}, "1: Tensor"),
    ):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=f"expected names mapped to tensors, got {found}$"):
            build_backbone(TINY, weights=tmp_path / "other.pth")


def test_no_such_file_or_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth: cannot be read .*No such file"):
        build_backbone(TINY, weights=tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"imagnet: .*imagenet, kinetics and random are the names"):
        build_backbone(TINY, weights="imagnet")


def test_unpublished_weights() -> None:
    with pytest.raises(WeightsError, match="no imagenet weights are published for r3d_18; choose random, kinetics"):
        build_backbone("r3d_18", weights="imagenet")
    with pytest.raises(WeightsError, match="no kinetics weights are published for c2d_resnet50"):
        build_backbone("c2d_resnet50", weights="kinetics")


def test_published_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = socket.getdefaulttimeout()
    with pytest.raises(WeightsError, match=r"Name or service not known.*give the path of a weights file") as caught:
        build_backbone("c2d_resnet50", weights="imagenet")
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    assert socket.getdefaulttimeout() == before


def test_a_server_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", silent.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address])
        started = time.monotonic()
        with pytest.raises(WeightsError, match=r"cannot get https://.*timed out"):
            build_backbone("c2d_resnet18", weights="imagenet")
        assert time.monotonic() - started < 20
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_published_weights_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    image = resnet18(weights=None).state_dict()
    torch.save(image, cached)
    own = build_backbone("c2d_resnet18", weights="imagenet").state_dict()
    assert torch.equal(own["conv1.weight"], image["conv1.weight"])

    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"delete {cached}"):
        build_backbone("c2d_resnet18", weights="imagenet")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_that_are_not_finite_are_refused_by_name(
    state: dict[str, Tensor], tmp_path: Path, name: str, bad: float
) -> None:
    broken = {key: value.clone() for key, value in state.items()}
    broken["layer2.0.conv1.weight"][1, 2, 0, 1] = bad
    file = save(broken, tmp_path / name)
    with pytest.raises(WeightsError) as caught:
        build_backbone(TINY, weights=file)
    assert str(caught.value) == (
        f"{file}: layer2.0.conv1.weight is {bad} at [1, 2, 0, 1], expected finite numbers: training has diverged, "
        "or the file is damaged"
    )


def test_a_value_too_large_for_the_network_is_refused_by_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    wide = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    assert equal(build_backbone(TINY, weights=save(wide, tmp_path / "wide.pth")), state)
    wide["bn1.bias"][3] = 1e300
    with pytest.raises(WeightsError, match=r"bn1\.bias is inf at \[3\], expected finite numbers"):
        build_backbone(TINY, weights=save(wide, tmp_path / "wide.pth"))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda x: x.to(torch.complex64), r"conv1\.weight has dtype torch.complex64, expected torch.float32"),
        (lambda x: x.to(torch.int64), r"conv1\.weight has dtype torch.int64, expected torch.float32"),
        (lambda x: x.to_sparse(), r"conv1\.weight is not a plain dense tensor"),
        (lambda x: torch.empty(x.shape, device="meta"), r"conv1\.weight is not a plain dense tensor"),
        (lambda _: torch.zeros(1).expand(2**40), r"conv1\.weight is not a plain dense tensor"),
        (lambda _: torch.zeros(()), r"conv1\.weight has shape \(\), expected"),
    ],
)
def test_tensors_of_another_kind_are_refused(
    state: dict[str, Tensor], tmp_path: Path, made: Callable[[Tensor], Tensor], message: str
) -> None:
    file = save({**state, "conv1.weight": made(state["conv1.weight"])}, tmp_path / "strange.pth")
    with pytest.raises(WeightsError, match=message):
        build_backbone(TINY, weights=file)


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
        archive.writestr("archive/version", "3")
    with pytest.raises(WeightsError, match=r"bomb\.pth: .*the archive is compressed, expected one as written by"):
        build_backbone(TINY, weights=tmp_path / "bomb.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_stands_for_more_than_can_be_written_out_is_refused(tmp_path: Path, zipped: bool) -> None:
    """torch's reader would print it in full within a message."""
    laughs: list[Any] = ["lol"]
    for _ in range(30):
        laughs = [laughs] * 10
    endless: list[Any] = []
    endless.append(endless)
    for content in ({"x": laughs}, [endless], {"x": torch.ones(1), "y": (laughs,)}):
        torch.save(content, tmp_path / "laughs.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=r"laughs\.pth: .*its references expand to more than 10000000 values"):
            build_backbone(TINY, weights=tmp_path / "laughs.pth")


def test_values_of_pickles_are_counted() -> None:
    def count(value: object, protocol: int) -> float:
        return count_values(io.BytesIO(pickle.dumps(value, protocol)))

    shared = [1, 2, 3]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        once, often = (count({"a": [shared] * times}, protocol) for times in (1, 1000))
        assert often - once == 999 * 4
        assert count(range(10), protocol) < 30
    assert count_values(io.BytesIO(b"no pickle")) < 5
    assert count_values(io.BytesIO(b"")) == 0
