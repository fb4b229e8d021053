"""Watching a folder without Ray: who is reported, and that no kill loses or repeats a tracklet."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ccvid.config import Recipe, RunOptions
from ccvid.retrieval.embedding.store import EmbeddingStore, open_store
from ccvid.retrieval.gallery.decisions import Decisions
from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.training.stopping import EndedOnRequestError
from data_tools.datasets.arrivals import look_at
from data_tools.datasets.footage_options import FootageOptions
from data_tools.errors import InputError
from data_tools.file_lock import locked
from data_tools.line_file import LineFile
from data_tools.storage import StorageFolder
from ray_jobs import score
from ray_jobs.cli import UsageError
from ray_jobs.scoring import watching
from ray_jobs.scoring.forgetting import ForgetRequest, forget
from ray_jobs.scoring.intake import TakenIn
from ray_jobs.scoring.live_matches import MatchLines, Ranking
from ray_jobs.scoring.watch_log import Taken, WatchLog
from ray_jobs.scoring.watching import Watch
from tests.jobs.scoring.test_gallery_scoring import EMBEDDER, REQUEST, TRACKLETS, table

ANGLES = {"a": (5, 60), "b": (100,), "c": (1, 89, 45), "bad": (), "empty": (), "d": (2,)}
"""Of the tracklets that each video has, in the order of arrival; the queries are at 0 (ann) and 90 (bob)."""
BEST_TWO = {
    *(("ann", "a/0", 1), ("ann", "a/1", 2), ("bob", "a/1", 1), ("bob", "a/0", 2)),
    *(("bob", "b/0", 1),),
    *(("ann", "c/0", 1), ("bob", "c/1", 1)),
    *(("ann", "d/0", 2),),
}
"""Query, tracklet and its rank when it arrived."""


class KilledError(BaseException):
    """In place of SIGKILL: nothing after it runs."""


@dataclass
class World:
    """A folder with arrivals, a gallery with two queries, and a run folder; ``watch`` is a new process each time."""

    folder: Path
    top: int = 2
    threshold: float | None = None
    shown: list[RankedMatches] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        (self.folder / "run").mkdir(parents=True)
        (self.folder / "footage").mkdir()
        self.store = open_store(StorageFolder(str(self.folder / "gallery")), EMBEDDER)
        self.store.add(table(TRACKLETS[:2]))

    def arrive(self, *names: str, content: str = "x") -> None:
        for name in names:
            for suffix in ("mp4", "txt"):
                (self.folder / "footage" / f"{name}.{suffix}").write_text(content)

    def watch(self, take_in: Callable[[Taken], TakenIn] | None = None) -> None:
        self.log = WatchLog(self.folder / "run" / "watched.jsonl")
        request = replace(REQUEST, gallery=self.store.folder, top=self.top)
        found = Decisions("results", EMBEDDER.fingerprint, self.threshold, None)
        ranking = Ranking(request, None if self.threshold is None else found)
        lines = MatchLines(LineFile(self.folder / "run" / "matches.jsonl"), self.log.matches_end)
        footage = FootageOptions(videos=self.folder / "footage")
        take_in = take_in or self.take_in
        Watch(footage, 0.0, self.log, lines, take_in, self.store, ranking, self.show, self.ended).run(once=True)

    def show(self, matches: RankedMatches, ranked: int) -> None:
        assert ranked == len(self.store.read().rows) - 2
        self.shown.append(matches)

    def take_in(self, batch: Taken) -> TakenIn:
        """Each video's tracklets are a part of the gallery."""
        ids: set[str] = set()
        for arrival in self.log.remaining(batch):
            if arrival.name == "bad":
                self.log.refuse(arrival, "cannot be read")
                continue
            rows = {f"{arrival.name}/{n}": angle for n, angle in enumerate(ANGLES[arrival.name])}
            lacking = sorted(self.store.missing(dict.fromkeys(rows, "s")))
            if lacking:
                self.store.add(table([(id, "east", "gallery", "0", "1", rows[id]) for id in lacking]))
            ids |= rows.keys()
        return TakenIn(frozenset(ids), 0)

    def matches(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in LineFile(self.folder / "run" / "matches.jsonl").lines()]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in LineFile(self.folder / "run" / "watched.jsonl").lines()]

    def done(self) -> list[dict[str, Any]]:
        return [event | {"time": ""} for event in self.events() if event["event"] == "done"]

    def ids(self) -> list[str]:
        return [row.id for row in self.store.read().rows]


def triples(matches: list[dict[str, Any]]) -> list[tuple[str, str, int | None]]:
    return [(match["query_id"], match["gallery_id"], match["rank"]) for match in matches]


@pytest.fixture(autouse=True)
def one_video_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_PER_BATCH", 1)


def test_what_is_among_the_first_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    for name in ANGLES:
        world.arrive(name)
        world.watch()
    found = world.matches()
    assert set(triples(found)) == BEST_TWO
    assert len(found) == len(BEST_TWO)
    first = found[0]
    assert {name: first[name] for name in ("query_id", "query_person", "query_camera", "camera", "person")} == {
        "query_id": "ann",
        "query_person": None,
        "query_camera": "east",
        "camera": "east",
        "person": None,
    }
    assert first["score"] == pytest.approx(0.9962, abs=1e-4)
    assert first["start_time"] == "2026-11-20T08:00:00.000+00:00"
    output = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in output if line.startswith("{")] == found
    assert f"refused {tmp_path}/footage/bad.mp4: cannot be read" in output
    assert [event["tracklets"] for event in world.done()] == [2, 1, 3, 0, 0, 1]
    assert sum(event["matches"] for event in world.done()) == len(found)
    assert len(world.shown) == 6  # at each start, as an earlier process may have been killed before
    assert [row.id for row in world.shown[-1].query] == ["ann", "bob"]


def test_what_reaches_the_threshold_is_reported(tmp_path: Path) -> None:
    world = World(tmp_path, top=1, threshold=0.97)
    for name in ANGLES:
        world.arrive(name)
        world.watch()
    expected = [("ann", "a/0", 1), ("bob", "b/0", 1), ("ann", "c/0", 1), ("bob", "c/1", 1), ("ann", "d/0", None)]
    assert triples(world.matches()) == expected


class Strike:
    """Kills at one of the calls that make something durable: before it, in its midst, or after it."""

    def __init__(self, how: str, at: int) -> None:
        self._how, self._at = how, at
        self.calls = 0

    def wrap(self, durable: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, given: Any) -> Any:
            self.calls += 1
            if self.calls - 1 != self._at:
                return durable(target, given)
            if self._how == "in" and isinstance(target, LineFile):
                text = "".join(f"{line}\n" for line in given)
                with target.path.open("a") as file:
                    file.write(text[: 2 * len(text) // 3])
            elif self._how == "after":
                durable(target, given)
            raise KilledError

        return call

    def __enter__(self) -> Strike:
        self._patch = pytest.MonkeyPatch()
        for kind, name in ((LineFile, "append"), (EmbeddingStore, "add")):
            self._patch.setattr(kind, name, self.wrap(getattr(kind, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@pytest.mark.parametrize("how", ["before", "in", "after"])
def test_no_kill_loses_or_repeats_a_tracklet(how: str, tmp_path: Path) -> None:
    def begin(name: str) -> World:
        world = World(tmp_path / name)
        world.arrive("a", "bad", "c")  # batches in this order
        return world

    whole = begin("whole")
    with Strike(how, -1) as count:
        whole.watch()
    for at in range(count.calls):
        world = begin(str(at))
        with Strike(how, at), suppress(KilledError):
            world.watch()
        if at % 4 == 0:  # and once more, soon after
            with Strike(how, 0), suppress(KilledError):
                world.watch()
        world.watch()
        assert triples(world.matches()) == triples(whole.matches()), at
        assert [match["score"] for match in world.matches()] == [match["score"] for match in whole.matches()]
        assert world.ids() == whole.ids(), at
        assert world.log.pending is None
        assert world.done() == whole.done(), at


def test_what_is_refused_is_told_once_and_taken_when_it_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    world.arrive("bad", "a")
    for _ in range(3):
        world.watch()
    assert capsys.readouterr().out.count("\nrefused") == 1
    assert world.log.batch_of("bad") is None
    world.arrive("bad", content="now it is whole")

    def take_in(_: Taken) -> TakenIn:
        world.store.add(table([("bad/0", "east", "gallery", "0", "1", 7)]))
        return TakenIn(frozenset({"bad/0"}), 0)

    world.watch(take_in)
    assert triples(world.matches())[-2:] == [("ann", "bad/0", 2), ("bob", "bad/0", 2)]
    assert world.log.videos == 2


def test_footage_under_an_old_name_is_told_once_and_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    world.arrive("a")
    world.watch()
    for content in ("other", "a third"):
        world.arrive("a", content=content)
        world.watch()
        world.watch()
    refused = [line for line in capsys.readouterr().out.splitlines() if line.startswith("refused")]
    reason = "has changed since it was taken in with batch 1; give new footage a name of its own"
    assert refused == [f"refused {tmp_path}/footage/a.mp4: {reason}"] * 2
    assert len(world.matches()) == 4
    for suffix in ("mp4", "txt"):  # nor does it matter that it is gone
        (tmp_path / "footage" / f"a.{suffix}").unlink()
    world.watch()
    assert len(world.matches()) == 4


def test_removing_a_person_takes_the_lines_along(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.arrive("a")
    world.watch()
    recipe = Recipe(run=RunOptions(storage=str(tmp_path)))
    results = StorageFolder(str(tmp_path / "run"))
    forget(recipe, world.store.folder, results, ForgetRequest(ids=["a/0"]))
    others = [("ann", "a/1", 2), ("bob", "a/1", 1)]
    assert triples(world.matches()) == others
    assert world.events()[-1]["event"] == "pruned"
    world.arrive("d")
    world.watch()
    world.watch()
    assert triples(world.matches()) == [*others, ("ann", "d/0", 1), ("bob", "d/0", 2)]
    assert "a/0" not in world.ids()
    with (
        locked(tmp_path / "run" / watching.LOCK_FILE),
        pytest.raises(InputError, match="a watch or another removal uses these results; end it first"),
    ):
        forget(recipe, world.store.folder, results, ForgetRequest(ids=["d/0"]))


def test_without_queries_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    world.store.remove(ids=["ann", "bob"])
    world.arrive("a", "b")
    world.watch()
    assert capsys.readouterr().out.count("no tracklets with split query") == 1
    assert (world.matches(), world.ids()) == ([], ["a/0", "a/1", "b/0"])


def test_a_request_to_end_is_followed_between_two_steps(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.arrive("a", "b")

    def take_in(batch: Taken) -> TakenIn:
        world.ended.set()
        return world.take_in(batch)

    with pytest.raises(EndedOnRequestError, match=f"stopped watching {tmp_path}/footage"):
        world.watch(take_in)
    assert (world.matches(), world.ids()) == ([], ["a/0", "a/1", "ann", "bob"])
    world.ended.clear()
    world.watch()
    assert len(world.matches()) == 5


@pytest.mark.parametrize(
    ("file", "line", "problem"),
    [
        ("watched.jsonl", "{}", "watched.jsonl:2: "),
        ("watched.jsonl", '{"event": "taken", "time": "", "batch": 1}', "watched.jsonl:2: taken.arrivals"),
        ("watched.jsonl", "\0\0", "watched.jsonl:2: "),
        ("matches.jsonl", "[]", "matches.jsonl: "),
    ],
)
def test_files_that_somebody_changed(file: str, line: str, problem: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.arrive("a")
    (tmp_path / "run" / "watched.jsonl").write_text("")
    world.log = WatchLog(tmp_path / "run" / "watched.jsonl")
    world.log.refuse(look_at(FootageOptions(videos=tmp_path / "footage"), 0).complete[0], "")
    with (tmp_path / "run" / file).open("a") as stream:
        stream.write(line + "\n")
    world.arrive("a", content="other")
    with pytest.raises(InputError, match=problem):
        world.watch()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--groups"], "--watch cannot be combined with --groups"),
        (["--only-new"], "--watch cannot be combined with --only-new"),
        (["--approximate"], "--watch cannot be combined with --approximate"),
        (["--data.footage.videos", "/elsewhere"], "--watch says what is read; leave out"),
        (["--data.kind", "synthetic"], "--watch says what is read; leave out"),
        (["--data.footage.people_from_tracks", "true"], "--watch says what is read; leave out"),
        (["--watch-settle", "-1"], "expected seconds from 0 to 86400, got '-1'"),
        (["--watch"], "--watch: expected one argument"),
    ],
)
def test_flags_that_have_no_meaning_together(flags: list[str], problem: str, tmp_path: Path) -> None:
    watch = ["--recipe", "footage", "--checkpoint", "/none", "--watch", str(tmp_path), *flags]
    with pytest.raises(UsageError, match=problem):
        score.main(watch)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "no such folder, expected the one in which footage arrives"),
        (["--run.storage", "memory://runs"], "must be a folder, not a URI"),
    ],
)
def test_folders_that_cannot_be_watched(flags: list[str], problem: str, tmp_path: Path) -> None:
    folder = tmp_path / "none" if not flags else tmp_path
    watch = ["--checkpoint", "/none", "--watch", str(folder), "--run.storage", str(tmp_path / "runs"), *flags]
    with pytest.raises(InputError, match=problem):
        score.main(watch)
