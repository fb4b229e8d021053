"""What ``--help`` of each job shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection
from importlib import import_module
from typing import Any, NoReturn, get_args

import pytest

from ccvid.config import Recipe
from ccvid.setting_kinds import DatasetKind
from ray_jobs.cli import EVERY_SECTION, read_recipe, recipe_names
from ray_jobs.recipe_flags import RecipeField, nearest, recipe_fields
from tests.jobs.head import ROOT
from tests.jobs.recipe_reads import read_names, read_settings
from tests.jobs.test_cli import fields

JOBS = ("train", "tune", "score", "identify", "serve", "evaluate", "export", "shard")
MOST_LINES = 128


def help_of(job: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        import_module(f"ray_jobs.{job}").main([*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def reads_of(job: str, monkeypatch: pytest.MonkeyPatch) -> Collection[str]:
    """What the job says that it reads."""

    class Asked(Exception):  # noqa: N818
        pass

    def stop(*_: Any, reads: Collection[str] = EVERY_SECTION, **__: Any) -> NoReturn:
        raise Asked(reads)

    module = import_module(f"ray_jobs.{job}")
    monkeypatch.setattr(module, "parse_recipe", stop)
    with pytest.raises(Asked) as asked:
        module.main([])
    found: Collection[str] = asked.value.args[0]
    return found


def flags_in(text: str) -> list[str]:
    """The fields that have an entry of their own."""
    return re.findall(r"^  --(\w+(?:\.\w+)+) ", text, re.MULTILINE)


def entry(text: str, flag: str) -> str:
    """The entry of a flag in one line."""
    found = re.search(rf"^  (--{re.escape(flag)} .*(?:\n {{4,}}.*)*)", text, re.MULTILINE)
    assert found, flag
    return " ".join(found[1].split())


def is_within(place: str, sections: Collection[str]) -> bool:
    return any(f"{place}.".startswith(f"{section}.") for section in sections)


@pytest.mark.parametrize("columns", [100, 120])
@pytest.mark.parametrize("job", JOBS)
def test_help_is_short_and_for_readers(
    job: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for recipe in recipe_names():
        shown = help_of(job, "--recipe", recipe, capsys=capsys)
        lines = shown.splitlines()
        assert len(lines) <= MOST_LINES, recipe
        assert max(map(len, lines)) <= columns
        assert re.search(r"undefined|ifdef|default factory|\(default|typing|NoneType|None\b|==", shown) is None
        assert "--help all" in shown


@pytest.mark.parametrize("job", JOBS)
def test_a_job_shows_what_it_reads(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {flag for recipe in recipe_names() for flag in flags_in(help_of(job, "--recipe", recipe, capsys=capsys))}
    reads = reads_of(job, monkeypatch)
    assert [flag for flag in shown if not is_within(flag, reads)] == []
    assert [flag for flag in shown if flag.rpartition(".")[2] not in read_names(job)] == []
    assert [
        place
        for place in read_settings(job)  # a section that is passed on is named by its fields, too
        if not is_within(place, reads) and not any(is_within(name, {place}) for name in reads)
    ] == []


def test_the_source_tells_what_a_job_reads() -> None:
    """That the test above has something to compare with."""
    assert read_settings("shard") == {"data"}
    assert {"optim", "train.epochs", "method.start_epoch", "batch.clips"} <= read_settings("train")
    assert {"clip", "train.bf16", "score.report"} <= read_settings("score")
    assert not any(is_within(place, {"optim", "method", "batch", "augment"}) for place in read_settings("evaluate"))
    assert "learning_rate" in read_names("train")
    assert "learning_rate" not in read_names("evaluate")
    assert "train_people" in read_names("shard")


@pytest.mark.parametrize("job", ["train", "score"])
@pytest.mark.parametrize("recipe", ["synthetic", "ccvid_cal", "footage_cal", "prcc_paper"])
def test_defaults_are_those_of_the_recipe(job: str, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(job, *([] if recipe == "synthetic" else ["--recipe", recipe]), capsys=capsys)
    values = read_recipe(recipe)
    found = Recipe.model_validate({**values, "data": {**values["data"], "shards": "/shards"}} | {"data": {}})
    for place, expected in (
        ("run.name", recipe),
        ("model.backbone", found.model.backbone),
        ("model.height", str(found.model.height)),
        ("clip.length", str(found.clip.length)),
        ("train.bf16", str(found.train.bf16).lower()),
        ("data.kind", values["data"]["kind"]),
        ("data.frames.height", str(values["data"]["frames"].get("height", 256))),
        ("run.storage", "~/ccvid/runs"),
    ):
        assert entry(shown, place).endswith(f" Default: {expected}"), place
    if job == "train":
        assert entry(shown, "optim.learning_rate").endswith(f"Default: {found.optim.learning_rate}")
        assert entry(shown, "train.epochs").endswith(f"Default: {found.train.epochs}")
        milestones = ",".join(map(str, found.optim.milestones))
        assert entry(shown, "optim.milestones").endswith(f"Default: {milestones}")


def test_a_default_is_what_the_job_makes_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {job: help_of(job, capsys=capsys) for job in ("train", "tune", "evaluate")}
    assert entry(shown["train"], "compute.workers").endswith("Default: one per GPU, or without GPUs one per node")
    assert entry(shown["tune"], "compute.workers").endswith("Default: 1")
    assert entry(shown["tune"], "run.name").endswith("Default: synthetic-search")
    assert entry(shown["evaluate"], "run.name").endswith("or synthetic-scores with --checkpoint")


def test_data_of_other_kinds_is_left_to_help_all(capsys: pytest.CaptureFixture[str]) -> None:
    def sections(*arguments: str) -> set[str]:
        shown = help_of("shard", *arguments, capsys=capsys)
        return {flag.split(".")[1] for flag in flags_in(shown)} & set(get_args(DatasetKind))

    assert sections() == {"synthetic"}
    assert sections("--recipe", "footage") == {"footage"}
    assert sections("--recipe", "ccvid_paper") == {"ccvid"}


@pytest.mark.parametrize("job", JOBS)
def test_help_all_names_every_field_and_every_choice(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_module(f"ray_jobs.{job}").main(["--help", "all"])
    shown = capsys.readouterr().out
    assert sorted(flags_in(shown)) == sorted(flag for flag, _ in fields(Recipe))
    words = set(re.findall(r"[\w.]+\w|\w", shown))
    for field in recipe_fields().values():
        choices = [choice for kind in field.schema.get("anyOf", [field.schema]) for choice in kind.get("enum", ())]
        assert {str(choice) for choice in choices} <= words, field.name
    assert re.search(r"undefined|ifdef|default factory|None\b", shown) is None


def test_every_field_is_explained_in_sentences() -> None:
    for field in recipe_fields().values():
        text = " ".join((field.info.description or "").split())
        assert text.endswith("."), field.name
        assert text[0] == text[0].upper(), field.name
        assert re.search(r"\b(he|his|nothing)\b|Nothing:|so many|as it is\b", text) is None, field.name
        assert field.explain(field.default, in_full=False).count(". ") <= 2, field.name


def test_an_optional_field_says_what_happens_without_it() -> None:
    def says(field: RecipeField) -> bool:
        return " Default: " in " ".join((field.info.description or "").split())

    unset = [field for field in recipe_fields().values() if field.default is None and not field.info.is_required()]
    assert [field.name for field in unset if not says(field)] == ["data.root"]
    assert [field.name for field in recipe_fields().values() if says(field) and field not in unset] == []


def test_help_comes_before_torch_and_ray_train() -> None:
    """They take seconds to import."""
    program = (
        "import sys; from ray_jobs.train import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('imported', *(name for name in ('torch', 'ray') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("--data.shard", "; did you mean --data.shards?"),
        ("--modle.height", "; did you mean --model.height?"),
        ("--optim.epochs", "; did you mean --train.epochs?"),
        ("--clips_per_batch", "; did you mean --score.clips_per_batch?"),
        ("--zzz", ""),
    ],
)
def test_the_nearest_name(name: str, told: str) -> None:
    assert nearest(name, [f"--{field}" for field in recipe_fields()]) == told
