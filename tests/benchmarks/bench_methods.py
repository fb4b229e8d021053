"""Baseline against CAL on the synthetic walkers: mean ± standard deviation over seeds, in one process without Ray.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_methods [--seeds 5] [--test-people 160] [--folder FOLDER]

The recipe is `synthetic` with more test people and the last epoch's weights, for steadier figures, and with other
walkers than those that the recipe was chosen on. Finished runs in FOLDER are kept, so that a killed comparison goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.run import METRICS_FILE, train_and_score
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.manifest import MANIFEST_NAME
from data_tools.shard_plan import plan_shards
from data_tools.shard_writer import finish_shards, prepare_folder, write_shard
from data_tools.shards import ShardFolder
from data_tools.walkers import render_walkers

RECIPE = Path(__file__).parents[2] / "ray_jobs" / "recipes" / "synthetic.yaml"
METHODS: dict[str, dict[str, object]] = {
    "baseline": {"clothes_loss": False},
    "CAL": {},
    "CAL, epsilon 0.1": {"epsilon": 0.1},
}


def make_shards(recipe: Recipe, folder: Path) -> ShardFolder:
    shards, videos = folder / "shards", folder / "videos"
    if not (shards / MANIFEST_NAME).exists():
        render_walkers(recipe.data.synthetic, videos, workers=os.cpu_count() or 1)
        options = FootageOptions(videos=videos / "videos", tracks=videos / "tracks", labels=videos / "labels.csv")
        dataset = read_footage(options)
        plans = plan_shards(dataset.tracklets, recipe.data.storage)
        prepare_folder(plans, shards)
        records = [write_shard(plan, shards, recipe.data.storage) for plan in plans]
        finish_shards(dataset, plans, records, shards, recipe.data.storage)
    return ShardFolder(shards)


def run_method(values: dict[str, Any], method: str, seed: int, folder: Path, store: ShardFolder) -> dict[str, Any]:
    """metrics.json of one finished run."""
    run = folder / f"{method.replace(' ', '').replace(',', '-')}-{seed}"
    if not (run / METRICS_FILE).exists():
        changed = {
            **values,
            "method": {**values["method"], **METHODS[method]},
            "train": {**values["train"], "seed": seed, "log_every_seconds": 30, "test_weights": "last"},
        }
        train_and_score(Recipe.model_validate(changed), LocalRun(run), store)
    return dict(json.loads((run / METRICS_FILE).read_text()))


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f}"


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| method | seeds | clothes-changing top-1 | mAP | same-clothes top-1 | mAP | general top-1 | mAP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, runs in found.items():
        cells = []
        for protocol in ("clothes_changing", "same_clothes", "general"):
            scores = [run["protocols"][protocol] for run in runs]
            cells += [spread([score["cmc"]["1"] for score in scores]), spread([score["map"] for score in scores])]
        lines.append(f"| {method} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test-people", type=int, default=160)
    parser.add_argument("--walkers", type=int, default=2, help="seed of the walkers")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--folder", type=Path, help="kept; nothing: a temporary one")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    values = yaml.safe_load(RECIPE.read_text())
    walkers = {"seed": arguments.walkers, "test_people": arguments.test_people}
    values["data"]["synthetic"] = values["data"].get("synthetic", {}) | walkers
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        store = make_shards(Recipe.model_validate(values), folder)
        found: dict[str, list[dict[str, Any]]] = {method: [] for method in arguments.methods}
        for seed in range(1, arguments.seeds + 1):
            for method in arguments.methods:
                found[method].append(run_method(values, method, seed, folder, store))
            print(f"\nafter seed {seed}; {arguments.test_people} test people, percent\n{table(found)}\n", flush=True)


if __name__ == "__main__":
    main()
