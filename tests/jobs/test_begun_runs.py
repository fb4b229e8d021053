"""Which settings may change when a run resumes, and what is said where another one did. No Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ccvid.config import Recipe
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.begun_runs import MAY_CHANGE, as_begun
from ray_jobs.tuning.records import SearchRecords


def recipe(**sections: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(sections)


@pytest.fixture
def folder(tmp_path: Path) -> StorageFolder:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(Recipe().model_dump(mode="json")))
    return StorageFolder(str(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"run": {"patience_seconds": 7}},
        {"compute": {"workers": 3, "max_failures": 0}},
        {"loader": {"threads": 2}},
        {"data": {"verify_checksums": False, "cache": {"folder": "/elsewhere"}}},
        {"train": {"log_every_seconds": 1, "checkpoint_every_epochs": 5, "checkpoints_kept": 9}},
        {"train": {"checkpoint_every_steps": 5, "checkpoint_share": 1}},
    ],
)
def test_a_run_resumes_with_what_changes_no_result(folder: StorageFolder, changes: dict[str, Any]) -> None:
    changed = recipe(**changes)
    assert as_begun(folder, changed) == changed


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train": {"epochs": 7}}, "train.epochs: 150 there, 7 now"),
        ({"data": {"ccvid": {"camera_rule": "walk"}}}, r"data\.ccvid\.camera_rule: 'released' there, 'walk' now"),
        ({"optim": {"milestones": [3]}}, r"optim.milestones: \[40, 80, 120\] there, \[3\] now"),
    ],
)
def test_what_changes_a_result_is_refused(folder: StorageFolder, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=rf"other settings; choose another --run\.name.*\n  {line}"):
        as_begun(folder, recipe(**changes))


def test_the_marked_fields_are_those_that_no_search_draws() -> None:
    """And no name is half of another: train.checkpoint_share as well as train.checkpoint_every_epochs."""
    assert {"run", "compute", "loader", "train.checkpoint_share", "data.cache"} <= MAY_CHANGE
    assert not {"train", "data", "train.epochs", "train.seed", "train.bf16"} & MAY_CHANGE
    written = json.loads(Recipe().model_dump_json())
    for name in MAY_CHANGE:
        value = written
        for part in name.split("."):
            value = value[part]


def test_a_run_of_an_older_version_resumes(tmp_path: Path) -> None:
    """Its settings had other names, and some were not there yet."""
    older = Recipe().model_dump(mode="json")
    frames = older["data"].pop("frames")
    older["data"]["storage"] = {"storage": frames.pop("format"), **frames}
    del older["train"]["checkpoint_share"], older["score"]["post_processing"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    folder = StorageFolder(str(tmp_path))
    assert as_begun(folder, Recipe()) == Recipe()
    with pytest.raises(InputError, match=r"\n  data\.frames\.format: 'jpeg' there, 'raw' now$"):
        as_begun(folder, recipe(data={"frames": {"format": "raw"}}))


def test_a_search_of_an_older_version_resumes(tmp_path: Path) -> None:
    older = {"recipe": {"data.storage.storage": "jpeg", "data.storage.height": 256, "train.checkpoint_share": 0.02}}
    (tmp_path / "search.json").write_text(json.dumps({"settings": older, "trials": []}))
    folder = StorageFolder(str(tmp_path))
    SearchRecords(folder, {"recipe": {"data.frames.format": "jpeg", "data.frames.height": 256}})
    with pytest.raises(InputError, match=r"recipe\.data\.frames\.height: 256 there, 128 now$"):
        SearchRecords(folder, {"recipe": {"data.frames.format": "jpeg", "data.frames.height": 128}})
