"""identify.py on a cluster: a day at a time, killed and run again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ccvid.identities.register import Register
from ccvid.retrieval.embedding.store import open_store
from ccvid.retrieval.embedding.table import write_embeddings
from ccvid.run_files import EMBEDDINGS_FILE, IDENTITIES_FILE
from data_tools.storage import StorageFolder
from tests.jobs.breaking import expect_success
from tests.jobs.head import Head
from tests.jobs.scoring.test_identities import EMBEDDER, PEOPLE, as_stored, by_day, run
from tests.method.identities.made_people import people

pytestmark = pytest.mark.slow


def killed_while_searching(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    output = ""
    while "neighbours of" not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    process.kill()
    process.communicate()


def test_days_killed_and_run_again(head: Head, tmp_path: Path) -> None:
    write_embeddings([as_stored(people(24, seed=99))], tmp_path / EMBEDDINGS_FILE)
    flags = ["--gallery", str(tmp_path / "gallery"), "--score.report", "false"]
    flags += ["--run.storage", str(tmp_path), "--run.name", "who"]
    store, undisturbed = (open_store(StorageFolder(str(tmp_path / name)), EMBEDDER) for name in ("gallery", "other"))
    register = Register(store.folder)
    first_day, second_day, _ = by_day(PEOPLE)

    for each in (store, undisturbed):
        each.add(first_day)
    expect_success(head.run("identify.py", *flags, "--calibration", str(tmp_path)))
    known = register.persons()
    assert known.table().equals(run(undisturbed).persons.table())

    for each in (store, undisturbed):
        each.add(second_day)
    killed_while_searching(head.start("identify.py", *flags))
    assert register.persons().table().equals(known.table())
    output = expect_success(head.run("identify.py", *flags))
    found = run(undisturbed)
    assert f"{len(set(found.persons.person_N.tolist()))} persons of {len(found.persons)} tracklets" in output
    assert register.persons().table().equals(found.persons.table())
    assert [event.model_copy(update={"time": None}) for event in register.events()] == [
        event.model_copy(update={"time": None}) for event in Register(undisturbed.folder).events()
    ]
    written = pq.read_table(tmp_path / "who" / IDENTITIES_FILE, columns=["id", "person", "outfit", "confidence"])
    assert written.equals(found.persons.table().select(written.column_names))

    merged = {event.person: event.into for event in found.events if event.into is not None}
    number_of = dict(zip(found.persons.ids, found.persons.person_N.tolist(), strict=True))
    for id, number in zip(known.ids, known.person_N.tolist(), strict=True):
        assert number_of[id] == merged.get(number, number), "a number changes only with a record"
