"""Where models stand, from finished results: read, grouped by the question that they answer, and written as pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ccvid.config import Recipe, RunOptions
from ccvid.model_cost import ModelCost
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingTable, read_embeddings
from ccvid.retrieval.gallery.matches import TIMES
from ccvid.retrieval.ranking.attribute_costs import (
    Observations,
    camera_pairs,
    camera_precision,
    label_observations,
    value_costs,
)
from ccvid.retrieval.ranking.distances import CosineDistances, Floats
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocol_hash import SHOWN
from ccvid.retrieval.ranking.protocols import PROTOCOLS, with_own
from ccvid.retrieval.ranking.scoring import PICTURED_PROTOCOLS
from ccvid.retrieval.report.changes import RankedResult
from ccvid.retrieval.report.filmstrips import Tracklets
from ccvid.retrieval.report.mosaic import read_hiding
from ccvid.retrieval.report.standing import Standing, missed_by_all, standing_text, write_standing
from ccvid.retrieval.report.stored_pictures import Place, stored_thumbnails
from ccvid.run_files import EMBEDDINGS_FILE, METRICS_FILE, PAIR_FILE, PAIRS_FOLDER, REPORT_FOLDER, STANDING_FILE
from data_tools.colour_outfits import colour_histograms, main_colours
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from data_tools.wording import one_line
from ray_jobs.cli import show_results
from ray_jobs.scoring.comparison import short_names, stored_tracklets
from ray_jobs.scoring.embedding import cost_of, read_model
from ray_jobs.scoring.result_folders import Result, read_result, write_document
from video_backbones import BackboneError

TEXT_FILE = "standing.txt"
OWN_NAMES = {TEXT_FILE, STANDING_FILE, REPORT_FOLDER}
Located = tuple[EmbeddingRow, Place]
"""A tracklet, and where its frames are."""


def show_standing(sources: Sequence[StorageFolder], run: RunOptions, recipe: Recipe) -> None:
    """Show where the models of some results stand, on pages in the run's folder.

    Args:
        sources: folders of results, or of a referee, which stands for its pairs.
        recipe: for the pictures, and for the cost of models that nobody has measured.

    Raises:
        InputError: a folder has no results, or the run's holds something else.
    """
    folder = StorageFolder(run.storage, run.patience_seconds) / run.name
    if folder.exists() and (alien := set(folder.names()) - OWN_NAMES):
        raise InputError(f"{folder}: contains {min(alien)}; choose another --run.name")
    hiding = read_hiding(recipe.report)
    places = [place for source in sources for place in _expanded(source)]
    if len(set(map(str, places))) < len(places):
        raise InputError("--standing: duplicate folder")
    results = dict(zip(short_names([str(place) for place in places]), map(read_result, places), strict=True))
    tracklets = stored_tracklets(places, recipe.data.cache)
    located = {row.id: (row, place) for row, place in tracklets}
    groups = [_standing(protocol, own, located, recipe) for (protocol, _), own in _by_question(results).items()]
    shown = Tracklets.of_rows(
        [row for row, _ in tracklets], stored_thumbnails([place for _, place in tracklets], hiding)
    )
    number_of = {row.id: number for number, (row, _) in enumerate(tracklets)}
    text = standing_text(groups)
    with folder.filled(last=STANDING_FILE) as path:
        write_standing(groups, shown, number_of, path / REPORT_FOLDER, f"Standing: {run.name}")
    folder.write(TEXT_FILE, f"{text}\n".encode())
    write_document(folder, STANDING_FILE, {"groups": [group.to_json() for group in groups]})
    message(text)
    show_results(folder)


def _expanded(source: StorageFolder) -> list[StorageFolder]:
    """The finished pairs of a referee's folder; another folder as it is."""
    if not source.exists(PAIRS_FOLDER):
        return [source]
    pairs = [source / PAIRS_FOLDER / name for name in (source / PAIRS_FOLDER).names()]
    return [pair for pair in pairs if pair.exists(PAIR_FILE) and pair.exists(METRICS_FILE)]


def _by_question(results: Mapping[str, Result]) -> dict[tuple[str, str], dict[str, Result]]:
    """The results by their leading protocol and its hash; what cannot be compared is said."""
    groups: dict[tuple[str, str], dict[str, Result]] = defaultdict(dict)
    for name, result in results.items():
        hashes = result.metrics.hashes
        protocol = next((name for name in PICTURED_PROTOCOLS if name in hashes), next(iter(hashes)))
        groups[protocol, hashes[protocol]][name] = result
    if len(groups) > 1:
        listed = (f"{protocol} {hash[:SHOWN]}: {', '.join(own)}" for (protocol, hash), own in groups.items())
        message("\n  ".join(["other protocols, queries or galleries, so these are not compared:", *listed]))
    return dict(groups)


def _standing(protocol: str, results: Mapping[str, Result], located: Mapping[str, Located], recipe: Recipe) -> Standing:
    ranked = [RankedResult(name, result.scores[protocol]) for name, result in results.items()]
    first = ranked[0].scores
    precision_Q = np.mean([each.scores.figures["map"] for each in ranked], axis=0)
    observed = _observations(protocol, precision_Q, list(first.ids), results, located, recipe)
    costs, left_out = value_costs(observed)
    example = next(iter(results.values()))
    return Standing(
        dataset=example.metrics.dataset or example.place.name,
        protocol=protocol,
        hash=example.metrics.hashes[protocol],
        models={name: (result.figures[protocol], _cost(result, recipe)) for name, result in results.items()},
        costs=costs,
        left_out=left_out if observed else {"attributes": f"no {EMBEDDINGS_FILE}, which has the labels"},
        results=ranked,
        missed=missed_by_all(ranked),
    )


def _observations(
    protocol: str,
    precision_Q: Floats,
    ids: Sequence[str],
    results: Mapping[str, Result],
    located: Mapping[str, Located],
    recipe: Recipe,
) -> list[Observations]:
    """Of everything that is known about the queries ``ids``; nothing if the results have no embeddings."""
    if any(id not in located for id in ids):
        return []
    chosen = [located[id] for id in ids]
    query = RetrievalLabels.from_rows([row for row, _ in chosen])
    further: dict[str, Sequence[str | None]] = {"length": _lengths(chosen), **_colours(chosen)}
    observed = label_observations(precision_Q, query, further, TIMES)
    protocols = dict(PROTOCOLS) | {each.name: each for each in with_own(recipe.score.protocols)}
    if protocol in protocols and all(result.place.exists(EMBEDDINGS_FILE) for result in results.values()):
        pairs: list[Floats] = []
        for result in results.values():
            sides = _sides(result)
            labels = [RetrievalLabels.from_rows(side.rows) for side in sides]
            distances = CosineDistances(*(side.embedding_ND for side in sides))
            pairs.append(camera_precision(distances, labels[0], labels[1], protocols[protocol]))
        observed.append(camera_pairs(np.mean(pairs, axis=0), labels[0], labels[1]))
    return observed


def _sides(result: Result) -> tuple[EmbeddingTable, EmbeddingTable]:
    """Queries and gallery, each by id, as those of other models are."""
    with result.place.fetched(EMBEDDINGS_FILE) as path:
        table = read_embeddings(path)
    sides = (table.part("query"), table.part("gallery"))
    query, gallery = (side.take(np.argsort(side.rows.values("id"), kind="stable")) for side in sides)
    return query, gallery


def _lengths(chosen: Sequence[Located]) -> list[str | None]:
    """Thirds by the number of frames, or of clips where frames are not stored any more."""
    unit = "frames" if all(place is not None for _, place in chosen) else "clips"
    length_Q = np.array(
        [
            row.clip_count if place is None or unit == "clips" else place[0].rows[place[1]].frame_count
            for row, place in chosen
        ]
    )
    low, high = (int(cut) for cut in np.quantile(length_Q, (1 / 3, 2 / 3), method="lower"))
    names = (f"up to {low} {unit}", f"{low + 1} to {high} {unit}", f"more than {high} {unit}")
    return [names[int(length > low) + int(length > high)] for length in length_Q.tolist()]


def _colours(chosen: Sequence[Located]) -> dict[str, Sequence[str | None]]:
    """The main colours of upper and lower body; None where the frames are not stored any more or cannot be read."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    stores: dict[int, ShardFolder] = {}
    for number, (_, place) in enumerate(chosen):
        if place is not None:
            stores[id(place[0])] = place[0]
            rows_of[id(place[0])].append(number)
    found: dict[str, list[str | None]] = {}
    for key, numbers in rows_of.items():
        rows = [place[1] for number in numbers if (place := chosen[number][1]) is not None]
        try:
            colours = main_colours(colour_histograms(stores[key], rows))
        except InputError as error:
            message(f"no colours: {error}")
            continue
        for part, names in colours.items():
            column = found.setdefault(f"colour of {part} body", [None] * len(chosen))
            for number, name in zip(numbers, names, strict=True):
                column[number] = name
    return dict(found)


def _cost(result: Result, recipe: Recipe) -> ModelCost | None:
    """What was measured when it was scored, else what is measured now; None, and why, if the model cannot be read."""
    if result.cost is not None:
        return result.cost
    source = result.place if result.metrics.source is None else StorageFolder(result.metrics.source)
    try:
        return cost_of(read_model(source, recipe.model), recipe)
    except (InputError, BackboneError, OSError, ValueError) as error:
        message(f"{result.place}: its cost is not known: {one_line(error)}")
        return None
