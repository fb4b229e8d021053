"""Who is who: persons and their outfits among unseen walkers, tracks cut into pieces and joined again, and large days.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_identities [--seeds 1 2] [--folder FOLDER]
    python -m tests.benchmarks.bench_identities --only tracks --videos FOLDER [--folder FOLDER]
    python -m tests.benchmarks.bench_identities --only size --day 100000 --known 2000000

**Walkers**: the bare recipe's model (last epoch; mirrored clips are embedded, too), and its walkers with three times as
many test people: each 40 of them are a gallery, for which the next 40 are the labelled tracklets. Four cameras, four
outfits, two tracklets each. First without any time of day; then with an outfit a day, also in four batches, a day each,
and in random batches.

**Tracks**: real footage with true tracks beside it, each cut into pieces of 25 frames, with the model and the labelled
walkers of the first seed; nothing says which pieces were one track. IDF1 (Ristani et al., 2016) and AssA (Luiten et
al., 2020) of given boxes, of which none is missed or too many: a matrix of counts, matched by the Hungarian method.
trackeval computes the same, but is not a dependency.

**Size**: identify.py on a gallery of made embeddings on this machine's disk, in which those of earlier days have their
persons, eight tracklets each, and the last day's, four each, do not; four fifths of the day's people are known. Needs
Linux.

FOLDER keeps the trained models; see bench_methods.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from ccvid.config import Recipe
from ccvid.identities.corrections import Corrections
from ccvid.identities.evidence import Evidence, learn_evidence
from ccvid.identities.grouping import Pairs
from ccvid.identities.identify import identify
from ccvid.identities.persons import Grouped, Persons, renewed
from ccvid.identities.sightings import Exclusions, Sightings
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable, read_embeddings
from ccvid.retrieval.gallery.clusters import Presence, find_clusters, score_clusters
from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.gallery.vectors import MatrixVectors
from ccvid.retrieval.ranking.distances import Indices
from ccvid.run_files import EMBEDDINGS_FILE
from ccvid.trained_model import find_checkpoint, read_trained_model
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from tests.benchmarks.bench_methods import REFERENCE, base_values, merged, run_folder, run_variant, shards_of
from tests.benchmarks.identity_size import Size, measure_size
from tests.made_shards import make_shards

PEOPLE = 40
NEIGHBOURS = 20
PIECE = 25
SCORING = {"score": {"flip": True, "report": False}}
"""Embeddings are of clips and their mirror images, which costs twice the time."""
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("walkers", "tracks", "size"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of training")
    parser.add_argument("--walkers", type=int, default=1, help="seed of the walkers")
    parser.add_argument("--sets", type=int, default=3, help="times 40 test people")
    parser.add_argument("--epochs", type=int, help="of training; default: the recipe's")
    parser.add_argument("--train-people", type=int, help="default: the recipe's")
    parser.add_argument("--videos", type=Path, help="footage with true tracks beside it")
    parser.add_argument("--day", type=int, default=5_000, help="tracklets of the last day")
    parser.add_argument("--known", type=int, default=100_000, help="tracklets of earlier days")
    parser.add_argument("--folder", type=Path, help="kept; nothing: a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.only in (None, "walkers"):
            measure_walkers(options, folder)
        if options.only in (None, "tracks") and options.videos:
            measure_tracks(options, folder)
        if options.only in (None, "size"):
            measure_size(Size(options.day, options.known))


# --- walkers ---


def measure_walkers(options: argparse.Namespace, folder: Path) -> None:
    found: dict[str, list[Figures]] = {}
    for seed in options.seeds:
        table = read_embeddings(trained(options, folder, seed) / EMBEDDINGS_FILE)
        for tested, labelled in sets_of(table, options.sets):
            evidence = learn_evidence(labelled)
            for name, figures in ways(tested, evidence):
                found.setdefault(name, []).append(figures)
        print(f"\nafter seed {seed}: {PEOPLE} people, {options.sets} sets a seed; mean ± deviation over sets\n")
        print(shown(found), flush=True)


def trained(options: argparse.Namespace, folder: Path, seed: int) -> Path:
    """The run folder of a seed, trained if it is not there."""
    asked = argparse.Namespace(
        walkers=options.walkers,
        test_people=PEOPLE * options.sets,
        train_people=options.train_people,
        epochs=options.epochs,
    )
    values = merged(base_values(asked), SCORING)
    store = shards_of(Recipe.model_validate(values), folder)
    run_variant(values, REFERENCE, seed, folder, store)
    return run_folder(folder, REFERENCE, seed)


def sets_of(table: EmbeddingTable, sets: int) -> Iterator[tuple[EmbeddingTable, EmbeddingTable]]:
    """Each 40 people by id, and those after them, who are labelled."""
    person = np.array(table.rows.text("person").to_pylist())
    parts = [
        table.take(np.flatnonzero(np.isin(person, some))) for some in np.split(np.unique(person)[: PEOPLE * sets], sets)
    ]
    parts = [part.take(np.argsort(part.rows.text("id").to_pylist())) for part in parts]
    yield from ((part, parts[(number + 1) % sets]) for number, part in enumerate(parts))


def ways(tested: EmbeddingTable, evidence: Evidence) -> Iterator[tuple[str, Figures]]:
    """Each way to find the persons, and how good it is."""
    rows = tested.rows
    groups = find_clusters(MatrixVectors(tested.embedding_ND), Presence.of(rows)).group_N
    alone = np.where(groups < 0, np.arange(len(groups)) + len(groups), groups)
    yield "today's groups (score.py --groups)", judged(rows, alone, alone)
    whole = np.arange(len(rows))
    yield "no times", judged(rows, *found_in_batches(tested, [whole], evidence))
    dated = with_days(tested)
    day_N = np.array(rows.text("clothes").to_pylist())
    once = found_in_batches(dated, [whole], evidence)
    yield "an outfit a day", judged(rows, *once)
    days = [np.flatnonzero(day_N == day) for day in np.unique(day_N)]
    by_day = found_in_batches(dated, days, evidence)
    yield "… a day at a time", {**judged(rows, *by_day), "as at once F": agreement(by_day[0], once[0])}
    mixed = [np.sort(part) for part in np.array_split(np.random.default_rng(0).permutation(whole), 4)]
    in_parts = found_in_batches(dated, mixed, evidence)
    yield "… in four random parts", {**judged(rows, *in_parts), "as at once F": agreement(in_parts[0], once[0])}


def with_days(table: EmbeddingTable) -> EmbeddingTable:
    """The same with a time of day for each tracklet: every outfit is worn on one day."""
    rows = []
    for row in table.rows:
        day = 1 + int("".join(filter(str.isdecimal, row.clothes or "0")))
        at = f"2026-11-{day:02}T10:00:00.000+00:00"
        rows.append(replace(row, attributes={**row.attributes, "start_time": at, "end_time": at}))
    return EmbeddingTable(EmbeddingRows.of(rows), table.embedding_ND, table.model)


def found_in_batches(table: EmbeddingTable, batches: Sequence[Indices], evidence: Evidence) -> tuple[Indices, Indices]:
    """Person and outfit of each tracklet, after taking them in batch by batch, as identify.py does."""
    persons, seen = Persons(), np.empty(0, np.int64)
    for batch in batches:
        seen = np.sort(np.concatenate((seen, batch)))
        part = table.take(seen)
        ids = part.rows.text("id").to_pylist()
        known = dict(zip(persons.ids, persons.person_N.tolist(), strict=True))
        new = np.flatnonzero([id not in known for id in ids])
        grouped = persons_of(part, new, evidence, known)
        persons, _ = renewed(persons, grouped, {})
    return persons.person_N, persons.outfit_N


def persons_of(table: EmbeddingTable, new: Indices, evidence: Evidence, known: Mapping[str, int]) -> Grouped:
    count = len(table.rows)
    nearest_QK = search(table.embedding_ND[new], table.embedding_ND, min(NEIGHBOURS + 1, count)).gallery_QK
    first_QK = np.broadcast_to(new[:, None], nearest_QK.shape)
    kept_QK = nearest_QK >= 0
    pairs = Pairs(
        evidence,
        evidence.vectors(table.embedding_ND),
        Exclusions.of(Sightings.of(table.rows), {}),
        evidence.prior(count),
    )
    ids = table.rows.text("id").to_pylist()
    candidates = first_QK[kept_QK], nearest_QK[kept_QK]
    return identify(ids, pairs, candidates, Corrections(), known=known)[0]


def judged(rows: EmbeddingRows, person_N: Indices, outfit_N: Indices) -> Figures:
    """B-cubed of persons and of persons with outfit, per cent; IDF1 of each camera above that of the tracks."""
    person, clothes, camera = (rows.text(name).to_pylist() for name in ("person", "clothes", "camera"))
    whole = score_clusters(person_N, person)
    _, unit_N = np.unique(np.stack([person_N, outfit_N]), axis=1, return_inverse=True)
    units = score_clusters(
        unit_N.reshape(-1).astype(np.int64), [f"{one}/{other}" for one, other in zip(person, clothes, strict=True)]
    )
    truth_N = np.unique(person, return_inverse=True)[1]
    gains = []
    for name in sorted(set(camera)):
        seen = np.flatnonzero([other == name for other in camera])
        gains.append(idf1(truth_N[seen], person_N[seen]) - idf1(truth_N[seen], seen))
    return {
        "persons P": 100 * whole.precision,
        "R": 100 * whole.recall,
        "F": 100 * f_score(whole.precision, whole.recall),
        "with outfit P": 100 * units.precision,
        "outfit R": 100 * units.recall,
        "outfit F": 100 * f_score(units.precision, units.recall),
        "IDF1 over cameras": 100 * idf1(truth_N, person_N),
        "least gain of a camera": 100 * min(gains),
    }


def agreement(one_N: Indices, other_N: Indices) -> float:
    """B-cubed F of two ways to group the same tracklets, per cent."""
    scores = score_clusters(one_N, [str(number) for number in other_N.tolist()])
    return 100 * f_score(scores.precision, scores.recall)


def f_score(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


def shown(found: Mapping[str, Sequence[Figures]]) -> str:
    names = list(dict.fromkeys(name for every in found.values() for figures in every for name in figures))
    lines = [f"| | sets | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for way, every in found.items():
        cells = []
        for name in names:
            values = [figures[name] for figures in every if name in figures]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        lines.append(f"| {way} | {len(every)} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- tracks ---


def idf1(true_N: Indices, found_N: Indices, weight_N: Indices | None = None) -> float:
    """IDF1 of boxes that both have, each with its true and its found identity; weights are numbers of boxes."""
    counts = _counts(true_N, found_N, weight_N)
    return float(counts[linear_sum_assignment(-counts)].sum() / counts.sum())


def association_accuracy(true_N: Indices, found_N: Indices, weight_N: Indices | None = None) -> float:
    """AssA of such boxes: the mean over boxes of |TPA| / (|TPA| + |FPA| + |FNA|)."""
    counts = _counts(true_N, found_N, weight_N)
    union = counts.sum(axis=0)[None] + counts.sum(axis=1)[:, None] - counts
    return float((counts * counts / np.maximum(union, 1)).sum() / counts.sum())


def _counts(true_N: Indices, found_N: Indices, weight_N: Indices | None) -> np.ndarray:
    (true_names, true_N), (found_names, found_N) = (np.unique(side, return_inverse=True) for side in (true_N, found_N))
    counts = np.zeros((len(true_names), len(found_names)))
    np.add.at(counts, (true_N, found_N), 1 if weight_N is None else weight_N)
    return counts


def measure_tracks(options: argparse.Namespace, folder: Path) -> None:
    run = trained(options, folder, options.seeds[0])
    evidence = learn_evidence(read_embeddings(run / EMBEDDINGS_FILE))
    footage = FootageOptions(videos=options.videos, maximum_length=PIECE, minimum_length=4)
    dataset = read_footage(footage)
    dataset.raise_on_errors()
    shards = folder / "pieces"
    asked = argparse.Namespace(walkers=1, test_people=PEOPLE, train_people=None, epochs=None)
    recipe = Recipe.model_validate(merged(base_values(asked), SCORING))
    if not shards.exists():
        make_shards(dataset, shards, recipe.data.frames)
    store = ShardFolder(shards)
    table = without_tracks(embedded(store, run, recipe, evidence.model))
    ids = table.rows.text("id").to_pylist()
    person_of = dict(zip(ids, persons_of(table, np.arange(len(ids)), evidence, {}).group_R.tolist(), strict=True))
    print(f"\npieces of {PIECE} frames; IDF1 and AssA of the pieces, and of the persons found, per cent\n")
    print("| video | tracks | pieces | persons | IDF1 | found | AssA | found |\n|" + "---|" * 8)
    for video in sorted({tracklet.attributes["video"] for tracklet in dataset.tracklets}):
        of = [tracklet for tracklet in dataset.tracklets if tracklet.attributes["video"] == video]
        true_N = np.array([int(tracklet.attributes["track"]) for tracklet in of])
        found_N = np.array([person_of[tracklet.id] for tracklet in of])
        weight_N = np.array([len(tracklet.frame_index) for tracklet in of])
        sides = (np.arange(len(of)), found_N)
        cells = [
            f"{100 * score(true_N, side, weight_N):.1f}" for score in (idf1, association_accuracy) for side in sides
        ]
        counts = f"{len(set(true_N.tolist()))} | {len(of)} | {len(set(found_N.tolist()))}"
        print(f"| {video} | {counts} | {' | '.join(cells)} |", flush=True)


def without_tracks(table: EmbeddingTable) -> EmbeddingTable:
    """As if each piece were a track of its own, so that nothing says which pieces belong together."""
    rows = [replace(row, attributes={**row.attributes, "track": str(number)}) for number, row in enumerate(table.rows)]
    return EmbeddingTable(EmbeddingRows.of(rows), table.embedding_ND, table.model)


def embedded(store: ShardFolder, run: Path, recipe: Recipe, model: str) -> EmbeddingTable:
    with find_checkpoint(StorageFolder(str(run))).fetched() as path:
        trained_model = read_trained_model(path, recipe.model)
    network = ReIdModel(trained_model.backbone, torch.nn.Identity()).eval()
    own = recipe.model_copy(update={"model": trained_model.options, "clip": trained_model.clip or recipe.clip})
    rows = list(range(len(store.rows)))
    found = embed_tracklets(network, store, rows, own)
    table = EmbeddingTable.of(store, rows, *found, model)
    return table.take(np.argsort(table.rows.text("id").to_pylist()))


if __name__ == "__main__":
    main()
