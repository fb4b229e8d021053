"""Trained models on disk: folders describe themselves; released checkpoints are imported and exported bit by bit."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ccvid.config import ModelOptions
from ccvid.model import CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.released import main
from ccvid.trained_model import (
    backbone_fingerprint,
    configured_backbone,
    read_description,
    read_trained_model,
    write_description,
)
from ccvid.training.checkpoint import save_weights
from ccvid.training.context import LocalRun
from ccvid.training.trainer import Trainer
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from tests.method.training.test_training import tiny_recipe
from video_backbones.released import to_released

SLIM = ModelOptions(backbone="c2d_resnet18_slim", weights="random", height=32, width=16)
CLIP = ClipOptions(length=2)
SMALL_CLIP = torch.randn(2, 2, 3, 32, 16, generator=torch.Generator().manual_seed(0))


def checkpoint(
    folder: Path, options: ModelOptions = SLIM, *, seed: int = 0, progress: tuple[int, int] | None = None
) -> str:
    """A checkpoint folder with random weights, 7 persons and 9 clothes classes; returns the backbone's fingerprint."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    backbone = configured_backbone(options, CLIP)
    save_weights(ReIdModel(backbone, IdentityClassifier(backbone.feature_size, 7)), folder / "model.safetensors")
    save_weights(CosineClassifier(backbone.feature_size, 9), folder / "clothes.safetensors")
    write_description(folder, options, CLIP, persons=7, clothes=9)
    if progress is not None:
        (folder / "progress.json").write_text(json.dumps({"epoch": progress[0], "step": progress[1]}))
    return backbone_fingerprint(backbone)


def released_file(file: Path, state: dict[str, Tensor], **parts: object) -> Path:
    size = len(state["bn.weight"]) if "bn.weight" in state else 2048
    content: dict[str, Any] = {
        "model_state_dict": state,
        "classifier_state_dict": {"classifier.weight": torch.rand(5, size), "classifier.bias": torch.rand(5)},
        "clothes_classifier_state_dict": {"weight": torch.rand(8, size)},
        "rank1": np.float64(0.5),
        "epoch": 149,
    }
    torch.save({**content, **parts}, file)
    return file


def random_released(*, image: bool = False, **options: Any) -> dict[str, Tensor]:
    backbone = configured_backbone(ModelOptions(weights="random", **options), None)
    return to_released(backbone, image=image)


@pytest.fixture(scope="module")
def c2d_state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return random_released(backbone="c2d_resnet50")


def test_a_checkpoint_folder_tells_its_own_network(tmp_path: Path) -> None:
    options = SLIM.model_copy(update={"spatial_pool": "gem", "temporal_pool": "attention", "last_stride": 2})
    fingerprint = checkpoint(tmp_path / "made", options)
    trained = read_trained_model(tmp_path / "made", ModelOptions())
    assert (trained.options, trained.clip, trained.fingerprint) == (options, CLIP, fingerprint)
    assert not trained.backbone.training
    description = read_description(tmp_path / "made")
    assert (description.persons, description.clothes) == (7, 9)


def test_a_run_folder_gives_the_weights_that_it_scores_with(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_shards, epochs=2, held_out_share=0.34, validate_every=1, test_weights="best")
    trainer = Trainer(recipe, ShardFolder(tiny_shards), LocalRun(tmp_path))
    trainer.fit()
    last = backbone_fingerprint(trainer.scored_model.backbone)
    newest = read_trained_model(tmp_path, ModelOptions())
    assert (newest.fingerprint, newest.options, newest.clip) == (last, recipe.model, recipe.clip)
    trainer.scored_model.eval()
    with torch.inference_mode():
        assert torch.equal(newest.backbone(SMALL_CLIP), trainer.scored_model.embed(SMALL_CLIP))

    (tmp_path / "config.yaml").write_text("train: {test_weights: best}\n")
    trainer.load_best()
    assert read_trained_model(tmp_path, ModelOptions()).fingerprint == backbone_fingerprint(
        trainer.scored_model.backbone
    )


def test_the_newest_whole_checkpoint_of_a_run(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint_000003", seed=1, progress=(9, 4))
    newest = checkpoint(tmp_path / "checkpoint_000001", seed=2, progress=(10, 0))
    checkpoint(tmp_path / "checkpoint_000009", seed=3)
    torch_file = tmp_path / "checkpoint_000010" / "model.safetensors"
    torch_file.parent.mkdir()
    torch_file.touch()
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{}")  # Ray Train's own
    assert read_trained_model(tmp_path, SLIM).fingerprint == newest
    (tmp_path / "config.yaml").write_text("train: [")
    with pytest.raises(InputError, match=r"config\.yaml: not readable"):
        read_trained_model(tmp_path, SLIM)


def test_what_is_no_trained_model(tmp_path: Path) -> None:
    checkpoint(tmp_path / "made")
    model, weights = tmp_path / "made" / "model.json", tmp_path / "made" / "model.safetensors"
    whole = model.read_text()
    for text, message in (
        ("{", r"model\.json: top level: Invalid JSON"),
        ("[]", r"model\.json: top level: .*got \[\]$"),
        (whole.replace("c2d_resnet18_slim", "c2d_resnet19"), r"model\.json: model\.backbone: .*got 'c2d_resnet19'"),
        (whole.replace('"format_version": 1', '"format_version": 2'), r"model\.json: format_version: .*got 2"),
        (whole.replace("c2d_resnet18_slim", "c2d_resnet18"), r"model\.safetensors: does not fit C2DResNet: .*shape"),
    ):
        model.write_text(text)
        with pytest.raises(InputError, match=message):
            read_trained_model(tmp_path / "made", SLIM)
    model.unlink()
    with pytest.raises(InputError, match=r"model\.json: no such file; a checkpoint folder needs it"):
        read_trained_model(tmp_path / "made", SLIM)
    model.write_text(whole)
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read as weights"):
        read_trained_model(tmp_path / "made", SLIM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: neither a checkpoint .* nor a run folder"):
        read_trained_model(tmp_path / "empty", SLIM)
    with pytest.raises(InputError, match=r"absent: cannot be read as weights .*No such file"):
        read_trained_model(tmp_path / "absent", SLIM)


def test_a_released_file_needs_the_right_options(c2d_state: dict[str, Tensor], tmp_path: Path) -> None:
    file = released_file(tmp_path / "best.pth.tar", c2d_state)
    trained = read_trained_model(file, ModelOptions(backbone="c2d_resnet50"))
    assert trained.clip is None
    assert torch.equal(trained.backbone.state_dict()["conv1.weight"], c2d_state["conv1.weight"].squeeze(2))
    with pytest.raises(InputError, match=r"best\.pth\.tar: contains weights of c2dres50, expected nl_resnet50"):
        read_trained_model(file, ModelOptions(backbone="nl_resnet50"))
    image_classifier = {name: value for name, value in c2d_state.items() if not name.startswith("bn.")}
    released_file(file, image_classifier)
    with pytest.raises(InputError, match=r"missing bn\.weight"):
        read_trained_model(file, ModelOptions(backbone="c2d_resnet50"))


@pytest.mark.parametrize(
    ("backbone", "pool", "image", "flags"),
    [
        ("c2d_resnet50", "max", False, []),
        ("ap3d_nl_resnet50", "max", False, []),
        ("i3d_resnet50", "max", False, []),
        ("c2d_resnet50", "max_avg", True, []),
        ("c2d_resnet50", "gem", True, []),
        ("c2d_resnet50", "max", True, ["--image"]),
    ],
)
def test_import_then_export_is_the_same_file(
    tmp_path: Path, backbone: str, pool: str, image: bool, flags: list[str]
) -> None:
    state = random_released(backbone=backbone, spatial_pool=pool, image=image)
    file, folder, back = (tmp_path / name for name in ("in.pth.tar", "ours", "out.pth.tar"))
    released_file(file, state)
    given = ["--backbone", backbone, "--spatial-pool", pool, "--height", "64", "--width", "32"]
    assert main(["import", str(file), str(folder), *given]) == 0
    assert main(["export", str(folder), str(back), *flags]) == 0
    before = torch.load(file, weights_only=False)
    after = torch.load(back, weights_only=True)
    assert set(after) == {"model_state_dict", "classifier_state_dict", "clothes_classifier_state_dict"}
    for part, tensors in after.items():
        assert list(tensors) == list(before[part])
        assert all(torch.equal(tensors[name], before[part][name]) for name in tensors)
    description = read_description(folder)
    assert (description.persons, description.clothes) == (5, 8)
    assert (description.model.height, description.model.width, description.clip) == (64, 32, None)
    ours = read_trained_model(folder, ModelOptions())
    theirs = read_trained_model(back, ours.options)
    frames = torch.randn(1, 1 if image else 3, 3, 64, 32)
    with torch.inference_mode():
        assert torch.equal(ours.backbone(frames), theirs.backbone(frames))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth.tar", "ours", "out.pth.tar"]


def test_export_of_a_run_then_import_gives_the_same_weights(tmp_path: Path) -> None:
    options = ModelOptions(backbone="ap3d_resnet50", weights="random", height=32, width=16)
    fingerprint = checkpoint(tmp_path / "trained", options)
    assert main(["export", str(tmp_path / "trained"), str(tmp_path / "x.pth.tar")]) == 0
    flags = ["--backbone", "ap3d_resnet50", "--height", "32", "--width", "16"]
    assert main(["import", str(tmp_path / "x.pth.tar"), str(tmp_path / "again"), *flags]) == 0
    assert read_trained_model(tmp_path / "again", ModelOptions()).fingerprint == fingerprint
    for name in ("model.safetensors", "clothes.safetensors"):
        first, again = load_file(tmp_path / "trained" / name), load_file(tmp_path / "again" / name)
        assert set(first) == set(again)
        assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_checkpoint_without_classifiers_comes_in_and_goes_out(c2d_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model_state_dict": c2d_state}, tmp_path / "bare.pth.tar")
    assert main(["import", str(tmp_path / "bare.pth.tar"), str(tmp_path / "ours"), "--backbone", "c2d_resnet50"]) == 0
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["model.json", "model.safetensors"]
    assert read_description(tmp_path / "ours").persons == 0
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "out.pth.tar")]) == 0
    assert list(torch.load(tmp_path / "out.pth.tar", weights_only=True)) == ["model_state_dict"]


def test_refused_imports_leave_nothing_behind(
    c2d_state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.pth.tar"
    for parts, message in (
        ({"classifier_state_dict": {"classifier.weight": torch.ones(5, 7)}}, "has shape (5, 7), expected (5, 2048)"),
        (
            {"classifier_state_dict": {"classifier.weight": torch.ones(5, 2048), "classifier.bias": torch.ones(4)}},
            "classifier.bias has shape (4,), expected (5,)",
        ),
        ({"clothes_classifier_state_dict": {"weight": 3}}, "expected names mapped to tensors, got 'weight': int"),
        ({"model_state_dict": {"conv1.weight": torch.ones(1)}}, "does not fit C2DResNet: missing"),
        ({"model_state_dict": 3}, "expected names mapped to tensors, got int"),
    ):
        released_file(file, c2d_state, **parts)
        assert main(["import", str(file), str(tmp_path / "ours"), "--backbone", "c2d_resnet50"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {file}")
        assert message in error
    released_file(file, c2d_state)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["import", str(file), str(tmp_path / "full"), "--backbone", "c2d_resnet50"]) == 1
    assert "full: already exists" in capsys.readouterr().err
    assert main(["import", str(file), str(tmp_path / "ours"), "--backbone", "i3d_resnet50"]) == 1
    assert "contains weights of c2dres50, expected i3d_resnet50" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_code:
        main(["import", str(file), str(tmp_path / "ours"), "--backbone", "c2d_resnet50", "--height", "3"])
    assert exit_code.value.code == 2
    assert "--height: Input should be greater than or equal to 16, got 3" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "in.pth.tar"]


def test_refused_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "slim")
    for folder, message in (("slim", "were released"), ("absent", "model.json: no such file")):
        assert main(["export", str(tmp_path / folder), str(tmp_path / "out.pth.tar")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out.pth.tar").exists()


def break_down(path: Path, name: str, bad: float = math.nan) -> None:
    """Put a non-finite value into a tensor of a file."""
    state = load_file(path)
    state[name].view(-1)[-1] = bad
    save_file(state, path)


@pytest.mark.parametrize("name", ["backbone.layer3.0.bn1.running_var", "identity_classifier.classifier.weight"])
def test_a_checkpoint_that_broke_down_is_refused_by_name(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "checkpoint_000001", progress=(1, 0))
    weights = tmp_path / "checkpoint_000001" / "model.safetensors"
    break_down(weights, name)
    for place in (tmp_path, tmp_path / "checkpoint_000001"):
        with pytest.raises(InputError, match=f"^{re.escape(f'{weights}: {name} is nan at')} .*expected finite numbers"):
            read_trained_model(place, SLIM)


@pytest.mark.parametrize(
    ("part", "name", "expected"),
    [
        ("model_state_dict", "layer1.0.conv1.weight", "layer1.0.conv1.weight is inf at"),
        ("classifier_state_dict", "classifier.bias", "classifier_state_dict: classifier.bias is inf at [4]"),
        ("clothes_classifier_state_dict", "weight", "clothes_classifier_state_dict: weight is inf at [7, 2047]"),
    ],
)
def test_a_released_checkpoint_that_broke_down_is_refused_by_name(
    c2d_state: dict[str, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    name: str,
    expected: str,
) -> None:
    file = released_file(tmp_path / "in.pth.tar", c2d_state)
    content = torch.load(file, weights_only=False)
    content[part] = {key: value.clone() for key, value in content[part].items()}
    content[part][name].view(-1)[-1] = math.inf
    torch.save(content, file)
    assert main(["import", str(file), str(tmp_path / "ours"), "--backbone", "c2d_resnet50"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}")
    assert expected in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth.tar"]


def test_an_export_of_what_broke_down_is_refused_by_name(
    c2d_state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = released_file(tmp_path / "in.pth.tar", c2d_state)
    assert main(["import", str(file), str(tmp_path / "ours"), "--backbone", "c2d_resnet50"]) == 0
    break_down(tmp_path / "ours" / "clothes.safetensors", "weight")
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "out.pth.tar")]) == 1
    assert "clothes.safetensors: weight is nan at [7, 2047]" in capsys.readouterr().err
    assert not (tmp_path / "out.pth.tar").exists()


def test_the_command_line_says_what_it_takes() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ccvid.released", "import", "a.pth.tar", "b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "--backbone" in run.stderr
    assert "Traceback" not in run.stderr
