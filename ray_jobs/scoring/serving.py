"""Answering searches of a gallery over HTTP."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import ray
from pydantic import Field, FiniteFloat
from ray.exceptions import GetTimeoutError, RayError

from ccvid.config import Recipe
from ccvid.retrieval.embedding.part_folder import PartsChangedError
from ccvid.retrieval.embedding.store import EmbeddingStore, open_store, read_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery.decisions import Decisions, read_decisions
from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.training.stopping import EndedOnRequestError
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.options import Options
from data_tools.progress import message, state
from data_tools.storage import StorageFolder
from data_tools.wording import shown
from ray_jobs.cluster.connection import connect
from ray_jobs.cluster.machines import decide_precision
from ray_jobs.cluster.tasks import results_of
from ray_jobs.cluster.token import make_token
from ray_jobs.cluster.workers import Workers
from ray_jobs.scoring.actors import resident_actor, with_batches
from ray_jobs.scoring.changing_gallery import although_it_changes
from ray_jobs.scoring.clip_upload import ClipActor
from ray_jobs.scoring.embedding import keep_precision, read_model
from ray_jobs.scoring.endpoint import JSON, Endpoint, Limits
from ray_jobs.scoring.entries import EntryFilter, NothingToRankError
from ray_jobs.scoring.gallery import say_what_is_missing
from ray_jobs.scoring.gallery_search import GallerySearch, PartsFound, search_gallery
from ray_jobs.scoring.http_requests import RefusedError
from ray_jobs.training.guard import run_stoppable

MOST_MATCHES = 1000
ANY_ENTRY = EntryFilter(without_queries=False)
CLIP_SECONDS = 60.0
"""How long a request waits for the embedding of its clip."""
SHORTEST_TOKEN = 16
RESULT_NAMES = (
    *("rank", "person", "camera", "score", "probability"),
    *("start_seconds", "end_seconds", "start_time", "end_time"),
)
"""Of a match, after its id."""


class SearchRequest(Options):
    """The body of a search by embedding."""

    embedding: list[Annotated[FiniteFloat, Field(strict=True)]] = Field(min_length=1, max_length=65_536)
    top: int = Field(default=20, ge=1, le=MOST_MATCHES, strict=True)


class SearchService:
    """The service: the first tracklets of the gallery for an embedding or a clip.

    Args:
        clips: the actor that embeds clips, and the arguments of its ``embed``.
        decisions, prior: as for ``score.py``.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        clips: tuple[Any, tuple[Any, ...]],
        decisions: Decisions | None = None,
        prior: float | None = None,
    ) -> None:
        self._store, self._clips = store, clips
        self._decisions, self._prior = decisions, prior

    def health(self) -> Mapping[str, Any]:
        """Only that it answers."""
        return {"status": "ok"}

    def search(self, body: bytes, content_type: str, query: str) -> Mapping[str, Any]:
        """The matches, best first.

        Args:
            body: as JSON, a ``SearchRequest``; else a video file, whose frames each show one and the same person.
            query: ``top=K`` with a video.

        Raises:
            InputError: the body is not that, or has another number of values, or they have no direction.
            RefusedError: embedding took too long.
        """
        if content_type == JSON:
            request = parse_model(SearchRequest, body, "request")
            with np.errstate(over="ignore"):
                embedding_D, top = np.array(request.embedding).astype(np.float32), request.top
        else:
            top = _top(query)
            embedding_D = self._embed(body)
        dimensions = self._store.embedder.dimensions
        if embedding_D.shape != (dimensions,):
            raise InputError(f"request: embedding has {len(embedding_D)} values, expected {dimensions}")
        if not (np.isfinite(embedding_D).all() and embedding_D.any()):
            raise InputError("request: embedding has no direction in float32: it is zero, or a value is too large")
        return {"matches": self._matches(embedding_D, top)}

    def _matches(self, embedding_D: npt.NDArray[np.float32], top: int) -> list[dict[str, Any]]:
        model = self._store.embedder.fingerprint
        row = EmbeddingRow(str(uuid4()), None, None, "", "query", {}, 1, "")  # no tracklet has this id
        query = EmbeddingTable(EmbeddingRows.of([row]), embedding_D[None], model)

        def search(store: EmbeddingStore) -> PartsFound:
            return search_gallery(GallerySearch(store, query, ANY_ENTRY, top, ("id",)))

        try:
            found = although_it_changes(self._store, search).found
        except NothingToRankError:
            return []
        except (InputError, PartsChangedError) as error:
            message(f"error while searching: {error}")
            raise RefusedError(503, "the gallery cannot be read", {"Retry-After": "10"}) from None
        matches = RankedMatches(query.rows, found.rows, found.nearest.gallery_QK, found.nearest.score_QK)
        if self._decisions is not None:
            matches = self._decisions.add_probabilities(matches, model=model, prior=self._prior)
        rows = matches.table().to_pylist()
        return [{"id": row["gallery_id"], **{name: row[name] for name in RESULT_NAMES}} for row in rows]

    def _embed(self, content: bytes) -> npt.NDArray[np.float32]:
        actor, arguments = self._clips
        try:
            embedding_D: npt.NDArray[np.float32] = ray.get(actor.embed.remote(arguments, content), timeout=CLIP_SECONDS)
        except GetTimeoutError:
            raise RefusedError(503, "the clip took too long", {"Retry-After": "10"}) from None
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), InputError):
                raise cause from None
            raise
        return embedding_D


def serve(
    recipe: Recipe,
    checkpoint: StorageFolder,
    gallery: StorageFolder,
    *,
    decisions: StorageFolder | None,
    host: str,
    port: int,
    token_file: Path,
    limits: Limits,
) -> None:
    """Serve searches of a gallery until a signal asks for the end.

    Raises:
        InputError: the checkpoint, the gallery, the address, the token or the cluster does not allow it.
        EndedOnRequestError: a signal asked for the end.
    """
    read_store(gallery)
    used = read_model(checkpoint, recipe.model)
    found = None if decisions is None else read_decisions(decisions)
    recipe = keep_precision(used, used.applied_to(recipe), gallery)
    if found is not None:
        found.with_tables([])
        found.check(used.describe(recipe).fingerprint)
        say_what_is_missing(found)
    token = read_token(token_file)
    connect()
    workers = Workers(recipe.compute)
    recipe = with_batches(decide_precision(recipe, workers), used.embedder, workers)
    store = open_store(gallery, used.describe(recipe), recipe.data.cache)
    state("loading the model")
    actor, arguments = resident_actor(ClipActor, workers), (ray.put(used.computing(recipe)), recipe, workers.cpus)
    results_of([actor.prepare.remote(arguments)])
    service = SearchService(store, (actor, arguments), found, recipe.score.threshold.prior)
    with Endpoint(host, port, token, service, limits) as endpoint:  # leaving waits for open requests
        message(f"serving {gallery} at {endpoint.url}; the token is in {token_file}")
        if not _is_loopback(host):
            message(f"warning: {host} answers other machines, and without TLS: the token and all else can be read")
        run_stoppable(lambda: endpoint.serve_forever(0.2), endpoint.shutdown, "the requests under way")
    raise EndedOnRequestError(f"stopped serving {gallery}")


def read_token(path: Path) -> str:
    """The token in a file, which is made if there is none.

    Raises:
        InputError: others can read the file, or it does not hold a token.
        OSError: it cannot be read or made.
    """
    if not path.exists():
        make_token(path)
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        raise InputError(f"{path}: can be used by others (mode {mode:o}), expected 600; run: chmod 600 {path}")
    token = path.read_bytes().strip().decode(errors="replace")
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"{path}: expected a token of at least {SHORTEST_TOKEN} letters, digits and signs in one line")
    return token


def _top(query: str) -> int:
    found = re.fullmatch(r"(?:top=([0-9]{1,4}))?", query)
    top = int(found[1] or SearchRequest.model_fields["top"].default) if found else 0
    if not 1 <= top <= MOST_MATCHES:
        raise InputError(f"request: expected nothing or ?top=K with K from 1 to {MOST_MATCHES}, got {shown(query)}")
    return top


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
