"""Embedding with Ray Data: a killed run does only what is missing; what cannot be read is left out."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ccvid.retrieval.embedding.store import read_store
from ccvid.retrieval.embedding.table import read_embeddings
from data_tools.manifest import MANIFEST_NAME
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from tests.jobs.breaking import expect_success
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import Head
from tests.method.test_trained_model import checkpoint
from tests.processes import PATIENCE_SECONDS, wait_for

pytestmark = pytest.mark.slow


def overwrite_a_frame(shards: Path) -> str:
    """Damage the first frame of one query tracklet and update the manifest's checksum; returns its id."""
    store = ShardFolder(shards)
    row = next(number for number, row in enumerate(store.rows) if row.split == "query" and row.person is not None)
    frame = store.encoded_frames(row, [0])[0].tobytes()
    file = shards / store.manifest.shards[store.rows[row].shard].file
    content = file.read_bytes()
    assert content.count(frame) == 1
    file.write_bytes(content.replace(frame, frame[:20] + bytes(len(frame) - 20)))
    return store.rows[row].id


def _with_an_actor_killed(head: Head, evaluate: list[str], parts: Path) -> subprocess.CompletedProcess[str]:
    """Run evaluate.py, and kill the process of its embedding actor once it has written a part."""
    before = len(list(parts.glob("part-*")))
    process = head.start("evaluate.py", *evaluate)
    wait_for(lambda: len(list(parts.glob("part-*"))) > before or process.poll() is not None, "another part")
    actor = next(pid for pid in head.processes() if "MapWorker" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(actor, signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    print(f"killed actor {actor}")
    return subprocess.CompletedProcess(process.args, process.returncode, output, "")


@pytest.fixture(scope="module")
def evaluated(head: Head, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Flags with a checkpoint, and the folder of runs, in which ``whole`` has its scores."""
    folder = tmp_path_factory.mktemp("evaluated")
    flags = ["--recipe", str(write_tiny_recipe(folder, tiny_shards)), "--score.clips_per_batch", "1"]
    checkpoint(folder / "trained")
    flags += ["--compute.workers", "1", "--checkpoint", str(folder / "trained")]
    flags += ["--score.threshold.calibration", "isotonic", "--score.threshold.far", "0.2"]
    expect_success(head.run("evaluate.py", *flags, "--run.name", "whole"))
    return flags, folder / "runs"


def test_killed_while_embedding_and_run_again(
    head: Head, evaluated: tuple[list[str], Path], tiny_shards: Path, tmp_path: Path
) -> None:
    evaluate, runs = evaluated
    whole = read_embeddings(runs / "whole" / "embeddings.parquet")

    folder = runs / "killed"
    parts = folder / "embeddings"
    process = head.start("evaluate.py", *evaluate, "--run.name", "killed")
    wait_for(lambda: list(parts.glob("part-*")) or process.poll() is not None, "part")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "metrics.json").exists()
    done = sum(len(part) for _, part in read_store(StorageFolder(str(parts))).parts.each())
    print(f"killed after {done} of {len(whole.rows)} tracklets")
    assert 0 < done < len(whole.rows)
    output = expect_success(_with_an_actor_killed(head, [*evaluate, "--run.name", "killed"], parts))
    to_do = [int(total) for total in re.findall(r"embedding: \d+/(\d+) tracklets", output)]
    assert to_do
    assert max(to_do) <= len(whole.rows) - done
    again = read_embeddings(folder / "embeddings.parquet")
    assert again.rows == whole.rows
    assert np.array_equal(again.embedding_ND, whole.embedding_ND)
    assert not parts.exists()

    shards = tmp_path / "damaged"
    shutil.copytree(tiny_shards, shards)
    bad = overwrite_a_frame(shards)
    assert (shards / MANIFEST_NAME).exists()
    evaluate = [*evaluate, "--data.shards", str(shards), "--data.verify_checksums", "false", "--run.name", "damaged"]
    output = expect_success(head.run("evaluate.py", *evaluate))
    assert f"left out: tracklet {bad}: stored frame 0" in output
    metrics = json.loads((runs / "damaged" / "metrics.json").read_text())
    assert [message.startswith(f"tracklet {bad}:") for message in metrics["unreadable"]] == [True]
    others = read_embeddings(runs / "damaged" / "embeddings.parquet")
    assert [row.id for row in others.rows] == [row.id for row in whole.rows if row.id != bad]


def test_matches_pages_and_groups_of_a_live_gallery(
    head: Head, evaluated: tuple[list[str], Path], tiny_shards: Path, tmp_path: Path
) -> None:
    flags, runs = evaluated
    results, folder = runs / "whole", runs / "matches"
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    score = [*flags, "--run.name", "matches", "--groups", "0.6", "--decisions", str(results), "--score.report", "true"]
    score += ["--data.shards", str(shards), "--report.mosaic", "true"]
    output = expect_success(head.run("score.py", *score))
    assert f"report: {folder}/report/index.html" in output
    assert f"groups: {folder}/groups/index.html" in output
    matches = pq.read_table(folder / "matches.parquet").to_pandas()
    assert matches["probability"].between(0, 1).all()
    assert (matches.groupby("query_id")["score"].diff().dropna() <= 0).all()
    calibration = json.loads((results / "calibration.json").read_text())
    whole = read_embeddings(results / "embeddings.parquet")
    assert calibration["model"] == whole.model
    gallery = pq.read_table(folder / "clusters.parquet")
    assert gallery["id"].to_pylist() == sorted(row.id for row in whole.rows)
    pictures = list((folder / "report" / "pictures").rglob("*.jpg"))
    assert len(pictures) == len(set(matches["query_id"]) | set(matches["gallery_id"]))

    person = next(row.person for row in whole.rows if row.split == "gallery" and row.person is not None)
    output = expect_success(head.run("score.py", *score, "--remove-person", person))
    assert f"tracklets of {person}\n" in output
    assert person not in ShardFolder(Path(shards)).rows.values("person")
    output = expect_success(head.run("score.py", *score))
    assert "embedding 0 of" in output  # removed tracklets do not come back
    assert person not in pq.read_table(folder / "matches.parquet")["person"].to_pylist()

    refused = head.run("score.py", *score, "--decisions", str(runs))
    assert refused.returncode == 1
    assert f"{runs}: no thresholds.json; give results" in refused.stderr
