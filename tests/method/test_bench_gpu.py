"""The benchmark of a GPU, at tiny sizes on a CPU, so that it works when there is a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.benchmarks import bench_gpu
from tests.benchmarks.gpu import run_part
from tests.benchmarks.gpu.kernels import IDLE, OTHER, kind_of, time_of_events
from tests.benchmarks.gpu.results import Results, read_rows
from tests.benchmarks.gpu.sizes import BUDGETS
from tests.benchmarks.gpu.task import Task

NEEDED = (
    "fsspec",
    "pillow",
    "pyarrow",
    "pydantic",
    "pytorch-metric-learning",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "simplejpeg",
    "tensorboard",
    "threadpoolctl",
    "timm",
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "tests.benchmarks.bench_gpu", "--tiny"]


def installed_with(names: tuple[str, ...]) -> set[str]:
    """These distributions and their requirements, without extras."""
    found: set[str] = set()
    asked: list[str] = [canonicalize_name(name) for name in names]
    while asked:
        name = asked.pop()
        if name in found:
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        requirements = [Requirement(line) for line in lines]
        asked += [
            canonicalize_name(one.name) for one in requirements if not one.marker or one.marker.evaluate({"extra": ""})
        ]
    return found


def test_it_needs_nothing_that_its_description_does_not_name(tmp_path: Path) -> None:
    """Imports neither Ray, decord nor PyAV, not even where shards are made and read."""
    allowed = {"ccvid", *installed_with(("torch", "torchvision", "numpy", *NEEDED))}
    refused = sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if module.isidentifier() and not allowed & {canonicalize_name(owner) for owner in owners}
    )
    assert {"ray", "decord", "av"} <= set(refused)
    (tmp_path / "check.py").write_text(
        f"""
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class AsIfAbsent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {set(refused)} else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, AsIfAbsent]
import tests.benchmarks.bench_gpu
from tests.benchmarks.gpu.run_part import Path, run_part
work = Path({str(tmp_path)!r})
assert run_part("embedding", work, work / "rows.jsonl", tiny=True, compile=False)
"""
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, str(tmp_path / "check.py")]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={"PYTHONPATH": str(root)}, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert bench_gpu.__doc__ is not None
    named = re.split(r"[\s,.:]+", bench_gpu.__doc__)
    assert not [name for name in NEEDED if name not in named]


def test_all_parts_at_tiny_sizes(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    ended = subprocess.run(
        [*COMMAND, "--one-process", "--json", str(file)], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"torch {torch.__version__}" in ended.stdout.splitlines()[0]
    found = json.loads(file.read_text())
    rows = found["rows"]
    assert {row["part"] for row in rows} == set(BUDGETS)
    assert {row["verdict"] for row in rows} == {"", "met"}, "what is exact on a GPU is so on a CPU"
    aims = {part: [row["aim"] for row in rows if row["part"] == part and row["aim"]] for part in BUDGETS}
    assert all(aims.values())
    assert aims["step"] == ["≥ 6.00", "≥ 0.350"]
    for row in rows:
        assert f"| {row['part']} | {row['what']} | {row['shown']} | {row['aim']} | {row['verdict']} |" in ended.stdout


def test_a_part_alone_in_a_process_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [*COMMAND, "--only", "search", "--json", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {row["part"] for row in json.loads(file.read_text())["rows"]} == {"search"}


@pytest.mark.parametrize(
    ("program", "seconds", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60, "its process ended with code -11"),
        ("raise ImportError", 60, "its process ended with code 1"),
        ("import time; time.sleep(600)", 0.5, "stopped after 0 s"),
    ],
)
def test_a_part_that_dies_or_hangs_leaves_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, seconds: float, reason: str
) -> None:
    Results("step", tmp_path / "step.jsonl", judge_speed=True).at_least("share", 0.25, 0.35)
    monkeypatch.setattr(bench_gpu, "part_command", lambda *_: [sys.executable, "-c", program])
    rows = bench_gpu.run_in_process("step", tmp_path, [], seconds)
    assert [(row.what, row.shown, row.verdict) for row in rows] == [
        ("share", "0.25", "MISSED"),
        ("the rest of this part", reason, "FAILED"),
    ]


def test_what_breaks_in_a_part_is_one_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Task) -> None:
        raise RuntimeError("CUDA error: out of memory\nand more")

    monkeypatch.setitem(run_part.PARTS, "search", broken)
    rows = tmp_path / "rows.jsonl"
    assert not run_part.run_part("search", tmp_path, rows, tiny=True, compile=False)
    failure, seconds = read_rows(rows)
    assert (failure.shown, failure.verdict) == ("RuntimeError: CUDA error: out of memory", "FAILED")
    assert seconds.what.startswith("seconds")


def test_verdicts(tmp_path: Path) -> None:
    for judged in (True, False):
        file = tmp_path / f"{judged}.jsonl"
        results = Results("step", file, judge_speed=judged)
        results.at_least("a", 6, 6)
        results.at_least("b", 5.9, 6)
        results.at_most("c", 0.03, 0.02)
        results.error("d", float("nan"), 1e-4)
        results.holds("e", False)
        results.equal("f", True)
        speed = ["met", "MISSED", "MISSED"] if judged else ["", "", ""]
        assert [row.verdict for row in read_rows(file)] == [*speed, "MISSED", "MISSED", "met"]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (
            "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64",
            "convolutions and products",
        ),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT", "convolutions and products"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NHWC<__nv_bfloat16, float>", "batch norm"),
        ("void at::native::batch_norm_transform_input_channels_last_kernel<float, 4>", "batch norm"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float>", "changes of layout"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...FusedAdam>", "optimizer"),
        ("triton_red_fused__native_batch_norm_legit_functional_convolution_relu_4", "fused by the compiler"),
        ("triton_tem_fused_convolution_3", "convolutions and products"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::threshold>", OTHER),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_time_of_a_trace() -> None:
    events = [
        {"name": "triton_poi_fused_relu", "ts": 0, "dur": 10},
        {"name": "sm90_xmma_fprop", "ts": 20.0, "dur": 40},
        {"name": "sm90_xmma_wgrad", "ts": 50, "dur": 30},  # 10 of them overlap the previous one
    ]
    found = time_of_events(events, steps=2, seconds=50e-6)
    expected = {"convolutions and products": 30e-6, IDLE: 15e-6, "fused by the compiler": 5e-6}
    assert found.by_kind == pytest.approx(expected)
    assert list(found.longest) == ["sm90_xmma_fprop", "sm90_xmma_wgrad", "triton_poi_fused_relu"]
