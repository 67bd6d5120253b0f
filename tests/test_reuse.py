"""A mirror that is used again gives what one written anew gives, however the passes differ."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.architectures import ARCHITECTURES
from deconv1d import Sonifier
from deconv1d.prepared import reuse
from deconv1d.record.capture import capture
from deconv1d.record.request import TapRequest


@pytest.fixture
def written(monkeypatch):
    """The mirrors that were written, by the graphs' keys."""
    keys = []

    def counting(captured, **options):
        keys.append(reuse.exact_key(captured))
        return mirror(captured, **options)

    mirror = reuse.mirror
    monkeypatch.setattr(reuse, "mirror", counting)
    return keys


def network():
    torch.manual_seed(0)
    layers = [nn.Conv1d(1, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers).double().eval()


def waveform(samples=301, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, generator=generator, dtype=torch.float64)


def fresh(model, x, **options):
    return Sonifier(model, verify=False).sonify(x, **options).raw


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.installed])
@pytest.mark.filterwarnings("ignore::deconv1d.SilenceWarning")
def test_the_third_waveform_sounds_as_if_it_were_the_first(name):
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    sonifier = Sonifier(architecture.build(), forward=architecture.forward, verify=False)
    for x in torch.randn(3, *architecture.input_shape):
        torch.manual_seed(1)  # a model may draw random numbers
        again = sonifier.sonify(x, layer=architecture.layers[1], channel=0).raw
    torch.manual_seed(1)
    sonifier._mirrors = reuse.Mirrors()
    anew = sonifier.sonify(x, layer=architecture.layers[1], channel=0).raw
    torch.testing.assert_close(again, anew, rtol=0, atol=0)


def test_the_mirror_is_written_twice_for_many_waveforms(written):
    sonifier = Sonifier(network(), verify=False)
    for seed in range(5):
        sonifier.sonify(waveform(seed=seed), layer="4", channel=2)
    assert len(written) == 2


def test_another_length_layer_tap_or_method_has_its_own(written):
    sonifier = Sonifier(network(), verify=False)
    for _ in range(3):
        for options in ({"layer": "4"}, {"layer": "1"}, {"layer": "3", "tap": "output"}):
            for method in ("deconvnet", "guided"):
                sonifier.sonify(waveform(), **options, channel=2, method=method)
        sonifier.sonify(waveform(303), layer="4", channel=2)
    assert len(written) == 2 * len(set(written)) == 2 * 7


def test_it_follows_the_weights():
    model = network()
    sonifier = Sonifier(model, verify=False)
    for step in range(4):
        with torch.no_grad():
            model[3].weight.mul_(1.5).add_(step)
        same = fresh(model, waveform(), layer="4", channel=2)
        torch.testing.assert_close(sonifier.sonify(waveform(), layer="4", channel=2).raw, same)


def test_a_module_that_was_replaced_is_noticed():
    model = network()
    sonifier = Sonifier(model, verify=False)
    for _ in range(3):
        sonifier.sonify(waveform(), layer="4", channel=2)
    model[3] = network()[3].requires_grad_(False)
    with torch.no_grad():
        model[3].weight.neg_()
    same = fresh(model, waveform(), layer="4", channel=2)
    torch.testing.assert_close(sonifier.sonify(waveform(), layer="4", channel=2).raw, same)


def test_a_model_that_decides_by_an_attribute_is_followed():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gain = nn.Conv1d(1, 4, 5).double(), 1.0

        def forward(self, x):
            h = torch.relu(self.conv(x))
            return h * self.gain if self.gain < 9 else torch.relu(h - 0.5)

    model = Gain()
    sonifier = Sonifier(model, verify=False)
    for gain in (1.0, 1.0, 1.0, -2.5, 3.0, 9.0, 1.0, 9.0, 9.0):
        model.gain = gain
        plain = fresh(model, waveform(), layer="conv", channel=1)
        again = sonifier.sonify(waveform(), layer="conv", channel=1).raw
        torch.testing.assert_close(again, plain, rtol=0, atol=0)


def test_numbers_are_part_of_the_key():
    def key(factor):
        class Scaled(nn.Module):
            def forward(self, x):
                return torch.relu(x) * factor

        request = TapRequest("mul#1", "output", is_op=True)
        return reuse.exact_key(capture(Scaled(), waveform()[None, None], target=request))

    assert key(2.0) == key(2.0)
    assert len({key(n) for n in (2.0, 2, 3.0, 3, True, 0.0, -0.0)}) == 7


def test_no_value_of_a_pass_is_kept(monkeypatch):
    sonifier = Sonifier(network(), verify=False)
    for seed in range(3):
        sonifier.sonify(waveform(seed=seed), layer="4", channel=2)
    (kept,) = sonifier._mirrors._kept.values()
    own = {id(p) for p in sonifier.model.parameters()}
    assert all(id(t) in own for t in kept.mirror.weights)


def test_a_copy_of_a_sonifier_is_of_its_own():
    sonifier = Sonifier(network(), verify=False)
    for seed in range(3):
        sonifier.sonify(waveform(seed=seed), layer="4", channel=2)
    twin = copy.deepcopy(sonifier)
    with torch.no_grad():
        twin.model[3].weight.neg_()
    same = fresh(twin.model, waveform(), layer="4", channel=2)
    torch.testing.assert_close(twin.sonify(waveform(), layer="4", channel=2).raw, same)


def test_the_least_used_are_dropped():
    sonifier = Sonifier(network(), verify=False)
    for length in range(100, 100 + reuse.KEPT + 9):
        sonifier.sonify(waveform(length), layer="1", channel=2)
    assert len(sonifier._mirrors._kept) == reuse.KEPT
