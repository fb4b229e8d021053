"""A thousand inputs of the campaign of hostile inputs; and the campaign finds the faults of faulty readers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.data.hostile_campaign import Result, prepared, run_campaign
from tests.data.hostile_faults import FAULTS, HANG_SECONDS
from tests.data.hostile_kinds import KINDS
from tests.data.hostile_worker import kind_of, make_input

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as on Linux")
INPUTS, SEED = 1000, 1


@pytest.fixture(scope="module")
def result() -> Result:
    with prepared(SEED) as setup:
        return run_campaign(setup, range(INPUTS))


def test_every_input_is_read_or_refused_as_it_should_be(result: Result) -> None:
    assert sum(tally.verdicts.total() for tally in result.tallies.values()) == INPUTS
    output = "\n".join(f"{count} x {fault}" for count, fault in result.distinct_faults())
    assert not result.faults, f"{output}\n{result.table()}"


def test_each_kind_is_both_read_and_refused(result: Result) -> None:
    """If all were refused, nothing past the first look at a file would be tested."""
    for name, tally in result.tallies.items():
        assert tally.verdicts["read"] > 0, name
        assert tally.verdicts["refused"] > tally.verdicts.total() / 5, name
    assert result.tallies.keys() == KINDS.keys()


def test_faulty_readers_are_found(tmp_path: Path) -> None:
    with prepared(SEED, "tests.data.hostile_faults") as setup:
        chosen = {kind_of(setup, number): number for number in range(500)}
        assert chosen.keys() == FAULTS.keys()
        result = run_campaign(setup, sorted(chosen.values()), hang_seconds=HANG_SECONDS, kept=tmp_path)
    found = {name: dict(tally.verdicts) for name, tally in result.tallies.items()}
    assert found == {name: {verdict: 1} for name, (verdict, _) in FAULTS.items()}
    faulty = {name for name, (verdict, _) in FAULTS.items() if verdict not in ("read", "refused")}
    assert {fault.kind for fault in result.faults} == faulty
    assert Counter(fault.verdict for fault in result.faults) == Counter(FAULTS[name][0] for name in faulty)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {f"{SEED}-{chosen[name]}-{name.replace(' ', '-')}" for name in faulty}
    assert all((folder / "input" / "file.txt").is_file() for folder in tmp_path.iterdir())


def test_the_same_number_gives_the_same_input_again(tmp_path: Path) -> None:
    with prepared(SEED, "tests.data.hostile_faults") as setup:
        made = {number: make_input(setup, number, tmp_path / f"{number}") for number in range(60)}
        for number, found in made.items():
            assert make_input(setup, number, tmp_path / f"{number} again") == found
            assert seen(tmp_path / f"{number} again") == seen(tmp_path / f"{number}")
        assert len({seen(tmp_path / f"{number}") for number in made}) > 30


def seen(folder: Path) -> tuple[str, ...]:
    """The folder's files, each with its size and its beginning."""
    return tuple(
        f"{path.name} {path.lstat().st_size} {path.open('rb').read(10**6) if path.is_file() else b''!r}"
        for path in sorted(folder.iterdir())
    )


def test_the_valid_files_are_the_same_in_every_campaign() -> None:
    """An input depends on these files and on its number."""
    made = []
    for _ in range(2):
        with prepared(SEED) as setup:
            folder = setup.root / "samples"
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            made.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
