"""What shards of resized, JPEG-coded frames change against shards that keep the released pictures.

    python -m tests.benchmarks.bench_prescaled [--videos FOLDER [--tracks FOLDER]] [--weights random|imagenet|FILE]

Person crops are cut from the videos in their own size and coded as a data set would release them (JPEG, quality 95);
without --videos, from large synthetic walkers. Two sets of shards are made of them: `source` keeps the files, which the
loader resizes at every reading; `jpeg` holds them resized to 256 x 128 and coded anew. Compared are the frames that the
loader gives, and the embeddings of a C2D-ResNet-50 with the same fixed weights. People without labels are tracks.
"""

from __future__ import annotations

import argparse
import io
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ccvid.config import ModelOptions, Recipe, ScoreOptions
from ccvid.model import IdentityClassifier, ReIdModel
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.ranking.scoring import labelled_rows, score_embeddings
from data_tools.clips import ClipOptions
from data_tools.datasets.checks import check_dataset
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import Dataset
from data_tools.shard_plan import ShardOptions
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_clip_
from data_tools.tracklet import ImageFrames, Tracklet
from data_tools.walkers import WalkerOptions, render_walkers
from tests.made_shards import make_shards
from video_backbones.factory import build_backbone

SIZE = (256, 128)
CLIP = ClipOptions(length=8, stride=4, piece=0)
WALKERS = WalkerOptions(
    train_people=1,
    test_people=8,
    outfits=1,
    test_outfits=2,
    cameras=2,
    frames=8,
    picture_width=960,
    picture_height=576,
    person_pixels_min=300,
    person_pixels_max=400,
)
Embeddings = NDArray[np.float32]


def read_videos(arguments: argparse.Namespace, folder: Path) -> Dataset:
    """The tracklets of the user's videos, or of rendered walkers."""
    if arguments.videos is None:
        render_walkers(WALKERS, folder, workers=1)
        options = FootageOptions(videos=folder / "videos", tracks=folder / "tracks", labels=folder / "labels.csv")
    else:
        from_tracks = arguments.labels is None
        options = FootageOptions(
            videos=arguments.videos,
            tracks=arguments.tracks,
            labels=arguments.labels,
            people_from_tracks=from_tracks,
            test_share=0.95,
        )
    dataset = check_dataset(read_footage(options))
    dataset.raise_on_errors()
    return dataset


def shards_of(dataset: Dataset, folder: Path, options: ShardOptions) -> ShardFolder:
    make_shards(dataset, folder, options)
    return ShardFolder(folder)


def release(dataset: Dataset, folder: Path) -> Dataset:
    """The same tracklets as folders of JPEG files, each crop in its own size, as in released data sets."""
    store = shards_of(dataset, folder / "crops", ShardOptions(format="source"))
    tracklets: list[Tracklet] = []
    by_id = {tracklet.id: tracklet for tracklet in dataset.tracklets}
    for row, stored in enumerate(store.rows):
        place = folder / "files" / str(row)
        place.mkdir(parents=True)
        names = tuple(f"{number:05d}.jpg" for number in range(stored.frame_count))
        for name, encoded in zip(names, store.encoded_frames(row, range(stored.frame_count)), strict=True):
            (place / name).write_bytes(encoded.tobytes())
        tracklets.append(replace(by_id[stored.id], source=ImageFrames(place, names)))
    return Dataset(dataset.name, tuple(tracklets))


def crop_heights(store: ShardFolder) -> list[int]:
    encoded = (store.encoded_frames(row, [0])[0] for row in range(len(store.rows)))
    return sorted(Image.open(io.BytesIO(frame.tobytes())).height for frame in encoded)


def frames_of(store: ShardFolder, row: int) -> NDArray[np.int16]:
    """All frames of a tracklet from the loader, (frames, H, W, 3)."""
    count = store.rows[row].frame_count
    frames_THWC = torch.empty((count, *SIZE, 3), dtype=torch.uint8)
    decode_clip_(frames_THWC.permute(0, 3, 1, 2), store, row, np.arange(count))
    return frames_THWC.numpy().astype(np.int16)


def pixel_figures(source: ShardFolder, prescaled: ShardFolder) -> dict[str, str]:
    count = np.zeros(256, np.int64)
    for row in range(len(source.rows)):
        difference = np.abs(frames_of(source, row) - frames_of(prescaled, row))
        count += np.bincount(difference.ravel(), minlength=256)
    share = np.cumsum(count) / count.sum()
    return {
        "frames": f"{sum(row.frame_count for row in source.rows):,}",
        "mean difference of a value, grey levels of 255": f"{(count * np.arange(256)).sum() / count.sum():.2f}",
        "99 % of the values differ by at most": f"{int(np.searchsorted(share, 0.99))}",
        "largest difference": f"{int(np.flatnonzero(count)[-1])}",
    }


def embed(store: ShardFolder, rows: Sequence[int], model: ReIdModel, options: ModelOptions) -> Embeddings:
    recipe = Recipe(clip=CLIP, model=options, score=ScoreOptions(clips_per_batch=4))
    embedding, _ = embed_tracklets(model, store, rows, recipe)
    return embedding.numpy()


def embedding_figures(source_ND: Embeddings, prescaled_ND: Embeddings) -> dict[str, str]:
    """L2-normalised embeddings of the same tracklets, and how far tracklets are from each other."""
    own = (source_ND * prescaled_ND).sum(1)
    between = (source_ND @ source_ND.T)[np.triu_indices(len(source_ND), 1)]
    share = (1 - own.mean()) / (1 - np.median(between))
    return {
        "cosine similarity of a tracklet's two embeddings, mean": f"{own.mean():.6f}",
        "the same, worst": f"{own.min():.6f}",
        "cosine similarity of two tracklets, median": f"{np.median(between):.6f}",
        "mean change against the median distance of two tracklets": f"{share:.3%}",
    }


def retrieval_figures(
    stores: Mapping[str, tuple[ShardFolder, Embeddings]], query: Sequence[int], gallery: Sequence[int]
) -> dict[str, str]:
    """Metrics of each, and how similar their rankings of the gallery are."""
    figures: dict[str, str] = {}
    ranks = []
    for name, (store, embedding_ND) in stores.items():
        counts = torch.ones(len(embedding_ND), dtype=torch.int64)
        table = EmbeddingTable.of(store, [*query, *gallery], torch.from_numpy(embedding_ND), counts, name)
        queries = range(len(query))
        sides = table.take(queries), table.take(range(len(queries), len(table.rows)))
        results = score_embeddings(*sides).evaluation.results
        for protocol, result in results.items():
            figures[f"mAP, {protocol}, {name} shards"] = f"{result.mean_average_precision:.2%}"
        distance_QG = -embedding_ND[: len(query)] @ embedding_ND[len(query) :].T
        ranks.append(np.argsort(np.argsort(distance_QG, axis=1), axis=1))
    first, second = ranks
    nearest = (first.argmin(1) == second.argmin(1)).mean()
    correlation = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)])
    figures["queries with the same nearest gallery tracklet"] = f"{nearest:.1%} of {len(query)}"
    figures["rank correlation of the gallery's order, mean"] = f"{correlation:.5f}"
    return figures


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    print("| what | found |\n|---|---|")
    for what, found in rows:
        print(f"| {what} | {found} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a video or a folder of them; default: synthetic walkers")
    parser.add_argument("--tracks", type=Path, help="folder of track files; default: beside each video")
    parser.add_argument("--labels", type=Path, help="labels of the tracks; default: each track is a person")
    parser.add_argument("--weights", default="random", help="of the network: random, imagenet or a file")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality of the resized frames")
    arguments = parser.parse_args()
    model_options = ModelOptions(backbone="c2d_resnet50", height=SIZE[0], width=SIZE[1])
    torch.manual_seed(0)
    backbone = build_backbone("c2d_resnet50", weights=arguments.weights, last_stride=1)
    model = ReIdModel(backbone, IdentityClassifier(backbone.feature_size, 1))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = release(read_videos(arguments, folder / "walkers"), folder)
        source = shards_of(dataset, folder / "source", ShardOptions(format="source"))
        resized = ShardOptions(height=SIZE[0], width=SIZE[1], quality=arguments.quality)
        prescaled = shards_of(dataset, folder / "jpeg", resized)
        heights = crop_heights(source)
        print(f"{platform.machine()}, torch {torch.__version__}, {arguments.videos or 'synthetic walkers'}, ", end="")
        print(f"{len(source.rows)} tracklets, {heights[0]} … {heights[-1]} pixels tall; {arguments.weights} weights\n")
        query, gallery = labelled_rows(source, "query"), labelled_rows(source, "gallery")
        stores: dict[str, tuple[ShardFolder, Embeddings]] = {
            store.manifest.storage: (store, embed(store, [*query, *gallery], model, model_options))
            for store in (source, prescaled)
        }
        figures = pixel_figures(source, prescaled)
        figures |= embedding_figures(*(embedding for _, embedding in stores.values()))
        figures |= retrieval_figures(stores, query, gallery)
    print_table(figures.items())


if __name__ == "__main__":
    main()
