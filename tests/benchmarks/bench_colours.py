"""What colours alone tell on the synthetic walkers: an HSV histogram of each tracklet, scored like a model.

    python -m tests.benchmarks.bench_colours [--shards ~/ccvid/data/synthetic] [--agreement]

A fair clothes-changing set: well on same-clothes, near chance on clothes-changing. With ``--agreement``: how well the
outfits that ``method.clothes_labels colours`` guesses for the training persons agree with the labelled ones, by
``method.colour_distance``.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import pair_confusion_matrix

from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.ranking.scoring import labelled_rows, score_embeddings
from ccvid.retrieval.report.tables import metrics_table
from data_tools.colour_outfits import FRAMES, cluster_colours, colour_histograms
from data_tools.shards import ShardFolder

BINS = (16, 4, 4)
DISTANCES = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


def histogram(store: ShardFolder, row: int) -> npt.NDArray[np.float32]:
    """Square roots of the shares of (hue, saturation, value) cells over all pixels of a tracklet: (256,) float32."""
    total = np.zeros(BINS)
    for frame in store.encoded_frames(row, range(store.rows[row].frame_count)):
        pixels = np.asarray(Image.open(io.BytesIO(frame.tobytes())).convert("HSV")).reshape(-1, 3)
        total += np.histogramdd(pixels, bins=BINS, range=[(0, 256)] * 3)[0]
    shares: npt.NDArray[np.float32] = np.sqrt(total / total.sum()).astype(np.float32).ravel()
    return shares


def agreement(store: ShardFolder) -> str:
    """Adjusted Rand index (mean over persons) and F1 of pairs of one person's tracklets in the same outfit."""
    rows_of_person: defaultdict[str, list[int]] = defaultdict(list)
    for row in labelled_rows(store, "train"):
        rows_of_person[str(store.rows[row].person)].append(row)
    started = time.perf_counter()
    colours = {person: colour_histograms(store, rows, threads=1) for person, rows in rows_of_person.items()}
    seconds = time.perf_counter() - started
    tracklets = sum(map(len, rows_of_person.values()))
    lines = [
        f"{len(rows_of_person)} training persons, {tracklets} tracklets of {FRAMES} frames, "
        f"{1000 * seconds / tracklets:.1f} ms each in one thread",
        "| distance | adjusted Rand index | pair F1 | outfits a person (true) |",
        "|---|---|---|---|",
    ]
    for distance in DISTANCES:
        indices, counts, pairs = [], [], np.zeros((2, 2), np.int64)
        for person, rows in rows_of_person.items():
            given = [str(store.rows[row].clothes) for row in rows]
            guessed = cluster_colours(colours[person], distance)
            indices.append(adjusted_rand_score(given, guessed))
            pairs += pair_confusion_matrix(given, guessed)
            counts.append((len(set(guessed)), len(set(given))))
        f1 = 2 * pairs[1, 1] / (2 * pairs[1, 1] + pairs[0, 1] + pairs[1, 0])
        found, true = np.mean(counts, axis=0)
        lines.append(f"| {distance} | {np.mean(indices):.3f} | {f1:.3f} | {found:.2f} ({true:.2f}) |")
    return "\n".join(lines)


def described(store: ShardFolder, rows: list[int]) -> EmbeddingTable:
    features = torch.from_numpy(np.stack([histogram(store, row) for row in rows]))
    return EmbeddingTable.of(store, rows, features, torch.ones(len(rows), dtype=torch.int64), "HSV histogram")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("~/ccvid/data/synthetic").expanduser())
    parser.add_argument("--agreement", action="store_true", help="of guessed outfits with the labelled ones")
    arguments = parser.parse_args()
    store = ShardFolder(arguments.shards)
    if arguments.agreement:
        print(agreement(store))
        return
    query, gallery = labelled_rows(store, "query"), labelled_rows(store, "gallery")
    queries, entries = (described(store, rows) for rows in (query, gallery))
    print(metrics_table(score_embeddings(queries, entries).evaluation, title="HSV histogram"))


if __name__ == "__main__":
    main()
