"""Which boxes of a track file show persons, by its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.track_columns import TrackRow
from data_tools.wording import shown

EVERY_CLASS = "all"
PERSON_NAMES = frozenset(
    {
        *("person", "persons", "people", "pedestrian", "pedestrians", "human", "humans", "man", "woman", "boy", "girl"),
        *("child", "adult", "person on vehicle", "static person"),
    }
)
MOT_CLASSES: Mapping[str, str] = {
    "1": "pedestrian",
    "2": "person on vehicle",
    "3": "car",
    "4": "bicycle",
    "5": "motorbike",
    "6": "non-motorised vehicle",
    "7": "static person",
    "8": "distractor",
    "9": "occluder",
    "10": "occluder on the ground",
    "11": "full occluder",
    "12": "reflection",
    "13": "crowd",
}
"""Classes of MOT16, MOT17 and MOT20; only pedestrians have flag 1 (evaluated) in their ground truth."""
MOST_NAMED = 8
NUMBERINGS = (
    "a person is 0 in COCO's numbering as used by Ultralytics and supervision, and 1 (pedestrian) in MOTChallenge; "
    "'all' keeps every box"
)


def is_ground_truth(rows: Sequence[TrackRow]) -> bool:
    """Whether the rows are ground truth of MOT16, MOT17 or MOT20: flag, class and visibility after the box.

    True if every flag is 0 or 1, every class one of the 13 and every visibility from 0 to 1; a tracker's confidences
    with -1 in the last columns do not match.
    """
    return bool(rows) and all(
        _flag(row) in (0, 1) and row.kind in MOT_CLASSES and row.visibility is not None and 0 <= row.visibility <= 1
        for row in rows
    )


def select_persons(
    rows: list[TrackRow], classes: Collection[str] | None, names: Mapping[str, str], path: Path, log: ProblemLog
) -> list[TrackRow]:
    """The rows of ``classes``, or of persons; dropped rows are counted in a warning.

    Args:
        rows: the rows of one file.
        classes: names or numbers, or ``all``. Default: persons, if the classes have known names.
        names: names of the file's class numbers, if known from elsewhere.
        path: the file.
        log: gets an error if it is unclear which classes are persons, and the count of dropped rows.
    """
    kinds = Counter(row.kind for row in rows if row.kind is not None)
    asked = None if classes is None else {_plain(name) for name in classes}
    if not kinds or (asked is not None and EVERY_CLASS in asked):
        if asked is not None and not kinds and EVERY_CLASS not in asked:
            log.error(path, None, "has no classes, so footage.classes has no effect; remove it")
        return rows
    truth = is_ground_truth(rows)
    if truth and not names:
        names = MOT_CLASSES
    if asked is not None:
        wanted = {kind for kind in kinds if asked & {_plain(kind), _plain(names.get(kind, kind))}}
    else:
        wanted = _persons(kinds, names)
    if not wanted and not truth:
        log.error(path, None, _question(kinds, names, asked))
        return []
    kept = [row for row in rows if row.kind in wanted and not (truth and _is_ignored(row, asked is not None, names))]
    if len(kept) < len(rows):
        left_out = Counter(row.kind for row in rows) - Counter(row.kind for row in kept)
        log.warn(
            path,
            None,
            f"{len(rows) - len(kept)} of {len(rows)} boxes were dropped by class"
            f"{' or flag' if truth else ''}: {_counted(left_out, names)}; set footage.classes to choose",
        )
    return kept


def _persons(kinds: Mapping[str, int], names: Mapping[str, str]) -> set[str]:
    if names or any(not _is_number(kind) for kind in kinds):
        return {kind for kind in kinds if _plain(names.get(kind, kind)) in PERSON_NAMES}
    return set(kinds) if len(kinds) == 1 and {"0", "1"} & set(kinds) else set()  # a single class is unambiguous


def _is_ignored(row: TrackRow, asked: bool, names: Mapping[str, str]) -> bool:
    """Whether the flag is 0, as in ground truth for ignored pedestrians and all other classes."""
    return _flag(row) == 0 and not (asked and names.get(row.kind or "") != MOT_CLASSES["1"])


def _flag(row: TrackRow) -> float | None:
    return row.confidence if row.flag is None else row.flag


def _question(kinds: Mapping[str, int], names: Mapping[str, str], asked: Collection[str] | None) -> str:
    found = _counted(kinds, names)
    if asked is not None:
        return f"has no boxes of class {' or '.join(sorted(asked))} (footage.classes); its classes are {found}"
    return (
        f"has boxes of classes {found}, but it is not known which are persons; choose with "
        f"--data.footage.classes ({NUMBERINGS})"
    )


def _counted(kinds: Mapping[str | None, int] | Mapping[str, int], names: Mapping[str, str]) -> str:
    """The classes with their box counts, most frequent first."""
    ordered = sorted(((str(kind or ""), count) for kind, count in kinds.items()), key=lambda item: (-item[1], item[0]))
    parts = [
        f"{shown(kind)[1:-1] or 'no class'}{f' {names[kind]}' if kind in names else ''} ({count})"
        for kind, count in ordered
    ]
    return ", ".join(parts[:MOST_NAMED] + ([f"{len(parts) - MOST_NAMED} more"] if len(parts) > MOST_NAMED else []))


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ").replace("-", " ").removesuffix(".0")


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdecimal()
