"""Exports against the original: what each file accepts, and what is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ccvid import exporting
from ccvid.config import ModelOptions
from ccvid.exported_model import CARD_FILE, ONNX_FILE
from ccvid.exporting import PROGRAM_FILE, export_model
from ccvid.onnx_model import read_onnx_model
from ccvid.trained_model import TrainedModel, backbone_fingerprint, configured_backbone, read_trained_model
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.transforms import normalise
from video_backbones import temporal_resnet
from video_backbones.choices import CSCI_OWN_SIZES, CsciSize

CLIP = ClipOptions(length=4, stride=1, piece=0)


def trained(name: str, length: int = 4, height: int = 32, width: int = 16) -> TrainedModel:
    torch.manual_seed(0)
    options = ModelOptions(backbone=name, weights="random", height=height, width=width)
    clip = ClipOptions(length=length, stride=1, piece=0)
    backbone = configured_backbone(options, clip).eval()
    return TrainedModel(backbone, options, clip, backbone_fingerprint(backbone))


def clips(model: TrainedModel, count: int = 3) -> Tensor:
    assert model.clip is not None
    shape = (count, model.clip.length, 3, model.options.height, model.options.width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Path]:
    model, folder = trained("c2d_resnet18_slim"), tmp_path_factory.mktemp("exported")
    export_model(model, clips(model), folder)
    return model, folder


@pytest.mark.parametrize(("batch", "frames"), [(1, 4), (3, 4), (5, 1), (2, 9)])
def test_any_batch_and_length(exported: tuple[TrainedModel, Path], batch: int, frames: int) -> None:
    model, folder = exported
    given = clips(model, batch)[:, [0] * frames]
    given[:, 0] = 255 - given[:, 0]
    with torch.no_grad():
        expected = model.backbone(normalise(given))
        program = torch.export.load(folder / PROGRAM_FILE).module()(given)
        again = read_trained_model(folder, model.options).backbone(normalise(given))
    onnx = read_onnx_model(folder / ONNX_FILE)
    assert torch.equal(again, expected)
    torch.testing.assert_close(program, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(onnx.embed_frames(given), expected, rtol=1e-4, atol=1e-4)
    sent = pickle.loads(pickle.dumps(onnx))  # as Ray sends it to its workers
    assert torch.equal(sent.embed_frames(given), onnx.embed_frames(given))


def test_the_card_says_how_far_off_each_file_is(exported: tuple[TrainedModel, Path]) -> None:
    model, folder = exported
    card = json.loads((folder / CARD_FILE).read_text())
    assert (card["fingerprint"], card["feature_size"]) == (model.fingerprint, model.backbone.feature_size)
    assert (card["least_frames"], card["most_frames"]) == (1, None)
    assert set(card["checked"]) == {"model.safetensors", PROGRAM_FILE, ONNX_FILE} == set(card["sha256"])
    assert b"exporting.py" not in (folder / ONNX_FILE).read_bytes()  # no paths of the machine that made it
    for found in card["checked"].values():
        assert found["clips"] == 3 + 1 + 3
        assert 0 <= found["largest_difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "most", "size"),
    [
        ("ap3d_nl_resnet50", 3, None, (32, 16)),
        ("i3d_resnet50", 3, None, (32, 16)),
        ("r2plus1d_18", 8, 8, (32, 16)),
    ],
)
def test_networks_over_time(
    name: str, least: int, most: int | None, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fewest blocks with a layer of each kind and stride: the time grows with the number of layers."""
    monkeypatch.setattr(temporal_resnet, "_BLOCKS", (1, 3, 2, 1))
    model = trained(name, 8, *size)
    card = export_model(model, clips(model, 2), tmp_path)
    assert (card.least_frames, card.most_frames) == (least, most)
    onnx = read_onnx_model(tmp_path / ONNX_FILE)
    taken = f"{least} or more" if most is None else f"exactly {most}"
    with pytest.raises(InputError, match=rf"model\.onnx: takes clips of {taken} frames, got 2$"):
        onnx.embed_frames(clips(model)[:, :2])


def test_the_video_way_of_a_network_with_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of exactly as many frames as its parameters; the colour token is in the weights alone."""
    monkeypatch.setitem(CSCI_OWN_SIZES, "eva_slim", CsciSize(width=16, depth=1, heads=2, patch=8))
    model = trained("csci_video/eva_slim", 2)
    card = export_model(model, clips(model, 2), tmp_path)
    assert (card.least_frames, card.most_frames, card.feature_size) == (2, 2, 16)
    assert set(card.checked) == {"model.safetensors", PROGRAM_FILE, ONNX_FILE}


def test_runs_without_the_training(exported: tuple[TrainedModel, Path]) -> None:
    model, folder = exported
    np.save(folder / "clips.npy", clips(model).numpy())
    code = """
import sys
for name in ("ccvid.training", "ccvid.model", "ccvid.trained_model", "ray"):
    sys.modules[name] = None
import numpy as np, torch
from pathlib import Path
from ccvid.onnx_model import read_onnx_model
folder = Path(sys.argv[1])
clips = torch.from_numpy(np.load(folder / "clips.npy"))
print(read_onnx_model(folder / "model.onnx").embed_frames(clips)[:, 0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model.backbone(normalise(clips(model)))[:, 0]
    np.testing.assert_allclose(json.loads(done.stdout), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_what_deviates_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = trained("c2d_resnet18_slim")
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match=r"model\.onnx: features differ from the original's by \d"):
        export_model(model, clips(model), tmp_path)
    assert not (tmp_path / CARD_FILE).exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (ONNX_FILE, b"damaged", r"model\.onnx: its SHA-256 differs from the one in card\.json"),
        (CARD_FILE, b"{}", r"card\.json: fingerprint: Field required"),
        (
            CARD_FILE,
            None,
            r"model\.onnx: no model\.yaml beside it that says what the network takes; its input 'frames' is uint8 ",
        ),
        (ONNX_FILE, None, r"model\.onnx: cannot be read: No such file"),
    ],
)
def test_damaged_exports(
    exported: tuple[TrainedModel, Path], tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    for name in (CARD_FILE, ONNX_FILE):
        (tmp_path / name).write_bytes((exported[1] / name).read_bytes())
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_onnx_model(tmp_path / ONNX_FILE)
