"""Recipes and flags, without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from ccvid.config import Recipe
from ray_jobs.cli import UsageError, parse_recipe, read_recipe, recipe_names, write_config
from tests.jobs.head import ROOT


def parse(*arguments: str) -> Recipe:
    return parse_recipe(arguments, program="train.py", description="")[0]


def fields(model: type[BaseModel], place: str = "") -> list[tuple[str, str | None]]:
    """Every leaf of the recipe as (flag, description)."""
    found = []
    for name, field in model.model_fields.items():
        is_sequence = get_origin(field.annotation) is tuple  # written as JSON, one flag for all
        parts = () if is_sequence else (field.annotation, *get_args(field.annotation))
        inner = [part for part in parts if _is_model(part)]
        found += fields(inner[0], f"{place}{name}.") if inner else [(f"{place}{name}", field.description)]
    return found


def _is_model(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def test_every_recipe_is_valid_and_comes_back_from_its_resolved_file(tmp_path: Path) -> None:
    sources = {"footage": ("--data.footage.videos", "/data"), "synthetic": ()}
    for name in recipe_names():
        kind = read_recipe(name)["data"]["kind"]
        flags = sources.get(kind, ("--data.root", "/data"))
        recipe = parse("--recipe", name, *flags)
        resolved = tmp_path / f"{name}.yaml"
        resolved.write_text(write_config(recipe))
        assert parse("--recipe", str(resolved)) == recipe


def test_flags_go_before_the_recipe_and_the_recipe_before_the_defaults() -> None:
    recipe = parse("--optim.learning_rate", "0.25", "--data.synthetic.train_people", "9")
    assert (recipe.optim.learning_rate, recipe.data.synthetic.train_people) == (0.25, 9)
    assert recipe.run.name == "synthetic"
    assert recipe.optim.clip_norm is None


def test_a_recipe_of_footage_serves_clips(tmp_path: Path) -> None:
    """Its defaults for footage have no effect until footage is named."""
    flags = ["--recipe", "footage", "--data.kind", "clips", "--data.clips.folder", str(tmp_path)]
    recipe = parse(*flags)
    assert recipe.data.clips is not None
    assert (recipe.data.clips.folder, recipe.data.footage) == (tmp_path, None)
    assert parse(*flags, "--data.footage.videos", "v").data.footage is not None
    with pytest.raises(UsageError, match=r"data\.footage\.videos: Field required"):
        parse("--recipe", "footage")


@pytest.mark.parametrize(("flag", "first"), [("0", 0), ("1", 1), ("auto", "auto")])
def test_first_frame_and_classes(flag: str, first: object) -> None:
    flags = ["--data.footage.videos", "v", "--data.footage.first_frame", flag, "--data.footage.classes", "0,person"]
    footage = parse(*flags).data.footage
    assert footage is not None
    assert (footage.first_frame, footage.classes) == (first, ("0", "person"))


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = parse("--run.storage", "here", "--data.shards", "~/there")
    assert (recipe.run.storage, recipe.data.shards) == (str(tmp_path / "here"), str(Path.home() / "there"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope", "3"], "unrecognized arguments: --nope 3"),
        (["--optim.learning_rate", "-1"], "optim.learning_rate: Input should be greater than 0, got '-1'"),
        (["--optim.learning_rate", "fast"], "optim.learning_rate: .* got 'fast'"),
        (["--model.backbone", "vgg"], "model.backbone: no backbone 'vgg'; there are c2d_resnet50, "),
        (["--data.kind", "ccvid"], "data.kind 'ccvid' needs its sources, --data.root"),
        (["--recipe", "nope"], "no recipe of that name; recipes: ccvid_baseline, ccvid_baseline_paper, ccvid_cal"),
        (["--recipe", "footage"], "data.footage.videos: Field required"),
        (["--train.held_out_share", "0"], "test_weights 'best' needs train.held_out_share above 0"),
        (["--run.name", "../up"], r"run.name: String should match"),
        (["--train.epochs"], "expected one argument"),
    ],
)
def test_wrong_flags_and_values_get_one_message(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(*arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim: {learning_rat: 1}", "optim.learning_rat: no such setting"),
        ("surprise: 1", "surprise: no such setting"),
        ("- a list", r"holds \['a list'\], expected a mapping"),
        ("a: [", "not readable as YAML"),
        ("!!python/object/apply:os.system [true]", "not readable as YAML"),
        ("data: 3", "data: Input should be a valid dictionary"),
        ("\x00", "not readable as YAML"),
        ("data: {root: [[[[[[[[1]]]]]]]]}", r"data\.root: Input is not a valid path .*, got \[\[\["),
        ("train: {seed: !!float nan}", r"train\.seed: Input should be a finite number, got nan"),
        ('run: {storage: "a\\0b"}', r"run\.storage: 'a\\x00b' is no path: it holds a NUL"),
        ("".join(f"wrong{n}: 1\n" for n in range(50)), r"wrong0: no such setting\n(.*\n)*and 30 more$"),
    ],
)
def test_wrong_recipe_files_get_one_message(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        parse("--recipe", str(path))
    assert str(caught.value).startswith(f"--recipe {path}: "), "what no flag has set is the file's"


def test_what_a_flag_has_set_is_not_the_files(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("train: {epochs: 3}")
    with pytest.raises(UsageError, match=r"^train\.seed: Input should be"):
        parse("--recipe", str(tmp_path / "recipe.yaml"), "--train.seed", "-1")


def test_help_explains_every_field() -> None:
    missing = [flag for flag, description in fields(Recipe) if not description]
    assert missing == []
    command = [sys.executable, str(ROOT / "ray_jobs" / "train.py"), "--help"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [flag for flag, _ in fields(Recipe) if f"--{flag} " not in shown] == []
    assert "a recipe, or a YAML file of one" in shown


def test_a_usage_error_exits_with_2_and_without_a_traceback() -> None:
    command = [sys.executable, str(ROOT / "ray_jobs" / "train.py"), "--optim.learning_rate", "0"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: optim.learning_rate: Input should be greater than 0")
    assert "Traceback" not in failed.stderr


def test_recipe_files_name_only_what_differs() -> None:
    for path in (ROOT / "ray_jobs" / "recipes").glob("*.yaml"):
        assert Recipe.model_fields.keys() >= yaml.safe_load(path.read_text()).keys()
