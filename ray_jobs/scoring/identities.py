"""Finding out who is who in a gallery: new tracklets join known persons or open new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.config import Recipe
from ccvid.identities.corrections import Corrections, read_corrections
from ccvid.identities.evidence import UNIT, Evidence, learn_evidence
from ccvid.identities.grouping import Pairs
from ccvid.identities.identify import identify
from ccvid.identities.persons import Event, Grouped, Persons, Question, open_questions, renewed
from ccvid.identities.register import Register
from ccvid.identities.sightings import Exclusions, Sightings, TravelTimes, read_travel_times
from ccvid.retrieval.embedding.store import EmbeddingStore, read_store
from ccvid.retrieval.embedding.table import EmbeddingRows, read_embeddings
from ccvid.retrieval.gallery.clusters import score_clusters
from ccvid.retrieval.gallery.part_search import keep_indexes
from ccvid.retrieval.gallery.times import moments
from ccvid.run_files import CONFIG_FILE, EMBEDDINGS_FILE
from data_tools.datasets.track_rewriting import Way
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.shard_cache import open_shards
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring.changing_gallery import although_it_changes
from ray_jobs.scoring.embedding import embed_data, keep_precision, read_model
from ray_jobs.scoring.identity_candidates import Candidates, find_candidates, gathered
from ray_jobs.sharding.shards import compare_checksums, ensure_shards

MOST_COMPARED = 64
"""Tracklets of a known person that new ones are compared with, besides those that a search finds."""


@dataclass(frozen=True, slots=True)
class IdentityRequest:
    """What to find out."""

    gallery: StorageFolder
    checkpoint: StorageFolder | None = None
    """Weights, with which the recipe's data is first embedded into the gallery."""
    calibration: StorageFolder | None = None
    """Results of train.py or evaluate.py on labelled tracklets. Default: what the gallery's persons were found with."""
    corrections: Path | None = None
    travel: Path | None = None
    neighbours: int = 20
    """Most similar tracklets of each new one that may be its person."""
    approximate: bool = False
    tracks: Way | None = None
    annotate: tuple[str, ...] = ()
    """Names of videos."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a run."""

    rows: EmbeddingRows
    """Of all tracklets of the gallery, by id, as in ``persons``."""
    persons: Persons
    events: Sequence[Event]
    questions: Sequence[Question]
    met: frozenset[str]
    """Ids of the tracklets that were grouped."""


def identify_gallery(recipe: Recipe, request: IdentityRequest, folder: StorageFolder) -> Found:
    """Find the persons of a gallery, keep them in it, and write the results.

    Raises:
        InputError: there is no gallery or no calibration for it, or a file of the user's cannot be used.
        OSError: a place cannot be written.
    """
    if folder.exists(CONFIG_FILE):
        raise InputError(f"{folder}: contains a training run, which is not overwritten; choose another --run.name")
    travel = {} if request.travel is None else read_travel_times(request.travel)
    folder.check_writable()
    connect()
    register = Register(request.gallery)
    evidence = find_evidence(register, request.calibration)
    if request.checkpoint is not None:
        add_footage(recipe, request.checkpoint, request.gallery, evidence.model)
    store = read_store(request.gallery, recipe.data.cache)
    if evidence.model != store.embedder.fingerprint:
        raise InputError(
            f"{request.calibration or register.folder}: embeddings of another model or other clips than those of "
            f"{request.gallery}, so its probabilities do not hold there"
        )
    with register.writing():
        found = although_it_changes(
            store, lambda now: find_persons(now, register, evidence, request, travel, recipe.score.threshold.prior)
        )
    _tell(found, request.gallery)
    return found


def add_footage(recipe: Recipe, checkpoint: StorageFolder, gallery: StorageFolder, model: str) -> None:
    """Embed all tracklets of the recipe's data into the gallery, if it can be in the precision of ``model``'s.

    Raises:
        InputError: the checkpoint, the data, the gallery or the cluster does not allow it.
        OSError: a place cannot be written.
    """
    used = read_model(checkpoint, recipe.model)
    recipe = keep_precision(used, used.applied_to(recipe), gallery, [model])
    shards = ensure_shards(recipe.data)
    compare_checksums(recipe.data)
    store = open_shards(shards, recipe.data.cache)
    every = list(range(len(store.rows)))
    added = embed_data(used, recipe, shards, store, every, gallery, recipe.data.cache)
    added.embeddings.merge_small_parts()


def find_evidence(register: Register, calibration: StorageFolder | None) -> Evidence:
    """What probabilities are computed from: learnt from results, or as it was for the gallery's persons so far.

    Raises:
        InputError: there is neither, or it cannot be learnt from.
    """
    if calibration is not None:
        if not calibration.exists(EMBEDDINGS_FILE):
            raise InputError(f"{calibration}: no {EMBEDDINGS_FILE}; give results of train.py or evaluate.py")
        with calibration.fetched(EMBEDDINGS_FILE) as path:
            return learn_evidence(read_embeddings(path))
    if (evidence := register.evidence()) is None:
        raise InputError(
            f"{register.gallery}: has no persons yet, so --calibration is needed: results of train.py or evaluate.py "
            "on labelled tracklets of other people, with the same weights and clips"
        )
    return evidence


def find_persons(
    store: EmbeddingStore,
    register: Register,
    evidence: Evidence,
    request: IdentityRequest,
    travel: TravelTimes,
    prior: float | None,
) -> Found:
    """Find the persons and keep them; call it while the register is ``writing``."""
    before, rows = register.persons(), _all_rows(store)
    ids: list[str] = rows.text("id").to_pylist()
    known = dict(zip(before.ids, before.person_N.tolist(), strict=True))
    corrections = _corrections(register, request.corrections, frozenset(ids))
    new = [id for id in ids if id not in known]
    if request.approximate:
        keep_indexes(store.parts)
    prior_log_odds = evidence.prior(len(rows), prior)
    if new and evidence.strongest + prior_log_odds <= 0:
        _tell_too_large(store, evidence, len(rows))
    candidates = find_candidates(
        store, new, evidence, prior_log_odds, request.neighbours, approximate=request.approximate
    )
    met = _concerned(rows, known, new, candidates, corrections)
    table = gathered(store, met)
    met_ids: list[str] = table.rows.text("id").to_pylist()
    pairs = Pairs(
        evidence,
        evidence.vectors(table.embedding_ND),
        Exclusions.of(Sightings.of(table.rows), travel),
        prior_log_odds,
    )
    grouped, new_questions = (
        identify(met_ids, pairs, candidates.among(met_ids), corrections.among(set(met_ids)), known=known)
        if met_ids
        else (_nobody(), [])
    )
    persons, events = renewed(
        before,
        grouped,
        corrections.names,
        removed=known.keys() - set(ids),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    questions = open_questions(register.questions(), new_questions, persons, frozenset(met_ids), corrections)
    register.write(persons, events, questions, corrections, evidence)
    return Found(rows, persons, events, questions, frozenset(met_ids))


def _all_rows(store: EmbeddingStore) -> EmbeddingRows:
    """The labels of all tracklets, by id."""
    tables = [part.rows.columns for _, part in store.parts.each()]
    if not tables:
        raise InputError(f"{store.folder}: has no tracklets")
    rows = EmbeddingRows(pa.concat_tables(tables))
    return rows.take(pc.sort_indices(rows.columns["id"]).to_numpy())


def _corrections(register: Register, path: Path | None, ids: frozenset[str]) -> Corrections:
    """All decisions about tracklets of the gallery; those about others are told once, and dropped."""
    decided = register.corrections()
    if path is not None:
        decided = read_corrections(path, decided)
    decided.check()
    if unknown := sorted(decided.ids() - ids):
        some = ", ".join(unknown[:10]) + (", …" if len(unknown) > 10 else "")
        message(f"corrections: {len(unknown)} tracklets are not in {register.gallery}, and are left out: {some}")
    return decided.among(ids)


def _concerned(
    rows: EmbeddingRows,
    known: Mapping[str, int],
    new: Sequence[str],
    candidates: Candidates,
    corrections: Corrections,
) -> list[str]:
    """The new tracklets, and of each known person that they may be, or that a correction changes, enough to compare."""
    changed = [
        pair
        for pairs, same in ((corrections.same(), True), (corrections.different(), False))
        for pair in pairs
        if (known.get(pair[0], -1) == known.get(pair[1], -2)) != same
    ]
    needed = {*candidates.found, *(id for pair in changed for id in pair)} & known.keys()
    parted = {known[one] for one, other in changed if known.get(one) == known.get(other, -1)}
    persons = {known[id] for id in needed}
    members = rows.take(np.flatnonzero(rows.is_in("id", [id for id in known if known[id] in persons])))
    ids, videos = members.text("id").to_pylist(), members.attribute("video").to_pylist()
    start_N = np.nan_to_num(moments(members, "start"), nan=-np.inf)
    new_videos = set(rows.take(np.flatnonzero(rows.is_in("id", new))).attribute("video").to_pylist()) - {None}
    order = sorted(
        range(len(ids)),
        key=lambda place: (ids[place] not in needed, videos[place] not in new_videos, -start_N[place], ids[place]),
    )
    taken: dict[int, int] = {}
    kept = []
    for id in map(ids.__getitem__, order):
        number = known[id]
        if id in needed or number in parted or taken.get(number, 0) < MOST_COMPARED:
            taken[number] = taken.get(number, 0) + (id not in needed)
            kept.append(id)
    return sorted({*new, *kept})


def _nobody() -> Grouped:
    nothing = np.empty(0, np.int64)
    return Grouped((), nothing, nothing, np.empty(0), np.empty(0))


def _tell_too_large(store: EmbeddingStore, evidence: Evidence, tracklets: int) -> None:
    message(
        f"{store.folder}: among {tracklets} tracklets no resemblance makes one person probable, because the labelled "
        f"pairs show odds of at most {round(np.exp(evidence.strongest / UNIT))} to 1; --score.threshold.prior says how "
        "often two tracklets are of one person before they are compared"
    )


def _tell(found: Found, gallery: StorageFolder) -> None:
    persons, counts = found.persons, dict.fromkeys(("opened", "merged", "split", "named", "removed"), 0)
    for event in found.events:
        counts[event.event] += 1
    told = ", ".join(f"{count} {event}" for event, count in counts.items() if count)
    message(
        f"{gallery}: {len(set(persons.person_N.tolist()))} persons of {len(persons)} tracklets"
        f"{f' ({told})' if told else ''}; {len(found.questions)} questions"
    )
    labels = found.rows.text("person")
    if labels.null_count < len(found.rows):
        scores = score_clusters(persons.person_N, labels.to_pylist())
        message(
            f"of the tracklets with a person label: {scores.persons} persons; B-cubed precision "
            f"{100 * scores.precision:.1f} %, recall {100 * scores.recall:.1f} %"
        )
