"""Reading a gallery to which other commands add, and from which they remove, meanwhile.

What is read is the gallery as it was at one moment: the parts that were there. Further ones do not matter. If one of
them is gone before all is done, it was merged, which changes nothing but cannot be told apart, or somebody was removed
from it. The removal wins: what was made, and written, of the gallery is dropped, and made anew of what is there now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ccvid.retrieval.embedding.part_folder import PartsChangedError
from ccvid.retrieval.embedding.store import EmbeddingStore
from data_tools.progress import message
from data_tools.storage import StorageFolder

Result = TypeVar("Result")

ATTEMPTS = 4


def although_it_changes(
    store: EmbeddingStore,
    read: Callable[[EmbeddingStore], Result],
    *,
    also: Sequence[EmbeddingStore] = (),
    undo: Callable[[], None] = lambda: None,
) -> Result:
    """What ``read`` makes of the gallery as it is at a moment, all of which is still there when it is done.

    Args:
        read: called again, with the gallery as it is then, up to ``ATTEMPTS`` times.
        also: further galleries that it reads, as they are then.
        undo: removes what ``read`` has written, if it was made of parts that are gone.

    Raises:
        PartsChangedError: parts were gone each time.
    """
    for left in range(ATTEMPTS - 1, -1, -1):
        then, *others = (each.as_it_is() for each in (store, *also))
        try:
            result = read(then)
            for each in (then, *others):
                each.parts.check_unchanged()
            return result
        except PartsChangedError:
            undo()
            if not left:
                raise
            message(f"{store.folder}: parts were removed or merged by another command meanwhile; starting anew")
    raise AssertionError


def delete_all(folder: StorageFolder, names: tuple[str, ...]) -> None:
    """Delete those of some files and folders that are there."""
    for name in names:
        if folder.exists(name):
            folder.delete(name)
