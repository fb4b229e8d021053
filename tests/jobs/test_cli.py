"""Recipes and flags, without Ray."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from ccvid.config import ProtocolOptions, Recipe
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
    with pytest.raises(UsageError, match=r"data\.footage\.videos: not set; add it there, or name --data\.footage\.vid"):
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
        (["--nope", "3"], "^--nope: no such flag$"),
        (["--data.shard", "3"], r"^--data\.shard: no such flag; did you mean --data\.shards\?$"),
        (["--recip=x"], r"^--recip: no such flag; did you mean --recipe\?$"),
        (["--optim.epochs", "3", "--nope"], r"^--optim\.epochs: .* --train\.epochs\?\n--nope: no such flag$"),
        (
            ["--data.storage.storage", "raw"],
            r"\.storage\.storage: no such flag; it is --data\.frames\.format now$",
        ),
        (["--data.storage.height=9"], r"^--data\.storage\.height: no such flag; it is --data\.frames\.height now$"),
        (["stray"], "unrecognized arguments: stray"),
        (["--optim.learning_rate", "-1"], "^--optim.learning_rate: expected a number above 0, got '-1'$"),
        (["--optim.learning_rate", "fast"], "^--optim.learning_rate: expected a number above 0, got 'fast'$"),
        (["--model.height", "5000"], "^--model.height: expected a whole number from 16 to 2048, got '5000'$"),
        (["--run.name", ""], "^--run.name: expected text .*, got ''$"),
        (["--model.height", "1.5"], "^--model.height: expected a whole number from 16 to 2048, got '1.5'$"),
        (["--data.synthetic.picture_width", "65"], "a whole number from 64 to 4096, a multiple of 2, got '65'"),
        (["--augment.flip", "2"], "^--augment.flip: expected a number from 0 to 1, got '2'$"),
        (["--method.epsilon", "nan"], "^--method.epsilon: expected a number from 0 to 1, got 'nan'$"),
        (["--optim.name", "lion"], "^--optim.name: expected adam, adamw or sgd, got 'lion'$"),
        (["--data.kind", "ccvd"], "^--data.kind: expected synthetic, ccvid, .* or clips, got 'ccvd'$"),
        (["--model.last_stride", "3"], "^--model.last_stride: expected 1 or 2, got '3'$"),
        (["--train.compile", "maybe"], "^--train.compile: expected true or false, got 'maybe'$"),
        (["--train.bf16", "maybe"], "^--train.bf16: expected auto, true or false, got 'maybe'$"),
        (["--optim.milestones", "40,late"], "^--optim.milestones: expected a list of whole numbers, got 'late'$"),
        (["--optim.milestones", "[40"], r"^--optim.milestones \[40: not readable as YAML"),
        (
            ["--compute.workers", "8,2"],
            r"^--compute.workers: expected .* 8, or a range such as \[2, 8\], got \['8', '2'\]$",
        ),
        (["--run.mlflow", "ftp://x"], "^--run.mlflow: expected the http:// or https:// address of a server, or a path"),
        (["--run.mlflow", "~nobody-here/x"], "^--run.mlflow: '~nobody-here/x'"),
        (["--run.storage", "nope://x"], "^--run.storage: 'nope://x': neither pyarrow nor fsspec knows the scheme"),
        (["--score.protocols", "{name: a, agre: [clothes]}"], r"score.protocols.0.agre: no such setting"),
        (["--model.backbone", "vgg"], "^--model.backbone: no backbone 'vgg', expected one of c2d_resnet50, "),
        (["--data.kind", "ccvid"], r"^data.kind 'ccvid' needs its sources \(--data.root\) or finished shards"),
        (["--recipe", "nope"], "no recipe of that name; recipes: ccvid_baseline, ccvid_baseline_paper, ccvid_cal"),
        (
            ["--recipe", "ccvid_call"],
            r"no recipe of that name; recipes: .*, vc_clothes_paper; did you mean ccvid_cal\?$",
        ),
        (["--recipe", str(ROOT)], "cannot be read: is a folder, expected a file"),
        (["--recipe"], "--recipe: expected one argument"),
        (["--recipe", "footage"], "^--recipe footage: data.footage.videos: not set; add it there, or name --data"),
        (["--help", "me"], r"--help: invalid choice: 'me' \(choose from '?all'?\)"),
        (["--train.held_out_share", "0"], "test_weights 'best' needs train.held_out_share above 0"),
        (["--run.name", "../up"], r"^--run.name: expected text of at most 100 characters that matches .*, got '../up'"),
        (["--train.epochs"], "--train.epochs: expected one argument"),
    ],
)
def test_wrong_flags_and_values_get_one_message(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(*arguments)


def test_a_recipe_of_an_older_version_is_read_and_takes_flags(tmp_path: Path) -> None:
    older = tmp_path / "older.yaml"
    older.write_text("data: {storage: {storage: raw, height: 48, width: 24}}")
    assert parse("--recipe", str(older)).data.frames.format == "raw"
    frames = parse("--recipe", str(older), "--data.frames.height", "96").data.frames
    assert (frames.format, frames.height, frames.width) == ("raw", 96, 24)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim: {learning_rat: 1}", r":1: optim.learning_rat: no such setting; did you mean optim.learning_rate\?$"),
        ("train:\n  seed: 1\n  epoch: 1", r":3: train.epoch: no such setting; did you mean train.epochs\?$"),
        ("# notes\n\ntrian:\n  seed: 1", r":3: trian: no such setting; did you mean train\?$"),
        ("epochs: 1", r":1: epochs: no such setting; did you mean train.epochs\?$"),
        ("surprise: 1", ":1: surprise: no such setting$"),
        ("train:\n  seed: 1\n  epochs: 0\n", ":3: train.epochs: expected a whole number of at least 1, got 0$"),
        ("optim:\n  milestones:\n  - 3\n  - x", ":2: optim.milestones: expected a list of whole numbers, got 'x'$"),
        ("data: {deepchange: {part: x}}", ":1: data.deepchange.part: expected test or val, got 'x'$"),
        ("data: {frames: {height: 9}, storage: {}}", r"data\.storage is data\.frames now, and both are set: keep one$"),
        ("data: {storage: {storage: tape}}", r"data\.frames\.format: expected jpeg, source or raw, got 'tape'$"),
        ("- a list", r"holds \['a list'\], expected a mapping"),
        ("a: [", "not readable as YAML"),
        ("!!python/object/apply:os.system [true]", "not readable as YAML"),
        ("data: 3", ":1: data: expected a mapping of settings, got 3$"),
        ("\x00", "not readable as YAML"),
        ("data: {root: [[[[[[[[1]]]]]]]]}", r":1: data\.root: expected a path, got \[\[\["),
        ("train: {seed: !!float nan}", r":1: train\.seed: expected a whole number of at least 0 and below .*, got nan"),
        ('run: {storage: "a\\0b"}', r"run\.storage: 'a\\x00b' is not a path: it contains a NUL"),
        ("".join(f"wrong{n}: 1\n" for n in range(50)), r"wrong0: no such setting\n(.*\n)*and 30 more$"),
    ],
)
def test_wrong_recipe_files_get_one_message(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        parse("--recipe", str(path))
    origin = rf"--recipe {re.escape(str(path))}:(\d+:)? "
    assert re.match(origin, str(caught.value)), "what no flag has set is the file's"


def test_a_file_of_mistakes_is_refused_in_time(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(f"{'wrong' * 200}{n}: {{}}\n" for n in range(200)))
    start = time.monotonic()
    with pytest.raises(UsageError, match="and 180 more") as caught:
        parse("--recipe", str(path))
    assert time.monotonic() - start < 20
    assert max(map(len, str(caught.value).splitlines())) < 500


def test_what_a_flag_has_set_is_not_the_files(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("train: {epochs: 3}")
    with pytest.raises(UsageError, match=r"^--train\.seed: expected a whole number"):
        parse("--recipe", str(tmp_path / "recipe.yaml"), "--train.seed", "-1")


@pytest.mark.parametrize(
    ("flags", "place", "value"),
    [
        (["--optim.milestones", "40,80"], "optim.milestones", (40, 80)),
        (["--optim.milestones", "[40, 80]"], "optim.milestones", (40, 80)),
        (["--optim.milestones", "40", "--optim.milestones", "80"], "optim.milestones", (40, 80)),
        (["--compute.workers", "8"], "compute.workers", 8),
        (["--compute.workers", "[2, 8]"], "compute.workers", (2, 8)),
        (["--compute.workers", "2,8"], "compute.workers", (2, 8)),
        (["--compute.workers", "4", "--compute.workers=8"], "compute.workers", 8),
        (["--train.epochs", "4", "--train.epochs", "8"], "train.epochs", 8),
        (["--model.last_stride", "1"], "model.last_stride", 1),
        (["--optim.clothes_learning_rate", "none"], "optim.clothes_learning_rate", None),
        (["--method.pair_loss", "none"], "method.pair_loss", "none"),
        (["--train.bf16", "false"], "train.bf16", False),
        (["--run.name", "123"], "run.name", "123"),
        (["--data.footage.videos", "/v", "--data.footage.classes", '["a,b"]'], "data.footage.classes", ("a,b",)),
        (
            ["--score.protocols", '{"name": "a"}', "--score.protocols", "[{name: b, differ: [clothes]}]"],
            "score.protocols",
            (ProtocolOptions(name="a"), ProtocolOptions(name="b", differ=("clothes",))),
        ),
    ],
)
def test_how_values_are_written(flags: list[str], place: str, value: object) -> None:
    """The last of several counts; a list has the entries of all."""
    found: Any = parse(*flags)
    for name in place.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        (
            "evaluate",
            ["--checkpoint", "nope://x"],
            "argument --checkpoint: 'nope://x': neither pyarrow nor fsspec knows",
        ),
        ("evaluate", ["--distances", "~nobody-here/x.npz"], "argument --distances: '~nobody-here/x.npz'"),
        ("evaluate", ["--chekpoint", "x"], r"^--chekpoint: no such flag; did you mean --checkpoint\?$"),
        ("score", ["--checkpoint", "a\0b"], "argument --checkpoint: .* contains a NUL"),
        ("score", ["--gallery", "nope://x"], "argument --gallery: 'nope://x': neither pyarrow nor fsspec knows"),
        ("score", ["--queries", "nope://x"], "argument --queries: 'nope://x': neither pyarrow nor fsspec knows"),
        ("score", ["--decisions", "nope://x"], "argument --decisions: 'nope://x': neither pyarrow nor fsspec knows"),
        ("score", ["--top", "0"], "argument --top: expected a whole number from 1 to 1000000, got '0'"),
        ("score", ["--groups", "2"], "argument --groups: expected a number above 0 and below 1, got '2'"),
        ("score", [], "^--checkpoint is required: a run folder, a checkpoint folder, "),
        ("export", ["--to", "x", "--checkpoint", "nope://x"], "argument --checkpoint: 'nope://x': neither pyarrow"),
        ("export", ["--checkpoint", "x", "--to", "nope://x"], "argument --to: 'nope://x': neither pyarrow"),
        ("export", ["--checkpoint", "x"], "the following arguments are required: --to"),
        ("tune", ["--trials", "many"], "argument --trials: expected a whole number from 1 to 100000, got 'many'"),
        ("tune", ["--reduction", "1"], "argument --reduction: expected a number above 1 and of at most 1000, got '1'"),
        ("tune", ["--searcher", "bohb"], r"argument --searcher: invalid choice: 'bohb' \(choose from '?optuna'?, "),
        ("tune", ["--trials"], "argument --trials: expected one argument"),
    ],
)
def test_wrong_flags_of_the_jobs_own(job: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_module(f"ray_jobs.{job}").main(arguments)


def test_a_usage_error_exits_with_2_and_without_a_traceback() -> None:
    command = [sys.executable, str(ROOT / "ray_jobs" / "train.py"), "--optim.learning_rate", "0"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: --optim.learning_rate: expected a number above 0, got '0'\nSee --help, or ")
    assert "Traceback" not in failed.stderr


def test_recipe_files_name_only_what_differs() -> None:
    for path in (ROOT / "ray_jobs" / "recipes").glob("*.yaml"):
        assert Recipe.model_fields.keys() >= yaml.safe_load(path.read_text()).keys()
