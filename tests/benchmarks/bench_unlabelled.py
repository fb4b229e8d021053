"""Learning without labels against supervised CAL on the synthetic walkers, over seeds, in one process without Ray.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_unlabelled [--seeds 5] [--only unlabelled] [--folder FOLDER]

Both train on the same walkers with recipe `synthetic`'s network and size; `unlabelled` with `footage_unlabelled`'s
method, for 40 epochs, which reads no person or clothes label (`tests/method/training/test_cluster_contrast.py`
permutes them and finds the same weights to the bit); `supervised_long` trains as many epochs with labels. The last
weights are scored. One JSON line a run, then mean and sample standard deviation over the seeds of each figure, and of
the share of each supervised clothes-changing mAP of the same seed. Finished runs in FOLDER are kept; several processes
may work on one FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from ccvid.config import Recipe
from ccvid.retrieval.gallery.clusters import score_clusters
from ccvid.run_files import GROUPS_FILE, METRICS_FILE
from ccvid.training.context import LocalRun
from ccvid.training.run import score_test_set
from ccvid.training.split import split_for
from ccvid.training.trainer import Trainer
from data_tools.cpus import processor
from data_tools.shards import ShardFolder
from tests.benchmarks.bench_methods import RECIPES, Values, base_values, claim, merged, shards_of

SUPERVISED, UNLABELLED, SUPERVISED_LONG = "supervised", "unlabelled", "supervised_long"
EPOCHS = 40
RECIPE: Values = yaml.safe_load((RECIPES / "footage_unlabelled.yaml").read_text())
VARIANTS: dict[str, Values] = {
    SUPERVISED: {},
    UNLABELLED: {
        "method": {**RECIPE["method"], "pair_loss": "none"},
        "train": {"epochs": EPOCHS, "held_out_share": 0},
    },
    SUPERVISED_LONG: {"train": {"epochs": EPOCHS}, "method": {"start_epoch": EPOCHS // 3}},
}
"""The changes of each to the recipe `synthetic`, section by section."""
PROTOCOLS = ("clothes_changing", "same_clothes", "general")


def train(values: Values, variant: str, seed: int, folder: Path, store: ShardFolder) -> None:
    """Train and score one run, unless it is done or another process is doing it."""
    run = folder / f"{variant}-{seed}"
    with claim(folder / f"{run.name}.lock", wait=False) as mine:
        if not mine or (run / METRICS_FILE).exists():
            return
        recipe = Recipe.model_validate(merged(merged(values, VARIANTS[variant]), {"train": {"seed": seed}}))
        started = time.perf_counter()
        trainer = Trainer(recipe, store, LocalRun(run))
        trainer.fit()
        seconds = time.perf_counter() - started
        score_test_set(trainer)
        line = {"variant": variant, "seed": seed, **figures(run), "seconds": round(seconds), **groups_of(trainer)}
        (run / "line.json").write_text(json.dumps(line))
        print(json.dumps(line), flush=True)


def figures(run: Path) -> dict[str, float]:
    """mAP of each protocol and clothes-changing top-1, per cent."""
    protocols = json.loads((run / METRICS_FILE).read_text())["protocols"]
    found = {f"{name}_map": round(100 * protocols[name]["map"], 2) for name in PROTOCOLS}
    return found | {"clothes_changing_top1": round(100 * protocols["clothes_changing"]["cmc"]["1"], 2)}


def groups_of(trainer: Trainer) -> dict[str, Any]:
    """The classes in force at the end against the true persons, which training has not seen."""
    file = trainer.run.folder / "checkpoint" / GROUPS_FILE
    if not file.exists():
        return {}
    class_N = load_file(file)["class_N"].numpy()
    items = split_for(trainer.recipe, trainer.store).items
    _, first_N = np.unique(items.person_I, return_index=True)
    persons = trainer.store.rows.take(items.row_I[first_N]).values("person")
    group_N = np.where(np.bincount(class_N)[class_N] > 1, class_N, -1)
    scores = score_clusters(group_N, persons)
    return {
        "persons": scores.persons,
        "groups": scores.groups,
        "alone": int((group_N < 0).sum()),
        "b_cubed_precision": round(scores.precision, 3),
        "b_cubed_recall": round(scores.recall, 3),
    }


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of each variant, and of the share of the supervised figure."""
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        own = [line for line in lines if line["variant"] == variant]
        names = [name for name in (own[0] if own else {}) if name not in ("variant", "seed")]
        found[variant] = {"seeds": [line["seed"] for line in own]}
        found[variant] |= {name: spread([line[name] for line in own]) for name in names}
    by_seed = {(line["variant"], line["seed"]): line["clothes_changing_map"] for line in lines}
    seeds = [seed for variant, seed in by_seed if variant == UNLABELLED]
    for variant in (SUPERVISED, SUPERVISED_LONG):
        paired = [seed for seed in seeds if (variant, seed) in by_seed]
        shares = [100 * by_seed[UNLABELLED, seed] / by_seed[variant, seed] for seed in paired]
        found[f"share_of_{variant}_percent"] = spread(shares)
    return found


def spread(values: Sequence[float]) -> list[float]:
    """Mean and sample standard deviation."""
    return [round(statistics.mean(values), 2), round(statistics.stdev(values), 2)] if len(values) > 1 else list(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 to this")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--test-people", type=int, default=80)
    parser.add_argument("--train-people", type=int, help="default: the recipe's")
    parser.add_argument("--walkers", type=int, default=2, help="seed of the walkers")
    parser.add_argument("--folder", type=Path, help="kept; nothing: a temporary one")
    parser.set_defaults(epochs=None)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    values = base_values(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        store = shards_of(Recipe.model_validate(values), folder)
        print(json.dumps({"processor": processor(), "test_people": arguments.test_people}), flush=True)
        for seed in range(1, arguments.seeds + 1):
            for variant in arguments.only:
                train(values, variant, seed, folder, store)
        lines = [json.loads(file.read_text()) for file in sorted(folder.glob("*/line.json"))]
        print(json.dumps(summary(lines)), flush=True)


if __name__ == "__main__":
    main()
