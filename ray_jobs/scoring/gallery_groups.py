"""Grouping all tracklets of a gallery into probable people, on the cluster, with a table and pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ccvid.retrieval.embedding.store import EmbeddingStore
from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.gallery.clusters import Clusters, Presence, find_clusters, score_clusters, write_clusters
from ccvid.retrieval.gallery.vectors import read_stored
from ccvid.retrieval.report.stored_pictures import StoredPictures
from ccvid.retrieval.report.unlabelled import Group, group_view, write_views
from ccvid.run_files import CLUSTERS_FILE, GROUPS_FOLDER
from data_tools.progress import message
from ray_jobs.scoring.slice_tasks import runner_for

SHOWN_TRACKLETS, SHOWN_MEMBERS = 20_000, 100
"""Of all groups, the largest first, and of one group: more than a person looks at; the table has all of them."""


def write_groups(store: EmbeddingStore, pictures: StoredPictures, reach: float, folder: Path) -> None:
    """Group all tracklets of a store, report the quality if persons are known, and write the table and pages.

    This process holds the labels and the graph of near tracklets (``find_clusters``), never the embeddings.

    Args:
        pictures: of those tracklets that the pages show.

    Raises:
        InputError: fewer than two tracklets, or a part is damaged.
        OSError: ``folder`` cannot be written.
    """
    run = runner_for(sum(store.folder.sizes()[name] for name in store.parts.names()) // (4 * store.embedder.dimensions))
    rows, vectors = read_stored(store.parts, run)
    clusters = find_clusters(vectors, Presence.of(rows), reach=reach, run=run)
    alone = int(np.count_nonzero(clusters.group_N < 0))
    message(f"{clusters.groups} groups of {len(rows)} tracklets, {alone} tracklets alone")
    facts: dict[str, object] = {
        "gallery": store.folder,
        "reach": reach,
        "tracklets": len(rows),
        "groups": clusters.groups,
        "tracklets alone": alone,
        **_quality(clusters, rows),
    }
    write_clusters(clusters, rows, folder / CLUSTERS_FILE)
    groups = shown_groups(clusters)
    if len(groups) < clusters.groups:
        facts["groups shown"] = f"the {len(groups)} largest; {CLUSTERS_FILE} lists all"
    shown = sorted(member for group in groups for member in group.members)
    groups = [replace(group, members=np.searchsorted(shown, group.members).tolist()) for group in groups]
    known = rows.take(shown)
    view = group_view(groups, known, pictures.of(known))
    write_views([view], folder / GROUPS_FOLDER, title=f"Probable people in {store.folder.name}", facts=facts)


def shown_groups(clusters: Clusters) -> list[Group]:
    """The largest groups, up to ``SHOWN_TRACKLETS``, with up to ``SHOWN_MEMBERS`` of each, its medoid first."""
    groups: list[Group] = []
    left = SHOWN_TRACKLETS
    for number, members in enumerate(clusters.members(), 1):
        shown = members[:SHOWN_MEMBERS].tolist()
        left -= len(shown)
        if left < 0:
            break
        groups.append(Group(f"group {number}", shown, hidden=len(members) - len(shown)))
    return groups


def _quality(clusters: Clusters, rows: EmbeddingRows) -> dict[str, object]:
    """What is known of it, as a fact; nothing without a known person."""
    persons = rows.text("person")
    if persons.null_count == len(rows):
        return {}
    scores = score_clusters(clusters.group_N, persons.to_pylist())
    scored = (
        f"{scores.persons} persons; purity {100 * scores.purity:.1f} %, B-cubed precision "
        f"{100 * scores.precision:.1f} %, recall {100 * scores.recall:.1f} %"
    )
    message(f"of the tracklets with a person label: {scored}")
    return {"of known persons": scored}
