"""Watching and serving on a cluster: killed, stopped and started again, while footage arrives."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ccvid.retrieval.embedding.store import read_store
from data_tools.storage import StorageFolder
from data_tools.walkers import WalkerOptions, render_walkers
from tests.data.made_videos import make_video
from tests.jobs.head import Head
from tests.method.test_trained_model import checkpoint
from tests.processes import PATIENCE_SECONDS, wait_for

pytestmark = pytest.mark.slow

WALKERS = WalkerOptions(train_people=2, test_people=2, outfits=2, test_outfits=2, cameras=2, frames=8)


class Watched:
    """A folder in which walkers arrive one by one, and the command that watches it."""

    def __init__(self, head: Head, folder: Path) -> None:
        self.head, self.folder = head, folder
        render_walkers(WALKERS, folder / "made", workers=1)
        checkpoint(folder / "trained")
        (folder / "arriving").mkdir()
        tests = (path.stem for path in sorted((folder / "made" / "videos").iterdir()))
        self.names = [name for name in tests if not name.startswith(("p00000", "p00001"))]
        self.run = folder / "runs" / "watch"

    def flags(self, name: str) -> list[str]:
        values = {
            "recipe": "footage",
            "checkpoint": self.folder / "trained",
            "watch": self.folder / "arriving",
            "watch-settle": "0",
            "run.storage": self.folder / "runs",
            "run.name": name,
            "data.footage.labels": self.folder / "made" / "labels.csv",
            "data.footage.minimum_length": "4",
            "data.footage.minimum_height": "16",
            "data.frames.height": "32",
            "data.frames.width": "16",
            "train.bf16": "false",
            "compute.workers": "1",
            "compute.cpus_per_worker": "1",
            "top": "100",
        }
        return [str(word) for flag, value in values.items() for word in (f"--{flag}", value)]

    def start(self) -> subprocess.Popen[str]:
        return self.head.start("score.py", *self.flags("watch"))

    def arrive(self, *names: str) -> None:
        for name in names:
            for file in (f"videos/{name}.mp4", f"tracks/{name}.txt"):
                target = self.folder / "arriving" / Path(file).name
                shutil.copyfile(self.folder / "made" / file, target.with_name(f".{target.name}"))
                target.with_name(f".{target.name}").rename(target)

    def pictures(self) -> int:
        return len(list((self.run / "report" / "pictures").rglob("*.jpg")))

    def lines(self, run: Path, file: str) -> list[dict[str, Any]]:
        path = run / file
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]


@pytest.fixture(scope="module")
def watched(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(head, tmp_path_factory.mktemp("living"))


def pairs(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((line["query_id"], line["gallery_id"]) for line in lines)


def test_killed_stopped_and_started_again_while_footage_arrives(watched: Watched, head: Head) -> None:
    (watched.folder / "arriving" / "torn.mp4").write_bytes(b"half a video")
    (watched.folder / "arriving" / "torn.txt").write_text("1,1,2,3,20,40,1\n")
    queries = [name for name in watched.names if "_t000_" in name]
    later = [name for name in watched.names if name not in queries]
    watched.arrive(*queries, *later[:2])
    process = watched.start()
    parts = watched.run / "gallery"
    wait_for(lambda: list(parts.glob("part-*")) or process.poll() is not None, "part of the gallery")
    process.kill()  # it is embedded, and as a rule not yet reported
    process.communicate()

    process = watched.start()
    wait_for(lambda: _done(watched) or process.poll() is not None, "batch that is done")
    wait_for(lambda: _actors(head) or process.poll() is not None, "resident actor")
    os.kill(_actors(head)[0], signal.SIGKILL)
    watched.arrive(*later[2:])
    wait_for(lambda: watched.pictures() == len(watched.names) or process.poll() is not None, "pictures of all")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, output[-3000:]
    assert f"stopped watching {watched.folder}/arriving; run the same command to resume\nkept:" in output
    lines = watched.lines(watched.run, "matches.jsonl")
    rows = list(read_store(StorageFolder(str(watched.run / "gallery"))).read().rows)
    query, gallery = ([row.id for row in rows if row.split == split] for split in ("query", "gallery"))
    assert (len(query), len(gallery)) == (len(queries), len(later))
    assert pairs(lines) == sorted((asked, there) for asked in query for there in gallery)  # each once
    events = watched.lines(watched.run, "watched.jsonl")
    [torn] = [event for event in events if event["event"] == "refused"]
    assert (torn["name"], "not a readable video" in torn["problem"]) == ("torn", True)
    assert sum(event["tracklets"] for event in _done(watched)) == len(rows)


def _actors(head: Head) -> list[int]:
    found: list[int] = []
    for pid in head.processes():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += [pid] if "_Resident" in Path(f"/proc/{pid}/cmdline").read_text() else []
    return found


def _done(watched: Watched) -> list[dict[str, Any]]:
    return [event for event in watched.lines(watched.run, "watched.jsonl") if event["event"] == "done"]


def test_served_and_asked(watched: Watched, head: Head) -> None:
    gallery, token_file = watched.run / "gallery", watched.folder / "token"
    flags = {"recipe": "footage", "checkpoint": watched.folder / "trained", "gallery": gallery, "port": 0}
    flags |= {"token-file": token_file, "data.frames.height": 32, "data.frames.width": 16, "compute.workers": 1}
    flags |= {"compute.cpus_per_worker": 1}
    process = head.start("serve.py", *(str(word) for name, value in flags.items() for word in (f"--{name}", value)))
    assert process.stdout is not None
    output = ""
    while (found := re.search(r"at (http://127\.0\.0\.1:\d+); the token is in", output)) is None:
        line = process.stdout.readline()
        assert line, output
        output += line
    url, token = found[1], token_file.read_text()
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600

    table = read_store(StorageFolder(str(gallery))).read()
    asked = {"embedding": table.embedding_ND[0].tolist(), "top": 3}
    matches = _ask(url, token, json.dumps(asked).encode(), "application/json")["matches"]
    assert matches[0]["id"] == table.rows[0].id
    assert matches[0]["score"] == pytest.approx(1, abs=1e-6)
    assert len(matches) == 3
    clip = make_video(watched.folder / "clip.mp4", 8, 16, 32).read_bytes()
    matches = _ask(url, token, clip, "video/mp4", "?top=2")["matches"]
    assert len(matches) == 2
    for body, kind, status in ((b"junk", "video/mp4", 400), (b"{}", "application/json", 400), (b"", "text/html", 415)):
        with pytest.raises(urllib.error.HTTPError) as error:
            _ask(url, token, body, kind)
        assert error.value.code == status
    with pytest.raises(urllib.error.HTTPError) as error:
        _ask(url, "wrong", b"{}", "application/json")
    assert error.value.code == 401
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, rest[-3000:]
    assert f"stopped serving {gallery}; run the same command to resume" in rest
    assert token not in output + rest


def _ask(url: str, token: str, body: bytes, kind: str, query: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/search{query}", body, headers), timeout=300) as answer:
        return dict(json.load(answer))
