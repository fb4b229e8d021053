"""The drawing of a run folder names what a run really writes."""

from __future__ import annotations

import re
from pathlib import Path

from ccvid import run_files
from ccvid.training.context import LocalRun
from ccvid.training.run import train_and_score
from data_tools.shards import ShardFolder
from tests.method.training.test_training import tiny_recipe

DRAWN = re.findall(r"──\s(\S+(?:, \S+)*)\s{2,}", run_files.__doc__ or "")
NAMES = {name.partition("/")[0] for entry in DRAWN for name in entry.split(", ")}


def test_every_name_is_drawn() -> None:
    constants = {value for name, value in vars(run_files).items() if name.endswith(("_FILE", "_FOLDER"))}
    assert constants <= NAMES
    assert any(name.startswith(run_files.CHECKPOINT_PREFIX) for name in NAMES)


def test_a_run_writes_what_is_drawn(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_shards, epochs=1, ema_decay=0.9, held_out_share=0.5, test_weights="best")
    run = LocalRun(tmp_path / "run")
    train_and_score(recipe, run, ShardFolder(tiny_shards))
    found = {path.name for path in run.folder.iterdir()} - {run.scratch.name}
    found = {re.sub("^rankings_.*(?=\\.)", "rankings_PROTOCOL", name) for name in found}
    found |= {path.name for path in (run.folder / "checkpoint").iterdir()}
    drawn = NAMES | {".png", "rankings_PROTOCOL.png", "checkpoint"}
    assert found <= drawn
    assert {run_files.METRICS_FILE, run_files.WEIGHTS_FILE, run_files.UNAVERAGED_FILE, run_files.BEST_FOLDER} <= found
    assert not (run.folder / run_files.BEST_FOLDER / run_files.TRAINER_FILE).exists()
