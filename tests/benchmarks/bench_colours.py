"""What colours alone tell on the synthetic walkers: an HSV histogram of each tracklet, scored like a model.

    python -m tests.benchmarks.bench_colours [--shards ~/ccvid/data/synthetic]

A fair clothes-changing set: well on same-clothes, near chance on clothes-changing.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ccvid.retrieval.scoring import labelled_rows, score_embeddings
from ccvid.retrieval.tables import metrics_table
from data_tools.shards import ShardFolder

BINS = (16, 4, 4)


def histogram(store: ShardFolder, row: int) -> npt.NDArray[np.float32]:
    """Square roots of the shares of (hue, saturation, value) cells over all pixels of a tracklet: (256,) float32."""
    total = np.zeros(BINS)
    for frame in store.encoded_frames(row, range(store.rows[row].frame_count)):
        pixels = np.asarray(Image.open(io.BytesIO(frame.tobytes())).convert("HSV")).reshape(-1, 3)
        total += np.histogramdd(pixels, bins=BINS, range=[(0, 256)] * 3)[0]
    shares: npt.NDArray[np.float32] = np.sqrt(total / total.sum()).astype(np.float32).ravel()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("~/ccvid/data/synthetic").expanduser())
    store = ShardFolder(parser.parse_args().shards)
    query, gallery = labelled_rows(store, "query"), labelled_rows(store, "gallery")
    features = torch.from_numpy(np.stack([histogram(store, row) for row in [*query, *gallery]]))
    print(metrics_table(score_embeddings(store, features, query, gallery), title="HSV histogram"))


if __name__ == "__main__":
    main()
