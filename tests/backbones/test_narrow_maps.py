"""Convolutions to maps of width 1 in memory that held NaN: oneDNN's AMX kernels let it through."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMPARE = """
import torch
import video_backbones

torch.manual_seed(0)
frames = torch.randn(16, 64, 8, 2).bfloat16().contiguous(memory_format=torch.channels_last)
weight = torch.randn(128, 64, 3, 3).bfloat16()
expected = torch.nn.functional.conv2d(frames.float(), weight.float(), stride=2, padding=1)
for _ in range(5):
    used = [torch.full((2**k,), float("nan")) for k in range(4, 22) for _ in range(4)]
    del used
    found = torch.nn.functional.conv2d(frames, weight, stride=2, padding=1)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.2)
"""


@pytest.mark.parametrize("asked", [None, "AVX2"])
def test_a_map_one_wide_is_right_in_bfloat16(asked: str | None) -> None:
    """In a separate process, because oneDNN looks only once. The user's own setting is kept."""
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    environment |= {"ONEDNN_MAX_CPU_ISA": asked} if asked else {}
    shown = f"import os, video_backbones; print(os.environ['ONEDNN_MAX_CPU_ISA'], flush=True)\n{COMPARE}"
    result = subprocess.run([sys.executable, "-c", shown], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == (asked or "AVX512_CORE_FP16")
