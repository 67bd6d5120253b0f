"""PyTorch's own samples of ops and modules: the gradient is autograd's, or the refusal is ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FAST = (
    *("add", "cat", "max.reduction_with_dim", "inner", "tensordot", "nn.functional.embedding_bag"),
    *("fft.hfft2", "fft.hfftn", "movedim", "view_as_complex", "prod", "sort", "std", "einsum"),
    *("nn.functional.cross_entropy", "nn.functional.unfold", "cumprod", "masked_select", "pow"),
    *("nn.functional.scaled_dot_product_attention", "index_add"),
)
"""Ops that once failed, and some of each family."""


def outcomes(*options: str) -> dict[str, int]:
    """How many samples came to what. In a process of its own: torch's tests change its settings."""
    pytest.importorskip("expecttest", reason="torch's own tests need it")
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.opinfo", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_samples_are_right():
    found = outcomes("--each", "4", *FAST)
    assert set(found) == {"right"}
    assert found["right"] > 60


@pytest.mark.slow
def test_all_samples_are_right_or_refused_by_name():
    found = outcomes("--no-page")
    right, tried = found["right"], sum(found.values())
    assert right >= 0.985 * tried
    assert right + found.get("refused", 0) >= 0.995 * tried
