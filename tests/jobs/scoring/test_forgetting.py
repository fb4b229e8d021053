"""Forgetting: no byte of a person is left in any file, a kill is completed, and the certificate is true."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ccvid.config import DataOptions, Recipe, RunOptions
from ccvid.identities.corrections import Corrections
from ccvid.identities.persons import Grouped, Persons, Question, renewed
from ccvid.identities.register import Register
from ccvid.retrieval.embedding.store import EmbeddingStore, open_store
from ccvid.retrieval.embedding.table import (
    EmbeddingRow,
    EmbeddingRows,
    EmbeddingTable,
    read_embeddings,
    write_embeddings,
)
from ccvid.retrieval.gallery import approximate_search
from ccvid.retrieval.gallery.matches import write_matches
from ccvid.retrieval.gallery.part_search import keep_indexes
from ccvid.retrieval.report.mosaic import HeadHiding
from ccvid.retrieval.report.stored_pictures import StoredPictures
from data_tools.datasets.arrivals import Arrival
from data_tools.datasets.problems import Dataset
from data_tools.errors import InputError
from data_tools.line_file import LineFile
from data_tools.manifest import MANIFEST_NAME, QuarantinedTracklet, read_manifest, to_json
from data_tools.shard_cache import CacheOptions, open_shards
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from data_tools.tracklet import ImageFrames, Tracklet
from ray_jobs import score
from ray_jobs.cli import write_config
from ray_jobs.scoring.forgetting import JOURNAL_FILE, ForgetRequest, forget
from ray_jobs.scoring.gallery import find_queries, rank, write_pages
from ray_jobs.scoring.live_matches import NAMES, MatchLines
from ray_jobs.scoring.watch_log import WatchLog
from tests.data.test_shards import contents, small
from tests.jobs.breaking import expect_success
from tests.jobs.head import Head
from tests.jobs.scoring.test_gallery_scoring import EMBEDDER, REQUEST
from tests.made_shards import make_shards
from tests.method.identities.made_people import learnt
from tests.s3_server import S3Server
from tests.storage_kills import KilledError, killed_at

PEOPLE = {"Ada Byron": 2, "Grace Murray": 3, "Mary Keller": 2}
"""Everybody's number of tracklets."""
ADA = ("north-gate/Ada1", "north-gate/Ada2")
DIMENSIONS, WINDOW = 64, 24


@dataclass
class World:
    """Shards, a gallery of them and a run folder with everything that jobs write about tracklets."""

    root: Path

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def results(self) -> StorageFolder:
        return StorageFolder(str(self.root / "runs" / "run"))

    @property
    def recipe(self) -> Recipe:
        cache = CacheOptions(folder=self.root / "cache")
        return Recipe(run=RunOptions(name="run", storage=str(self.root / "runs")), data=DataOptions(cache=cache))

    @property
    def store(self) -> EmbeddingStore:
        return open_store(self.results / "gallery", replace_dimensions())

    def forget(self, **asked: Any) -> dict[str, Any]:
        """Returns the certificate."""
        forget(self.recipe, self.store.folder, self.results, ForgetRequest(**asked))
        name = max(name for name in self.results.names() if name.startswith("forgotten"))
        certificate: dict[str, Any] = json.loads(self.results.read(name))
        return certificate

    def files(self) -> dict[str, bytes]:
        """Every file, without those that only locks and times make differ."""
        files = (path for path in sorted(self.root.rglob("*")) if path.is_file())
        left_out = (".lock", ".watching", ".removing")
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files if path.name not in left_out}

    def traces(self) -> list[str]:
        """Where something of Ada is: her name, her ids, her embeddings, or parts of her frames."""
        secrets = {b"Ada Byron": "name", **{id.encode(): "id" for id in ADA}}
        for number, id in enumerate(ids()):
            if id in ADA:
                secrets[embedding(number).tobytes()[:WINDOW]] = secrets[embedding(number).tobytes()[-WINDOW:]] = (
                    "values"
                )
                for frame in range(3):
                    encoded = jpeg(number, frame)
                    for start in range(len(encoded) // 2, len(encoded) - WINDOW, 200):  # behind the tables
                        secrets[encoded[start : start + WINDOW]] = "frame"
        found = ((file, what) for file, content in self.files().items() for s, what in secrets.items() if s in content)
        return sorted({f"{what} in {file}" for file, what in found})


def ids() -> list[str]:
    return [f"north-gate/{person.split()[0]}{n}" for person, count in PEOPLE.items() for n in range(1, count + 1)]


def replace_dimensions() -> Any:
    return EMBEDDER.model_copy(update={"dimensions": DIMENSIONS})


def embedding(number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    values_D = np.random.default_rng(number).normal(size=DIMENSIONS)
    return (values_D / np.linalg.norm(values_D)).astype(np.float32)


def jpeg(number: int, frame: int) -> bytes:
    """A frame of 32x16 as its file has it, which no other frame resembles."""
    pixels = np.random.default_rng([number, frame]).integers(0, 256, (32, 16, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def dataset(root: Path) -> Dataset:
    persons = [person for person, count in PEOPLE.items() for _ in range(count)]
    tracklets = []
    for number, (id, person) in enumerate(zip(ids(), persons, strict=True)):
        folder = root / "pictures" / str(number)
        folder.mkdir(parents=True)
        for frame in range(3):
            (folder / f"{frame}.jpg").write_bytes(jpeg(number, frame))
        day = {"start_time": f"2026-11-0{number + 1}T08:00:00.000+00:00"} if number < 6 else {}
        split: Any = "query" if number == 6 else "train" if number == 1 else "gallery"
        source = ImageFrames(folder, tuple(f"{frame}.jpg" for frame in range(3)))
        tracklets.append(Tracklet(id, person, "coat", "gate", split, source, (0, 1, 2), {"video": "north-gate", **day}))
    return Dataset("made", tuple(tracklets), ())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "world"
    world = World(root)
    data = dataset(root.parent)
    make_shards(data, world.shards, small(format="source", shard_mebibytes=0.005))
    place = StorageFolder(str(world.shards))
    refused = [QuarantinedTracklet(tracklet=id, origin="tracks.csv:7", reason="cut off") for id in ("x", ADA[0])]
    manifest = read_manifest(place).model_copy(update={"quarantine": tuple(refused)})
    assert len(manifest.shards) > 3
    place.write(MANIFEST_NAME, to_json(manifest))
    fill(world)
    return root


def fill(world: World) -> None:
    stored = ShardFolder(world.shards)
    rows = [number for number, row in enumerate(stored.rows) if row.split != "train"]
    labels = EmbeddingRows.of(
        EmbeddingRow(
            row.id, row.person, row.clothes, row.camera, row.split, row.attributes, 1, stored.fingerprint(number)
        )
        for number, row in ((number, stored.rows[number]) for number in rows)
    )
    store = world.store
    table = EmbeddingTable(labels, np.stack([embedding(number) for number in rows]), store.embedder.fingerprint)
    for half in (range(3), range(3, len(rows))):
        store.add(table.take(half))
    store.add_source(str(world.shards))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(approximate_search, "LEAST_ROWS", 1)
        keep_indexes(store.parts)
    (local,) = [folder for folder in [store.folder.local] if folder]
    shutil.copyfile(local / store.parts.names()[0], local / f".{store.parts.names()[0]}.abc.tmp")  # of a killed writer
    (local.parent / ".report.abc.tmp" / "new" / "pictures").mkdir(parents=True)
    (local.parent / ".report.abc.tmp" / "new" / "pictures" / "0.jpg").write_bytes(jpeg(0, 2))
    (world.shards / ".shard-00000.arrow.abc.tmp").write_bytes(jpeg(1, 0))
    request = replace(REQUEST, gallery=store.folder)
    matches, ranked = rank(find_queries(request, store), store, request, frozenset())
    folder = local.parent
    write_matches(matches, folder)
    write_pages(matches, ranked, StoredPictures([stored], HeadHiding(False)), request, store.folder, None, folder)
    write_tables(table, folder)
    watched(folder)


def write_tables(table: EmbeddingTable, folder: Path) -> None:
    """What other jobs and people keep about tracklets."""
    names = table.rows.text("person").combine_chunks().dictionary_encode()
    pq.write_table(pa.table({"id": table.rows.text("id"), "person_name": names}), folder / "gallery/identities.parquet")
    decisions = f'first,second,verdict\n{ADA[0]},{ids()[3]},no\n"{ids()[2]}",{ids()[3]},yes\n'
    (folder / "decisions.csv").write_text(decisions)
    lines = [{"merged": [1, 2], "members": list(ADA)}, {"merged": [3, 4], "members": ids()[2:4]}]
    write_embeddings([table], folder / "embeddings.parquet")
    open_store(StorageFolder(str(folder / "embeddings")), replace_dimensions()).add(table)  # of a killed evaluation
    (folder / "rankings_general.png").write_bytes(jpeg(0, 1))
    (folder / "gallery" / "record.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = tuple(sorted(table.rows.values("id")))
    groups = Grouped(
        known,
        np.array([0 if id in ADA else 1 for id in known]),
        np.ones(len(known), np.int64),
        np.full(len(known), 0.9),
        np.full(len(known), np.inf),
    )
    persons, events = renewed(Persons(), groups, {id: "Ada Byron" for id in ADA if id in known})
    corrections = Corrections().with_rows([("same", *ADA, "f:1"), ("different", ADA[0], ids()[3], "f:2")])
    register = Register(StorageFolder(str(folder / "gallery")))
    with register.writing():
        register.write(persons, events, [Question(ADA[0], ids()[2], 0.4, False, 0.4)], corrections, learnt())
    for name in ("tracks", "annotated"):
        (folder / name).mkdir()
        (folder / name / "north-gate").write_bytes(jpeg(0, 0))


def watched(folder: Path) -> None:
    log = WatchLog(folder / "watched.jsonl")
    arrival = Arrival(name="north-gate", video=Path("/v/north-gate.mp4"), tracks=Path("/v/north-gate.txt"), state="s")
    log.take([arrival])
    match = dict.fromkeys(NAMES) | {"query_id": ids()[6]}
    _, end = MatchLines(LineFile(folder / "matches.jsonl"), 0).add(match | {"gallery_id": id} for id in ids()[:4])
    log.refuse(arrival, f"duplicate tracklet id {ADA[1]} in one batch")
    log.finish(tracklets=4, unreadable=0, matches=4, matches_end=end)
    with (folder / "watched.jsonl").open("a") as file:
        file.write(f'{{"event": "refused", "problem": "tracklet {ADA[0]} is')  # torn by a kill


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    """A copy that lies at another place."""
    root = Path(shutil.copytree(made, tmp_path / "world"))
    sources = root / "runs" / "run" / "gallery" / "sources.json"
    sources.write_text(json.dumps([str(root / "shards")]))
    return World(root)


def test_no_byte_of_a_person_is_left(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    before = world.files()
    places = {trace.partition(" in ")[2].partition("/")[0] for trace in world.traces()}
    assert places == {"runs", "shards"}
    assert {trace.partition(" in ")[0] for trace in world.traces()} == {"name", "id", "values", "frame"}
    certificate = world.forget(persons=["Ada Byron"])
    assert world.traces() == []
    assert world.results.name == "run"
    after = world.files()
    for name in ("runs/run/matches.csv", "runs/run/report/index.html"):
        assert name in before.keys() - after.keys()
    assert after["runs/run/decisions.csv"] == f'first,second,verdict\n"{ids()[2]}",{ids()[3]},yes\n'.encode()
    assert [json.loads(line)["merged"] for line in after["runs/run/gallery/record.jsonl"].splitlines()] == [[3, 4]]
    assert pq.read_table(world.root / "runs/run/gallery/identities.parquet")["id"].to_pylist() == ids()[2:]
    assert world.store.read().rows.values("id") == sorted(ids()[2:])
    scored = read_embeddings(world.root / "runs/run/embeddings.parquet", model=world.store.embedder.fingerprint)
    assert scored.rows.values("id") == ids()[2:]
    stored = ShardFolder(world.shards)
    assert stored.rows.values("id") == ids()[2:]
    assert [entry.tracklet for entry in stored.manifest.quarantine] == ["x"]
    for row, number in enumerate(range(2, 7)):  # and nobody else lost a byte
        assert [frame.tobytes() for frame in stored.encoded_frames(row, range(3))] == [
            jpeg(number, frame) for frame in range(3)
        ]
        assert StoredPictures([stored], HeadHiding(False)).of(world.store.read().rows)(row)
    np.testing.assert_array_equal(world.store.read().embedding_ND, [embedding(number) for number in range(2, 7)])
    unchanged = [name for name in before if name in after and before[name] == after[name]]
    assert any(name.startswith("shards/shard-00002") for name in unchanged)
    events = [json.loads(line) for line in after["runs/run/watched.jsonl"].splitlines()]
    assert [event["event"] for event in events] == ["taken", "refused", "done", "pruned"]
    assert events[1]["problem"] == "the reason named somebody who was forgotten"
    output = capsys.readouterr().out
    assert "removed 2 tracklets of Ada Byron" in output
    assert f"certificate: {world.results}/forgotten-" in output
    assert sorted(certificate["tracklets"]) == sorted(sha256(id.encode()).hexdigest() for id in ADA)


def test_the_certificate_tells_what_was_removed_where(world: World) -> None:
    before = world.files()
    certificate = world.forget(persons=["Ada Byron"])
    after = world.files()
    removed = {str(Path(each["place"]).relative_to(world.root)): each for each in certificate["removed"]}
    for name, each in removed.items():
        if name in before:
            assert (each["bytes"], each["sha256"]) == (len(before[name]), sha256(before[name]).hexdigest())
        now = each["after"]
        assert (now is None) == (name not in after)
        if now is not None and name in after:
            assert (now["bytes"], now["sha256"]) == (len(after[name]), sha256(after[name]).hexdigest())
    folders = tuple(f"{name}/" for name in removed if name not in before)
    assert {*folders} == {f"runs/run/{name}/" for name in ("report", ".report.abc.tmp", "tracks", "annotated")}
    changed = {name for name in before if not name.startswith(folders) and after.get(name) != before[name]}
    assert changed == {name for name in removed if f"{name}/" not in folders}
    assert (
        removed["shards/shard-00000.arrow"]["rows"] + removed.get("shards/shard-00001.arrow", {"rows": 0})["rows"] == 2
    )
    assert removed["runs/run/matches.jsonl"]["rows"] == 2
    written = {str(Path(each["place"]).relative_to(world.root)): each for each in certificate["written"]}
    assert {name for name in after if name not in before} == {
        *written,
        *(name for name in after if "forgotten-" in name),
    }
    for name, each in written.items():
        assert each["sha256"] == sha256(after[name]).hexdigest()
    assert (certificate["persons"], certificate["before"]) == (1, None)
    assert certificate["begun"] <= certificate["finished"]
    assert "Ada" not in json.dumps(certificate)


def test_again_there_is_nothing_to_forget(world: World) -> None:
    world.forget(persons=["Ada Byron"])
    settled = world.files()
    for asked, unknown in (
        ({"persons": ["Ada Byron"]}, "Ada Byron"),
        ({"ids": [ADA[0]]}, ADA[0]),
        ({"persons": ["Mary Keller", "nobody"], "ids": ["nothing", ids()[3]]}, "nobody, nothing"),  # no half of it
    ):
        with pytest.raises(InputError, match=f"gallery: has no tracklets of {unknown}, nor have its shards"):
            world.forget(**asked)
    assert world.files() == settled
    store = world.store
    assert store.missing(dict.fromkeys(ADA, "another shard")) == frozenset()  # nor does sharding again bring her back


def test_single_tracklets_and_those_that_are_only_in_the_shards(world: World) -> None:
    world.forget(ids=[ADA[1]])  # of split train
    assert ShardFolder(world.shards).rows.values("id") == [ADA[0], *ids()[2:]]
    assert world.store.read().rows.values("id") == sorted([ADA[0], *ids()[2:]])
    assert [trace for trace in world.traces() if trace.startswith("name")]
    world.forget(ids=[ADA[0], ids()[4]])
    assert world.traces() == []
    assert ShardFolder(world.shards).manifest.persons == ("Grace Murray", "Mary Keller")


def test_forgetting_by_time(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    limit = datetime(2026, 11, 3, 8, tzinfo=UTC)
    certificate = world.forget(before=limit)
    assert ShardFolder(world.shards).rows.values("id") == ids()[2:]  # the third began just then
    assert world.store.read().rows.values("id") == sorted(ids()[2:])
    assert (certificate["before"], certificate["without_start_time"]) == ("2026-11-03T08:00:00.000+00:00", 1)
    assert "1 tracklets have no start time and stay" in capsys.readouterr().out
    assert [trace for trace in world.traces() if not trace.startswith("name")] == []
    settled = world.files()
    forget(world.recipe, world.store.folder, world.results, ForgetRequest(before=limit))
    assert world.files() == settled
    storage = ["--run.storage", str(world.root / "runs"), "--run.name", "run"]
    score.main([*storage, "--forget-before", "2026-11-06T09:00+02:00"])
    assert ShardFolder(world.shards).rows.values("id") == ids()[5:]
    with pytest.raises(InputError, match=r"--forget-before: 'yesterday' is not a time, expected one like"):
        score.main([*storage, "--forget-before", "yesterday"])


def test_a_person_whom_only_a_table_names(world: World) -> None:
    table = pa.table({"id": [*ADA, ids()[5]], "person": [7, 7, 8], "name": ["Countess", "Countess", None]})
    pq.write_table(table, world.root / "runs/run/gallery/names.parquet")
    world.forget(persons=["Countess"])
    assert [trace for trace in world.traces() if not trace.startswith("name")] == []
    assert ShardFolder(world.shards).rows.values("id") == ids()[2:]
    assert pq.read_table(world.root / "runs/run/gallery/names.parquet")["person"].to_pylist() == [8]


def test_a_kill_at_any_moment_is_completed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Path(shutil.copytree(world.root, tmp_path / "kept"))
    with killed_at(-1, monkeypatch) as steps:
        certificate = world.forget(persons=["Ada Byron"])
    expected = comparable(world)
    assert len(steps) > 15
    for step in range(len(steps)):
        shutil.rmtree(world.root)
        shutil.copytree(kept, world.root)
        with killed_at(step, monkeypatch), pytest.raises(KilledError):
            world.forget(persons=["Ada Byron"])
        world.store.read()
        assert len(ShardFolder(world.shards).rows) in (5, 7)
        if step < len(steps) - 1:  # before the last step the certificate is not there
            assert not any("forgotten-" in name for name in world.results.names())
        completed = world.forget(persons=["Ada Byron"])
        assert world.traces() == []
        assert comparable(world) == expected
        assert timeless(completed) == timeless(certificate)
        assert JOURNAL_FILE not in world.results.names()


def timeless(certificate: dict[str, Any]) -> list[object]:
    removed = [
        each | {"after": None} if each["place"].endswith("watched.jsonl") else each for each in certificate["removed"]
    ]
    return [removed, certificate["tracklets"], certificate["persons"], certificate["written"]]


def comparable(world: World) -> dict[str, bytes]:
    """All files but those that tell a time."""
    timed = ("forgotten-", "watched.jsonl")
    return {name: content for name, content in world.files().items() if not any(part in name for part in timed)}


def test_other_copies_are_named(world: World) -> None:
    runs = world.root / "runs"
    data = DataOptions(shards=str(world.shards), root=Path("/data/released"), kind="ccvid")
    trained = Recipe(data=data)
    (runs / "trained").mkdir()
    (runs / "trained" / "config.yaml").write_text(write_config(trained))
    (runs / "scored").mkdir()
    (runs / "scored" / "metrics.json").write_text(json.dumps({"shards": str(world.shards)}))
    (runs / "elsewhere").mkdir()
    (runs / "elsewhere" / "metrics.json").write_text(json.dumps({"shards": "/others"}))
    other = open_store(StorageFolder(str(runs / "second" / "gallery")), replace_dimensions())
    other.add_source(str(world.shards))
    world.store.add_source(str(world.root / "gone"))
    forget(
        trained.model_copy(update={"run": world.recipe.run}),
        world.store.folder,
        world.results,
        ForgetRequest(persons=["Ada Byron"]),
    )
    (name,) = (name for name in world.results.names() if name.startswith("forgotten"))
    copies = {copy["place"]: copy["what"] for copy in json.loads(world.results.read(name))["not_reached"]}
    assert copies["/data/released"].startswith("videos or pictures that the shards were made from")
    assert copies[str(runs / "trained")].startswith("weights trained on these shards")
    assert copies[str(runs / "scored")].startswith("embeddings, pages and pictures of an evaluation")
    assert copies[str(runs / "second" / "gallery")].startswith("another gallery of these shards")
    assert copies[str(world.root / "gone")].startswith("shards that are no longer where")
    assert str(runs / "elsewhere") not in copies


def test_damage_is_told_before_anything_is_removed(world: World) -> None:
    index = world.shards / "index.arrow"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    settled = contents(world.shards), world.files()
    with pytest.raises(InputError, match=r"index\.arrow: SHA-256"):
        world.forget(persons=["Ada Byron"])
    assert (contents(world.shards), world.files()) == settled
    with pytest.raises(InputError, match="not an embedding store"):
        forget(world.recipe, StorageFolder(str(world.root / "none")), world.results, ForgetRequest(ids=["x"]))


@pytest.mark.slow
def test_shards_on_object_storage_and_the_nodes_copies(world: World, s3: S3Server, head: Head) -> None:
    place, cache = StorageFolder(s3.bucket()) / "data", world.root / "cache"
    place.upload_folder(world.shards, last=MANIFEST_NAME)
    shutil.rmtree(world.shards)
    sources = world.root / "runs" / "run" / "gallery" / "sources.json"
    sources.write_text(json.dumps([str(place)]))
    opened = open_shards(str(place), CacheOptions(folder=cache))
    assert any("in cache/" in trace for trace in world.traces())
    command = ["--run.storage", str(world.root / "runs"), "--run.name", "run", "--data.cache.folder", str(cache)]
    command += ["--remove-person", "Ada Byron"]
    refused = head.run("score.py", *command)
    assert refused.returncode == 1
    assert f"{opened.folder}: still holds copies of shards on the nodes, because it is in use" in refused.stderr
    assert {trace.partition(" in ")[2].partition("/")[0] for trace in world.traces()} == {
        "cache",
        "runs",
    }  # its journal
    assert opened._in_use is not None
    opened._in_use.close()
    output = expect_success(head.run("score.py", *command))
    assert "completing a removal that was interrupted" in output
    assert world.traces() == []
    remote = b"".join(place.read(name) for name in place.names())
    assert not any(secret in remote for secret in (b"Ada Byron", ADA[0].encode(), jpeg(0, 0)[-WINDOW:]))
    (name,) = (name for name in world.results.names() if name.startswith("forgotten"))
    certificate = json.loads(world.results.read(name))
    copies = [each for each in certificate["removed"] if each["what"] == "copies of shards on the nodes"]
    assert [(copy["place"].endswith(f":{opened.folder}"), copy["after"]) for copy in copies] == [(True, None)]
    assert any("earlier versions of objects" in copy["what"] for copy in certificate["not_reached"])
    assert len(open_shards(str(place), CacheOptions(folder=cache)).rows) == 5
