"""Seeds that are zero but for a moment: crops give what the whole waveform gives."""

import pytest
import torch
from strided import NETWORKS, last_layer, sonifier_of

from deconv1d import Sonifier
from deconv1d.prepared import local
from deconv1d.prepared.local import LocalMirror


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def counted(monkeypatch):
    """How many samples were carried back on crops."""
    samples = []
    carry = LocalMirror._carry

    def watch(self, crops, length, seeds, raw):
        samples.append(len(crops) * length)
        return carry(self, crops, length, seeds, raw)

    monkeypatch.setattr(LocalMirror, "_carry", watch)
    return samples


def dense(monkeypatch, sonifier, x, **options):
    with monkeypatch.context() as patch:
        patch.setattr(local, "SMALL", -1)
        return sonifier.sonify(x, **options)


def same(found, wanted):
    for name in ("raw", "waveform", "activation", "gain"):
        a, b = getattr(found, name), getattr(wanted, name)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("shape", [(901,), (3, 1, 902)])
def test_a_peak_is_carried_back_as_on_the_whole(name, method, shape, noise, counted, monkeypatch):
    sonifier, x = sonifier_of(name), noise(*shape)
    options = {"layer": last_layer(sonifier), "channel": "all", "seed": "peak", "method": method}
    found = sonifier.sonify(x, **options)
    assert 0 < sum(counted) < 0.5 * 5 * x.numel()
    same(found, dense(monkeypatch, sonifier, x, **options))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("place", [0, 1, -2, -1])
def test_at_the_ends_of_the_waveform(name, place, noise, counted, monkeypatch):
    def seed(maps):
        one = torch.zeros_like(maps)
        one[..., place] = maps[..., place].abs() + 1
        return one

    sonifier, x = sonifier_of(name), noise(901)
    options = {"layer": last_layer(sonifier), "channel": [0, 3], "seed": seed}
    found = sonifier.sonify(x, **options)
    assert counted
    same(found, dense(monkeypatch, sonifier, x, **options))


def test_a_stretch_of_several_moments(noise, counted, monkeypatch):
    def seed(maps):
        stretch = torch.zeros_like(maps)
        stretch[..., 20:25] = maps[..., 20:25]
        stretch[..., 22] = 0
        return stretch

    sonifier, x = sonifier_of("padded"), noise(2, 1, 901)
    options = {"layer": "3", "channel": "most_active", "seed": seed}
    found = sonifier.sonify(x, **options)
    assert counted
    same(found, dense(monkeypatch, sonifier, x, **options))


def test_moments_far_apart_are_carried_on_the_whole(noise, counted):
    sonifier, x = sonifier_of("padded"), noise(901)
    sonifier.sonify(x, layer="3", channel=1, seed=torch.ones_like)
    assert not counted


def test_a_dead_map_costs_nothing(noise, counted):
    sonifier = sonifier_of("padded")
    with pytest.warns(match="dead"):
        found = sonifier.sonify(noise(901), layer="3", channel=1, seed=torch.zeros_like)
    assert not found.raw.any()
    assert not counted


def test_few_channels_at_once_are_as_all(noise, counted, monkeypatch):
    sonifier, x = sonifier_of("unpadded"), noise(901)
    options = {"layer": "7", "channel": "all", "seed": "peak"}
    wanted = sonifier.sonify(x, **options)
    make = LocalMirror.__init__

    def frugal(self, *positional, **named):
        make(self, *positional, **named | {"at_once": 150})

    monkeypatch.setattr(LocalMirror, "__init__", frugal)
    same(sonifier.sonify(x, **options), wanted)


def test_a_model_that_cannot_be_prepared_is_carried_on_the_whole(noise):
    class Deciding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(1, 4, 9).double()

        def forward(self, x):
            h = self.conv(x).relu()
            return h if float(h.sum()) > 0 else -h

    found = Sonifier(Deciding()).sonify(noise(901), layer="conv", channel=1, seed="peak")
    assert int((found.raw != 0).sum()) <= 9


@pytest.mark.parametrize("checked", [True, False])
def test_a_crop_that_begins_off_the_stride_is_noticed(checked, noise, monkeypatch):
    """Its map is not that of the whole: then the whole is carried back."""
    sonifier, x = sonifier_of("padded"), noise(901)
    options = {"layer": "3", "channel": "all", "seed": "peak"}
    wanted = dense(monkeypatch, sonifier, x, **options)
    monkeypatch.setattr(local, "total_stride", lambda fields: 1)
    if not checked:
        monkeypatch.setattr(LocalMirror, "_check", lambda self, crops, activation: None)
    found = sonifier.sonify(x, **options)
    assert torch.allclose(found.raw, wanted.raw, atol=1e-6) == checked


def test_a_model_that_mixes_examples_is_carried_on_the_whole(noise, monkeypatch):
    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(1, 4, 9).double()

        def forward(self, x):
            return self.conv(x - x.mean(0)).relu()

    sonifier, x = Sonifier(Mixing()), noise(3, 1, 901)
    options = {"layer": "relu#1", "channel": "all", "seed": "peak"}
    wanted = dense(monkeypatch, sonifier, x, **options)
    same(sonifier.sonify(x, **options), wanted)
    assert wanted.raw.abs().amax((0, 2, 3)).min() > 0
