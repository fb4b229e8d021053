"""Recording times of videos: from the container, from the file name, or from a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.text_tables import read_csv_table
from data_tools.errors import InputError
from data_tools.video import FrameTable
from data_tools.wording import shown

CONTAINER = "container"
DIRECTIVES = {
    "%Y": r"\d{4}",
    "%y": r"\d{2}",
    "%j": r"\d{3}",
    "%f": r"\d{1,6}",
    "%b": r"[A-Za-z]{3}",
    "%p": r"[AaPp][Mm]",
    "%z": r"(?:Z|[+-]\d{2}:?\d{2})",
    "%%": "%",
    **dict.fromkeys(("%m", "%d", "%H", "%I", "%M", "%S"), r"\d{2}"),
}
"""strptime's directives that occur in file names, and what they match."""
COLUMNS = ("video", "start_time")
USUAL_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}\+00:00$"
"""How ``time_attribute`` writes times: text in this form is in order of time."""


class StartTimes:
    """When the first frame of each video was recorded, if ``source`` says so.

    Args:
        source: ``container``, a pattern for the file name with strptime's directives, the path of a CSV file with the
            columns ``video`` and ``start_time``, or None.
        time_zone: time zone of times without one.
        log: gets a warning for each video whose time cannot be determined.
    """

    def __init__(self, source: str | None, time_zone: str, log: ProblemLog) -> None:
        self._source, self._zone, self._log = source, ZoneInfo(time_zone), log
        self._pattern = re.compile(name_pattern(source)) if source and "%" in source else None
        self._table: Mapping[str, datetime] | None = None
        if source and source != CONTAINER and self._pattern is None:
            self._table = _read_table(Path(source), self._zone, log)

    def of(self, name: str, video: Path, table: FrameTable) -> datetime | None:
        """The time of the video called ``name``; None if unknown, with a warning if there is a source."""
        if self._source is None:
            return None
        try:
            if self._table is not None:
                return self._table[name]
            if self._pattern is not None:
                found = self._pattern.search(video.stem)
                if found is None:
                    raise InputError(f"its name does not contain a time like {self._source}")
                return _zoned(datetime.strptime(found[0], self._source), self._zone)
            if table.created is None:
                raise InputError("its container has no creation time")
            return parse_time(table.created, self._zone)
        except KeyError:
            self._log.warn(video, None, f"has no row in {self._source}, so its start time is unknown")
        except ValueError as error:
            self._log.warn(video, None, f"{error}, so its start time is unknown")
        return None


def name_pattern(source: str) -> str:
    """The regular expression for a pattern with strptime's directives.

    Raises:
        ValueError: a directive is not in ``DIRECTIVES``.
    """
    parts = re.split(r"(%.?)", source)
    unknown = [part for part in parts[1::2] if part not in DIRECTIVES]
    if unknown:
        raise ValueError(f"{source!r}: unknown directive {unknown[0]}, expected one of {' '.join(DIRECTIVES)}")
    return "".join(DIRECTIVES[part] if number % 2 else re.escape(part) for number, part in enumerate(parts))


def parse_time(text: str, zone: tzinfo = UTC) -> datetime:
    """Parse a time in ISO 8601; one without a time zone is in ``zone``.

    Raises:
        InputError: it is not such a time.
    """
    try:
        return _zoned(datetime.fromisoformat(text.strip()), zone)
    except ValueError:
        raise InputError(f"{shown(text)} is not a time, expected one like 2026-11-20T08:00:00") from None


def time_attribute(start: datetime, seconds: float) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return (start + timedelta(seconds=seconds)).astimezone(UTC).isoformat(timespec="milliseconds")


def _zoned(time: datetime, zone: tzinfo) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=zone)


def _read_table(path: Path, zone: tzinfo, log: ProblemLog) -> dict[str, datetime]:
    times: dict[str, datetime] = {}
    for line, row in read_csv_table(path, COLUMNS, log):
        try:
            times[row["video"]] = parse_time(row["start_time"], zone)
        except InputError as error:
            log.error(path, line, str(error))
    return times
