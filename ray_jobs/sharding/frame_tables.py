"""Making frame tables as Ray tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_tools.datasets.frame_tables import find_or_make_table
from data_tools.errors import UnreadableSourceError
from data_tools.storage import StorageFolder
from data_tools.video import FrameTable
from ray_jobs.cluster.tasks import run_tasks

TableOrReason = FrameTable | UnreadableSourceError


def make_tables(videos: Sequence[Path], folder: StorageFolder, hang_seconds: float) -> list[TableOrReason]:
    """Each video's frame table, or the reason why there is none.

    Tables stored in ``folder`` by an earlier run are reused.

    Raises:
        OSError: the folder cannot be read or written.
    """
    if not videos:
        return []
    tables: dict[int, TableOrReason] = dict(
        run_tasks(
            find_or_make_table,
            videos,
            common=(folder, hang_seconds),
            what="counting frames",
            unit="videos",
            size=lambda table: table.count if isinstance(table, FrameTable) else 0,
        )
    )
    return [tables[number] for number in range(len(videos))]
