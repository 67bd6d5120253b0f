"""The speed tables and the script for a GPU run, and say what they measured; at a tiny size."""

import pytest
import torch

from benchmarks import gpu, growth, jobs
from benchmarks.architectures import ARCHITECTURES


def cells(table: str) -> list[str]:
    """Of a Markdown table with one row."""
    *_, row = table.splitlines()
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_script_for_a_gpu_runs_anywhere(tmp_path):
    gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path / "gpu.md")])
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# On a GPU\n\nWritten by `python -m benchmarks.gpu`.\n\nOn cpu:")
    for name in gpu.NETWORKS[:3]:
        assert f"\n| {name} | " in page
    assert 'seed="peak"' in page
    assert "a clip at each of 11 layers" in page


def test_all_networks_for_a_gpu_are_there():
    assert len(set(gpu.NETWORKS)) == 12
    assert all(name in ARCHITECTURES for name in gpu.NETWORKS)


def test_a_law_that_fails_on_a_device_stops_the_script(monkeypatch):
    monkeypatch.setattr(gpu, "_autograd", lambda architecture, model, x, layer: torch.ones_like(x))
    with pytest.raises(AssertionError, match="m5: a law fails on cpu"):
        gpu.laws(["m5"], "cpu")


def test_a_long_recording_is_streamed_as_it_is_whole():
    found = cells(growth.long_recording(width=1 / 16, seconds=12, short=2))
    assert float(found[-2]) < float(found[-1])


def test_growth_has_a_row_for_each_size():
    table = growth.growth(scale=1, rounds=1, ops=8)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "seconds of audio",
        "channels",
        "ops of the network",
        "ops on the way",
    ]
    assert "2: " in table


def test_calls_and_a_small_capture_are_measured():
    assert len(cells(growth.calls(counts=(2, 4)))) == 4
    plain, recorded, over, bar = map(float, cells(growth.small_capture(rounds=1))[1:])
    assert recorded - plain == pytest.approx(over, abs=0.02)
    assert bar == 2


def test_peaks_are_compared_with_the_dense_ones():
    found = cells(jobs.peaks("cpu", width=1 / 16, seconds=2, rounds=1))
    assert float(found[-2]) < float(found[-1])
