"""Data sets in which many clips are too short for the model."""

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from deconv1d import Sonifier
from deconv1d.forward import ForwardPass
from deconv1d.mining.findings import read_errors
from deconv1d.mining.run import mine_into

pytest.importorskip("pyarrow")
pytest.importorskip("filelock")

RATE = 1000


def test_what_a_model_needs_is_searched_for_once(tmp_path, monkeypatch):
    """The search runs the model some ten times; a data set may have thousands of short clips."""
    for number in range(60):
        length = 40 + number % 12 if number % 2 else 300
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, length)
        soundfile.write(tmp_path / f"{number:02d}.wav", noise, RATE)
    tried = []
    right = ForwardPass._attempt

    def attempt(self, x, *rest):
        tried.append(x.shape[-1])
        return right(self, x, *rest)

    def model():
        torch.manual_seed(0)
        return Sonifier(nn.Sequential(nn.Conv1d(1, 3, 100), nn.ReLU()), sample_rate=RATE)

    monkeypatch.setattr(ForwardPass, "_attempt", attempt)
    out = tmp_path / "out"
    mine_into(out, [str(tmp_path)], model, shard_clips=60)
    reasons = {row["clip"]: row["reason"] for row in read_errors(out).to_pylist()}
    assert len(reasons) == 30
    assert "expected at least 100 samples, got 41." in reasons["01.wav"]
    assert "expected at least 100 samples, got 51." in reasons["11.wav"]
    # Six lengths are too short: each is tried once, in the few shapes that models take.
    assert sum(length < 100 for length in tried) <= 6 * 6
    assert len(tried) < 50
