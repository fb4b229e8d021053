"""Variants of the method against plain CAL on the synthetic walkers, over seeds, in one process without Ray.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_methods [--seeds 5] [--only cal cal_outfits] [--folder FOLDER]

The recipe is `synthetic` with more test people and the last epoch's weights, for steadier figures, and with other
walkers than those that the recipe was chosen on. Finished runs in FOLDER are kept, so that a killed comparison goes on;
several processes may work on one FOLDER, each training what no other has begun.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from ccvid.config import Recipe
from ccvid.run_files import CHECKPOINT_PREFIX, METRICS_FILE, WEIGHTS_FILE
from ccvid.training.context import LocalRun
from ccvid.training.run import score_test_set
from ccvid.training.trainer import Trainer
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.manifest import MANIFEST_NAME
from data_tools.shards import ShardFolder
from data_tools.walkers import render_walkers
from tests.made_shards import make_shards

Values = dict[str, dict[str, Any]]
Found = Mapping[str, Mapping[int, dict[str, Any]]]
"""metrics.json by variant and seed."""

RECIPES = Path(__file__).parents[2] / "ray_jobs" / "recipes"
RECIPE = RECIPES / "synthetic.yaml"


def method_of(recipe: str) -> Values:
    """What a recipe says of its method and its training, without data and place."""
    values = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    chosen: Values = {
        name: values[name] for name in ("clip", "batch", "augment", "model", "method", "optim") if name in values
    }
    kept = ("epochs", "first_stage", "validate_every")
    return {**chosen, "train": {name: values["train"][name] for name in kept if name in values["train"]}}


CSCI, CSCI_STAGE1 = method_of("synthetic_csci"), method_of("synthetic_csci_stage1")
BARE: Values = {"csci": {**CSCI["method"]["csci"], "other_clothes": {"swapped_share": 0, "hidden_share": 0}}}
"""CSCI's own settings, without other clothes."""
STAGES = {"synthetic_csci_stage1": "csci_stage1"}
"""The variant that trains a first stage."""
REFERENCE = "cal"
CAL_EPOCHS = 134
"""Of CAL, to cost as many multiplications as both stages of CSCI."""
AVERAGED = "cal_ema"
"""Trained like plain CAL, so that its weights before averaging are also scored as plain CAL's."""
VARIANTS: dict[str, Values] = {
    "baseline": {"method": {"clothes_loss": False}},
    AVERAGED: {"train": {"ema_decay": 0.99}},
    REFERENCE: {},
    "cal_published_epsilon": {"method": {"epsilon": 0.1}},
    "cal_outfits": {"batch": {"spread_outfits": True}},
    "cal_attention": {"model": {"temporal_pool": "attention"}},
    "cal_colours": {"method": {"clothes_labels": "colours"}},
    "cal_long": {"train": {"epochs": 30}, "method": {"start_epoch": 10}},
    "cal_same_cost": {
        "train": {"epochs": CAL_EPOCHS, "validate_every": 50},
        "method": {"start_epoch": CAL_EPOCHS // 3},
    },
    "csci_stage1": CSCI_STAGE1,
    "csci": CSCI,
    "csci_bare": {**CSCI, "method": {**CSCI["method"], **BARE}, "train": {"epochs": 40}},
    "cal_eva": {"optim": CSCI["optim"], "model": {**CSCI["model"], "backbone": "csci_plain/eva_slim"}},
}
"""The changes of each variant to the recipe, section by section."""
PROTOCOLS = ("clothes_changing", "same_clothes", "general")


def base_values(arguments: argparse.Namespace) -> Values:
    """The recipe that every variant starts from."""
    values: Values = yaml.safe_load(RECIPE.read_text())
    people = {**values["data"]["synthetic"], "seed": arguments.walkers, "test_people": arguments.test_people}
    if arguments.train_people:
        people["train_people"] = arguments.train_people
    train = {"log_every_seconds": 30, "test_weights": "last"}
    if arguments.epochs:
        share = arguments.epochs / values["train"]["epochs"]
        train["epochs"] = arguments.epochs
        values["method"]["start_epoch"] = round(share * values["method"]["start_epoch"])
    return merged(values, {"data": {"synthetic": people}, "train": train})


def merged(values: Values, changes: Values) -> Values:
    return {name: {**values.get(name, {}), **changes.get(name, {})} for name in {**values, **changes}}


@contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process alone holds ``path``; the claim ends with the block or with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def shards_of(recipe: Recipe, folder: Path) -> ShardFolder:
    shards, videos = folder / "shards", folder / "videos"
    with claim(folder / "shards.lock", wait=True):
        if not (shards / MANIFEST_NAME).exists():
            render_walkers(recipe.data.synthetic, videos, workers=os.cpu_count() or 1)
            options = FootageOptions(videos=videos / "videos", tracks=videos / "tracks", labels=videos / "labels.csv")
            dataset = read_footage(options)
            make_shards(dataset, shards, recipe.data.frames)
    return ShardFolder(shards)


def run_folder(folder: Path, variant: str, seed: int) -> Path:
    return folder / f"{variant}-{seed}"


def run_variant(values: Values, variant: str, seed: int, folder: Path, store: ShardFolder) -> None:
    """Train and score one variant with one seed, unless it is done or another process is doing it."""
    run = run_folder(folder, variant, seed)
    changed = merged(merged(values, VARIANTS[variant]), {"train": {"seed": seed}})
    settings = json.dumps(changed, sort_keys=True, indent=1)
    with claim(folder / f"{run.name}.lock", wait=False) as mine:
        if not mine:
            print(f"{run.name}: another process trains it", flush=True)
            return
        file = run / "settings.json"
        if file.exists() and file.read_text() != settings:
            raise SystemExit(f"{run}: a run with other settings; name another --folder")
        if (run / METRICS_FILE).exists():
            return
        run.mkdir(exist_ok=True)
        file.write_text(settings)
        if stage := changed["train"].pop("first_stage", None):
            run_variant(values, STAGES[stage], seed, folder, store)
            first = run_folder(folder, STAGES[stage], seed)
            if not (first / METRICS_FILE).exists():
                print(f"{run.name}: another process still trains its first stage", flush=True)
                return
            changed = merged(changed, {"model": {"weights": str(first / CHECKPOINT_PREFIX / WEIGHTS_FILE)}})
        started = time.perf_counter()
        trainer = Trainer(Recipe.model_validate(changed), store, LocalRun(run))
        trainer.fit()
        score_test_set(trainer)
        print(f"{run.name}: {time.perf_counter() - started:.0f} s on {torch.get_num_threads()} threads", flush=True)
    if variant == AVERAGED:
        score_plain_weights(trainer, run_folder(folder, REFERENCE, seed))


def score_plain_weights(trainer: Trainer, run: Path) -> None:
    """Score the weights before averaging as the run of plain CAL, unless there is one."""
    with claim(run.with_name(f"{run.name}.lock"), wait=False) as mine:
        if mine and not (run / METRICS_FILE).exists():
            trainer.scored_model, trainer.run = trainer.model, LocalRun(run)
            score_test_set(trainer)


def finished(folder: Path, variants: Sequence[str], seeds: Sequence[int]) -> Found:
    """The results so far, from all processes."""
    return {
        variant: {
            seed: json.loads(file.read_text())
            for seed in seeds
            if (file := run_folder(folder, variant, seed) / METRICS_FILE).exists()
        }
        for variant in variants
    }


def figures(metrics: Mapping[str, Any]) -> list[float]:
    """Top-1 and mAP of each protocol, per cent."""
    scores = [metrics["protocols"][protocol] for protocol in PROTOCOLS]
    return [100 * figure for score in scores for figure in (score["cmc"]["1"], score["map"])]


def spread(values: Sequence[float], sign: str = "") -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{deviation}"


def table(found: Found) -> str:
    """Mean ± sample standard deviation over seeds, then the same for each seed's difference to plain CAL."""
    heading = " | ".join(f"{protocol.replace('_', '-')} {name}" for protocol in PROTOCOLS for name in ("top-1", "mAP"))
    head = [f"| variant | seeds | {heading} |", "|---|---|" + "---|" * 2 * len(PROTOCOLS)]
    lines, differences = list(head), list(head)
    reference = {seed: figures(run) for seed, run in found.get(REFERENCE, {}).items()}
    for variant, runs in found.items():
        if not runs:
            continue
        own = {seed: figures(run) for seed, run in runs.items()}
        lines.append(f"| {variant} | {len(own)} | {' | '.join(map(spread, zip(*own.values(), strict=True)))} |")
        paired = [seed for seed in own if seed in reference]
        if variant != REFERENCE and paired:
            gains = zip(*([a - b for a, b in zip(own[s], reference[s], strict=True)] for s in paired), strict=True)
            cells = [f"{spread(gain, '+')}, ahead {sum(g > 0 for g in gain)}" for gain in gains]
            differences.append(f"| {variant} − {REFERENCE} | {len(paired)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(differences if len(differences) > len(head) else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 to this")
    parser.add_argument("--seed-list", type=int, nargs="+", help="these seeds instead")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--test-people", type=int, default=160)
    parser.add_argument("--train-people", type=int, help="default: the recipe's")
    parser.add_argument("--epochs", type=int, help="shorter, with the clothes loss beginning as much earlier")
    parser.add_argument("--walkers", type=int, default=2, help="seed of the walkers")
    parser.add_argument("--folder", type=Path, help="kept; nothing: a temporary one")
    arguments = parser.parse_args()
    seeds = arguments.seed_list or list(range(1, arguments.seeds + 1))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    values = base_values(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        store = shards_of(Recipe.model_validate(values), folder)
        for seed in seeds:
            for variant in arguments.only:
                run_variant(values, variant, seed, folder, store)
            found = finished(folder, list(VARIANTS), seeds)
            print(f"\nafter seed {seed}; {arguments.test_people} test people, percent\n{table(found)}\n", flush=True)


if __name__ == "__main__":
    main()
