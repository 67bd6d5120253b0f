"""Two faults of batched mining are planted, and the laws that hold without them fail."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from deconv1d import Sonifier
from deconv1d.mining import batches
from deconv1d.mining.plan import Plan
from deconv1d.mining.shards import Miner
from deconv1d.mining.sources import Clip

RATE = 1000
CLIPS = {str(n): length for n, length in enumerate((300, 300, 411, 300, 411, 300, 300, 411))}
PLAN = Plan("0", RATE, ("0",), 8, "mean", "block", "deconvnet", "activation", 4, 1, 8, "0", 16)


def samples(clip: Clip, rate: int) -> np.ndarray:
    drawn = np.random.default_rng(int(clip.clip))
    return drawn.uniform(-0.9, 0.9, CLIPS[clip.clip]).astype(np.float32)


def network() -> Sonifier:
    torch.manual_seed(0)
    return Sonifier(nn.Sequential(nn.Conv1d(1, 3, 5, stride=2), nn.ReLU()), sample_rate=RATE)


def miner(sonifier: Sonifier) -> Miner:
    return Miner(sonifier, PLAN, samples)


def values(found, clips=CLIPS) -> np.ndarray:
    """The value of each clip in each channel, (channels, clips)."""
    ranking = found.rankings["0"]
    order = np.argsort(ranking.clip.astype(int), axis=1)
    assert ranking.clip.shape[1] == len(clips)
    return np.take_along_axis(ranking.value, order, 1)


def together_as_alone() -> bool:
    """The law: among others a clip has the value that it has alone."""
    made = miner(network())
    clips = [Clip(name, "") for name in CLIPS]
    alone = np.concatenate([values(made.mined([clip]), [clip]) for clip in clips], axis=1)
    return np.allclose(values(made.mined(clips)), alone, atol=1e-6)


def follows_the_weights() -> bool:
    """The law: after a step of training the same miner gives what a new one gives."""
    sonifier, clips = network(), [Clip(name, "") for name in CLIPS]
    made = miner(sonifier)
    for _ in range(3):  # from the third batch of a shape on a generated program runs
        made.mined(clips)
    with torch.no_grad():
        for weight in sonifier.model.parameters():
            weight.mul_(1.5)
    fresh = miner(sonifier)
    return np.allclose(values(made.mined(clips)), values(fresh.mined(clips)), atol=1e-6)


def test_the_laws_hold():
    assert together_as_alone()
    assert follows_the_weights()


def test_a_padded_neighbour_is_noticed(monkeypatch):
    right = Miner._by_length

    def padded(self, group, shard):
        longest = max(len(waveform) for _, waveform in group)
        group = [(clip, np.pad(x, (0, longest - len(x)))) for clip, x in group]
        return right(self, group, shard)

    monkeypatch.setattr(Miner, "_by_length", padded)
    assert not together_as_alone()


def test_a_stale_program_is_noticed(monkeypatch):
    right = batches.generate_forward

    def stale(captured, taps):
        forward = right(captured, taps)
        return replace(forward, module=copy.deepcopy(forward.module))

    monkeypatch.setattr(batches, "generate_forward", stale)
    assert not follows_the_weights()
