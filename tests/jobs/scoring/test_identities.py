"""identify.py's work on a stored gallery: what lasts, what is corrected, what is written, and refused input."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ccvid.config import Recipe
from ccvid.identities.evidence import learn_evidence
from ccvid.identities.persons import Persons, Question
from ccvid.identities.register import Register
from ccvid.identities.videos import draw_boxes
from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store
from ccvid.retrieval.embedding.table import EmbeddingTable, write_embeddings
from ccvid.run_files import EMBEDDINGS_FILE
from data_tools.clips import ClipOptions
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.identify import main
from ray_jobs.scoring import identities as module
from ray_jobs.scoring import identity_candidates
from ray_jobs.scoring.identities import Found, IdentityRequest, find_evidence, find_persons
from ray_jobs.scoring.identity_results import identities_table, write_footage, write_questions
from tests.data.made_footage import make_gate, mot
from tests.method.identities.made_people import DIMENSIONS, people, with_attributes

EMBEDDER = EmbedderDescription(
    model="a",
    dimensions=DIMENSIONS,
    height=32,
    width=16,
    clip=ClipOptions(),
    resize_filter="bicubic",
    flip=False,
    bf16=False,
)


def as_stored(table: EmbeddingTable) -> EmbeddingTable:
    return replace(table, model=EMBEDDER.fingerprint)


EVIDENCE = learn_evidence(as_stored(people(24, seed=99)))
PEOPLE = as_stored(people(10, 3, 2, noise=0.6, seed=5))


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return open_store(StorageFolder(str(tmp_path / "gallery")), EMBEDDER)


def run(
    store: EmbeddingStore, corrections: str | None = None, *, prior: float | None = None, **changes: object
) -> Found:
    path = None
    if corrections is not None:
        path = Path(str(store.folder)).with_name("corrections.csv")
        path.write_text(f"verdict,tracklet,other\n{corrections}")
    request = IdentityRequest(store.folder, corrections=path, **changes)  # type: ignore[arg-type]
    register = Register(store.folder)
    with register.writing():
        return find_persons(store, register, EVIDENCE, request, {}, prior)


def by_day(table: EmbeddingTable) -> list[EmbeddingTable]:
    day_N = np.array(table.rows.text("clothes").to_pylist())
    return [table.take(np.flatnonzero(day_N == day)) for day in np.unique(day_N)]


def groups(persons: Persons) -> set[frozenset[str]]:
    found: dict[int, set[str]] = {}
    for id, number in zip(persons.ids, persons.person_N.tolist(), strict=True):
        found.setdefault(number, set()).add(id)
    return {frozenset(ids) for ids in found.values()}


def person_of(found: Found, id: str) -> int:
    return int(found.persons.person_N[found.persons.ids.index(id)])


def test_tomorrows_tracklets_join_known_persons(store: EmbeddingStore) -> None:
    numbers: dict[str, int] = {}
    merged: dict[int, int] = {}
    for day in by_day(PEOPLE):
        store.add(day)
        found = run(store)
        merged |= {event.person: event.into for event in found.events if event.into is not None}
        for id, number in numbers.items():
            assert person_of(found, id) == merged.get(number, number), "a number changes only with a record"
        numbers = dict(zip(found.persons.ids, found.persons.person_N.tolist(), strict=True))
    assert len(set(numbers.values())) < 3 * 10
    assert run(store).events == [], "nothing is new"
    assert Register(store.folder).events()


def test_parts_of_the_gallery_and_restarts_do_not_matter(store: EmbeddingStore, tmp_path: Path) -> None:
    store.add(PEOPLE)
    whole = run(store)
    other = open_store(StorageFolder(str(tmp_path / "other")), EMBEDDER)
    order = np.random.default_rng(0).permutation(len(PEOPLE.rows))
    for part in np.array_split(order, 7):
        other.add(PEOPLE.take(np.sort(part)))
    again = run(other)
    assert again.persons.table().equals(whole.persons.table())
    assert again.questions == whole.questions


def test_batches_end_nearly_the_same(store: EmbeddingStore, tmp_path: Path) -> None:
    """Order can change which of two doubtful joins comes first, and nothing that is sure."""
    store.add(PEOPLE)
    whole = groups(run(store).persons)
    other = open_store(StorageFolder(str(tmp_path / "other")), EMBEDDER)
    for day in reversed(by_day(PEOPLE)):
        other.add(day)
        last = run(other)
    same = groups(last.persons) & whole
    assert sum(map(len, same)) >= 0.8 * len(PEOPLE.rows)


def test_corrections_are_obeyed_for_ever(store: EmbeddingStore) -> None:
    store.add(PEOPLE)
    first = run(store)
    together = next(sorted(group) for group in sorted(groups(first.persons), key=min) if len(group) > 1)
    apart = next(id for id in first.persons.ids if id not in together)
    rows = f"different,{together[0]},{together[1]}\nsame,{together[0]},{apart}\nname,{apart},Anna\n"
    second = run(store, rows)
    assert person_of(second, together[0]) == person_of(second, apart) != person_of(second, together[1])
    assert second.persons.names == {person_of(second, apart): "Anna"}
    assert {"split", "merged", "named"} & {event.event for event in second.events}
    again = run(store)
    assert again.persons.table().equals(second.persons.table())
    assert again.events == []
    back = run(store, f"same,{together[0]},{together[1]}\nundecided,{together[0]},{apart}\n")
    assert person_of(back, together[0]) == person_of(back, together[1])


def test_what_was_removed_is_forgotten(store: EmbeddingStore) -> None:
    store.add(PEOPLE)
    run(store, "name,p001/o0/0,Bea\nsame,p001/o0/0,p001/o1/0\n")
    store.remove(persons=["P1"])
    found = run(store)
    assert not any(id.startswith("p001") for id in found.persons.ids)
    assert "Bea" not in found.persons.names.values()
    assert Register(store.folder).corrections().ids() == set()


def test_who_is_in_view_together_stays_apart_also_in_another_run(store: EmbeddingStore) -> None:
    times = {"video": "gate", "start_seconds": "0", "end_seconds": "9"}
    table = as_stored(with_attributes(people(3, 1, 2, noise=0.0), {"p000/o0/0": times, "p000/o0/1": times}))
    for part in (table.take([0, 2, 3, 4, 5]), table.take([1])):
        store.add(part)
        found = run(store)
    assert person_of(found, "p000/o0/0") != person_of(found, "p000/o0/1")
    assert person_of(found, "p001/o0/0") == person_of(found, "p001/o0/1")


def test_only_some_tracklets_of_large_persons_are_compared(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_COMPARED", 3)
    crowd = as_stored(people(2, 1, 30, noise=0.3, days=False))
    store.add(crowd.take(range(0, 60, 2)))
    before = run(store)
    assert len(groups(before.persons)) == 2
    store.add(crowd.take(range(1, 60, 2)))
    after = run(store, neighbours=2)
    assert len(after.met) < 60
    assert len(groups(after.persons)) == 2
    assert len(after.persons) == 60


@pytest.mark.parametrize("videos", [False, True])
def test_neighbours_that_cannot_matter_change_nothing(
    store: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, videos: bool
) -> None:
    """Whether new tracklets begin where known ones in the same videos ended, or not."""
    times = {"video": "gate", "start_seconds": "0", "end_seconds": "9", "last_box": "0,0,10,20"}
    after = {**times, "start_seconds": "9.5", "end_seconds": "12", "first_box": "1,0,10,20"}
    made = people(30, 3, 2, noise=0.7, seed=5)
    seen = {id: after if "/o2/" in id else times for id in made.rows.text("id").to_pylist() if "/o1/" not in id}
    *days, last = by_day(as_stored(with_attributes(made, seen if videos else {})))
    other = open_store(StorageFolder(str(tmp_path / "other")), EMBEDDER)
    asked: Sequence[Question] = []
    for day in (*days, last.take(np.arange(4))):
        store.add(day)
        found = run(store)
        other.add(day)
        with monkeypatch.context() as every:
            every.setattr(identity_candidates, "DOUBTFUL", 1000.0)
            whole = run(other)
        assert found.persons.table().equals(whole.persons.table())
        assert found.met <= whole.met
        assert set(whole.questions) <= set(found.questions) <= {*whole.questions, *asked}, "others stay open"
        asked = found.questions
    assert videos or len(found.met) < len(whole.met)


def test_tables_and_questions(store: EmbeddingStore, tmp_path: Path) -> None:
    store.add(as_stored(people(10, 3, 2, noise=1.1, seed=5)))
    found = run(store)
    table = identities_table(found)
    assert table.num_rows == 60
    assert table["person"].to_pylist() == found.persons.person_N.tolist()
    assert set(table["camera"].to_pylist()) == {"c0", "c1"}
    assert table["start_time"][0].as_py() == "2026-11-02T08:00:00.000+00:00"
    assert all(table["met"].to_pylist())
    assert found.questions
    write_questions(found.questions, tmp_path / "questions.csv")
    with (tmp_path / "questions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["tracklet"], row["other"]) for row in rows] == [(q.first, q.second) for q in found.questions]


def test_questions_stay_until_they_are_answered(store: EmbeddingStore) -> None:
    store.add(as_stored(people(10, 3, 2, noise=1.1, seed=5)))
    first = run(store)
    assert run(store).questions == first.questions
    asked = first.questions[0]
    verdict = "different" if asked.together else "same"
    left = run(store, f"{verdict},{asked.first},{asked.second}\n").questions
    assert asked not in left
    assert left


def test_tracks_and_videos_of_footage(store: EmbeddingStore, tmp_path: Path) -> None:
    folder = tmp_path / "footage"
    make_gate(folder)
    (folder / "gate.txt").write_text(mot(3, range(1, 20)) + mot(8, range(21, 40)) + mot(9, range(1, 3)))
    tracklets = read_footage(FootageOptions(videos=folder, minimum_length=4)).tracklets
    table = people(1, 1, 2)
    rows = [replace(row, id=one.id) for row, one in zip(table.rows, tracklets, strict=True)]
    store.add(as_stored(EmbeddingTable(type(table.rows).of(rows), table.embedding_ND, table.model)))
    found = run(store, "same,gate/3,gate/8\nname,gate/3,Anna\n")
    request = IdentityRequest(store.folder, tracks="replace", annotate=("gate",))
    write_footage(found, tracklets, request, tmp_path / "out")
    new = (tmp_path / "out" / "tracks" / "gate.txt").read_text().splitlines()
    assert {line.split(",")[1] for line in new} == {"1", "1000000009"}
    assert len(new) == 19 + 19 + 2
    import av

    with av.open(str(tmp_path / "out" / "annotated" / "gate.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 60
    assert frames[5][12:52, 10:30].std() > 5 > frames[55].std(), "a box is drawn where the person is"
    picture = np.random.default_rng(0).integers(0, 256, frames[0].shape, np.uint8)
    hidden, shown = (draw_boxes(picture, [((10, 12, 20, 40), 1, "1")], hide_heads=hide) for hide in (True, False))
    assert (
        len(np.unique(hidden[13:24, 12:28].reshape(-1, 3), axis=0))
        <= 8
        < len(np.unique(shown[13:24, 12:28].reshape(-1, 3), axis=0))
    )
    np.testing.assert_array_equal(hidden[40:50, 12:28], shown[40:50, 12:28])
    with pytest.raises(InputError, match="--annotate 'yard': no such video with tracklets; there are gate"):
        write_footage(found, tracklets, replace(request, annotate=("yard",)), tmp_path / "out")
    other = Found(found.rows, Persons(), (), (), frozenset())
    with pytest.raises(InputError, match="holds no tracklet of this footage"):
        write_footage(other, tracklets, request, tmp_path / "out")


def test_evidence_is_needed_once(store: EmbeddingStore, tmp_path: Path) -> None:
    register, results = Register(store.folder), StorageFolder(str(tmp_path / "results"))
    with pytest.raises(InputError, match="has no persons yet, so --calibration is needed"):
        find_evidence(register, None)
    with pytest.raises(InputError, match=r"no embeddings\.parquet; give results"):
        find_evidence(register, results)
    Path(str(results)).mkdir()
    write_embeddings([as_stored(people(24, seed=99))], Path(str(results)) / EMBEDDINGS_FILE)
    assert find_evidence(register, results).curves == EVIDENCE.curves
    store.add(PEOPLE)
    run(store)
    assert find_evidence(register, None).curves == EVIDENCE.curves


def test_refused_input(store: EmbeddingStore) -> None:
    with pytest.raises(InputError, match="has no tracklets"):
        run(store)
    store.add(PEOPLE)
    run(store, "same,p000/o0/0,p000/o0/1\n")
    before = Register(store.folder).persons()
    with pytest.raises(InputError, match=r"corrections\.csv:2: .* are different, but the same by"):
        run(store, "different,p000/o0/0,p000/o0/1\nname,p000/o0/0,A\nname,p000/o0/1,A\n")
    assert Register(store.folder).persons().table().equals(before.table())


def test_a_gallery_too_large_for_the_evidence_is_told(
    store: EmbeddingStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add(PEOPLE)
    found = run(store, prior=1e-7)
    assert len(groups(found.persons)) == len(PEOPLE.rows)
    assert (
        "no resemblance makes one person probable, because the labelled pairs show odds of at most"
        in capsys.readouterr().out
    )


def test_corrections_of_unknown_tracklets_are_told(store: EmbeddingStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.add(PEOPLE)
    run(store, "same,p000/o0/0,nobody/1\n")
    assert "corrections: 1 tracklets are not in" in capsys.readouterr().out
    assert Register(store.folder).corrections().ids() == set()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "--gallery is required"),
        (["--gallery=/g", "--tracks=beside", "--data.kind=ccvid", "--data.root=/d"], "--data.kind is ccvid"),
        (["--gallery", "/g", "--tracks", "both"], "invalid choice: 'both'"),
        (["--gallery", "/g", "--neighbours", "0"], "expected a whole number from 1 to 1000"),
    ],
)
def test_wrong_flags(flags: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        main(flags)


def test_a_training_runs_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(InputError, match="contains a training run"):
        module.identify_gallery(Recipe(), IdentityRequest(StorageFolder("/g")), StorageFolder(str(tmp_path / "run")))


def test_the_table_that_users_get_is_parquet(store: EmbeddingStore, tmp_path: Path) -> None:
    store.add(PEOPLE)
    pq.write_table(identities_table(run(store)), tmp_path / "identities.parquet")
    names = pq.read_schema(tmp_path / "identities.parquet").names
    assert names[:6] == ["id", "person", "outfit", "confidence", "name", "camera"]
