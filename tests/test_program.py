"""Prepared programs give what `sonify` gives, or say why the model cannot be prepared."""

import pytest
import torch
from torch import nn

from benchmarks.architectures import ARCHITECTURES
from deconv1d import ChannelError, InputError, ModelError, Sonifier

REFUSED = {
    "branching": "looks at values",
    "encodec": "looks at values",
    "encodec_group_norm": "looks at values",
    "mimi": "looks at values",
    "pocket_tts_tokenizer": "looks at values",
    "vibevoice_tokenizer": "draws random numbers",
    "streaming": "writes into 'past1'",
    "noisy": "draws random numbers",
    "scripted": "is a script",
    "traced": "is a script",
    "frozen": "is a script",
    "scripted_encoder": "'encoder' is a script",
}
"""The test networks whose forward pass may differ from waveform to waveform, and why."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Conv1d(1, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)]
    return nn.Sequential(*layers, nn.ReLU()).double().eval()


@pytest.fixture
def sonifier(model):
    return Sonifier(model, sample_rate=8000)


def waveform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def equal(prepared, plain):
    for name in ("waveform", "raw", "activation", "gain"):
        a, b = getattr(prepared, name), getattr(plain, name)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for name in ("layer", "tap", "layout", "sample_rate", "flagged"):
        assert getattr(prepared, name) == getattr(plain, name), name


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.installed])
def test_on_another_waveform_it_gives_what_sonify_gives(name):
    network = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = network.build()
    sonifier = Sonifier(model, forward=network.forward)
    first, second = torch.randn(2, *network.input_shape)
    layer = network.layers[1]
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            sonifier.prepare(first, layer=layer)
        return
    prepared = sonifier.prepare(first, layer=layer)(second, channel=[0, 1])
    plain = sonifier.sonify(second, layer=layer, channel=[0, 1])
    peak = float(plain.raw.abs().max())
    assert float((prepared.raw - plain.raw).abs().max()) <= 1e-5 * peak
    assert torch.allclose(prepared.activation, plain.activation, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("tap", ["block", "output"])
@pytest.mark.parametrize("seed", ["activation", "ones", "peak", torch.square])
def test_every_way_to_sonify_can_be_prepared(sonifier, method, tap, seed):
    options = {"layer": "3", "method": method, "tap": tap, "seed": seed}
    prepared = sonifier.prepare(waveform(61), **options)
    x = waveform(61, seed=1)
    for channel in (2, [0, 5], "all", "most_active", None):
        equal(prepared(x, channel=channel), sonifier.sonify(x, channel=channel, **options))


def test_any_number_of_examples(sonifier):
    prepared = sonifier.prepare(waveform(2, 1, 61), layer="3")
    for count in (1, 2, 5):
        x = waveform(count, 1, 61, seed=count)
        equal(prepared(x, channel=1), sonifier.sonify(x, layer="3", channel=1))


def test_it_follows_the_weights(model, sonifier):
    prepared, x = sonifier.prepare(waveform(61), layer="3"), waveform(61, seed=1)
    before = prepared(x, channel=1).raw
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    assert not torch.equal(prepared(x, channel=1).raw, before)
    equal(prepared(x, channel=1), sonifier.sonify(x, layer="3", channel=1))
    assert any(p is model[3].weight for p in prepared._traces[x.shape].mirror._module.parameters())


def replaced_module(model):
    model[0] = nn.Conv1d(1, 4, 5).double()


def replaced_parameter(model):
    model[0].weight = nn.Parameter(2 * model[0].weight.detach())


def further_module(model):
    model.append(nn.Tanh())


def reshaped_parameter(model):
    model[0].weight.data = torch.ones(4, 1, 7).double()


def removed_bias(model):
    model[0].bias = None


def further_buffer(model):
    model[0].register_buffer("mean", torch.zeros(3))


def one_module_trains(model):
    model[1].training = True


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (reshaped_parameter, r"'0\.weight' was .*\[4, 1, 5\]\) and is .*\[4, 1, 7\]\)"),
        (nn.Module.float, r"'0\.weight' was torch.float64 and is torch.float32"),
        (removed_bias, r"its tensors differ in '0\.bias'"),
        (further_buffer, r"its tensors differ in '0\.mean'"),
        (one_module_trains, "module '1' was put into train mode"),
        (replaced_module, "module '0' was replaced"),
        (replaced_parameter, r"tensor '0\.weight' was replaced"),
        (further_module, "7 modules and has 8"),
        (nn.Module.train, "put into train mode"),
    ],
)
def test_a_changed_model_is_refused(model, sonifier, change, word):
    prepared = sonifier.prepare(waveform(61), layer="3")
    change(model)
    with pytest.raises(ModelError, match=word + ".*Prepare it again"):
        prepared(waveform(61), channel=0)


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (waveform(60), "shape after the batch.*61.*60|axes"),
        (waveform(1, 61), "number of axes"),
        (waveform(1, 2, 61), r"shape after the batch.*\(1, 61\), got \(2, 61\)"),
        (waveform(1, 1, 61).float(), "dtype.*float64, got torch.float32"),
    ],
)
def test_a_waveform_that_does_not_fit_is_refused(sonifier, x, word):
    first = waveform(61) if x.dim() == 1 else waveform(1, 1, 61)
    prepared = sonifier.prepare(first, layer="3")
    with pytest.raises(InputError, match=word):
        prepared(x, channel=0)


def test_a_channel_that_is_not_there_is_named(sonifier):
    with pytest.raises(ChannelError, match="expected 0 to 5"):
        sonifier.prepare(waveform(61), layer="3")(waveform(61), channel=6)


def test_verification_catches_a_stale_switch(sonifier, monkeypatch):
    prepared = sonifier.prepare(waveform(61), layer="3", verify=True)
    prepared(waveform(61, seed=1), channel=1)
    (traced,) = prepared._traces.values()
    fresh = traced.mirror.bound
    first: list[list[torch.Tensor]] = []

    def stale(held):
        first.append(held)
        return fresh(first[0])

    monkeypatch.setattr(traced.mirror, "bound", stale)
    prepared(waveform(61, seed=1), channel=1)
    with pytest.raises(ModelError, match="does not give what sonify gives"):
        prepared(waveform(61, seed=2), channel=1)


def test_a_tensor_made_in_forward_is_not_the_models():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 2, 3).double()

        def forward(self, x):
            h = self.conv(x)
            return torch.relu(h / torch.tensor(h.shape[-1], dtype=torch.float64))

    sonifier = Sonifier(Scaled())
    program = sonifier.prepare(waveform(61), layer="relu#1")
    x = waveform(61, seed=1)
    equal(program(x, channel=1), sonifier.sonify(x, layer="relu#1", channel=1))


class Branched(nn.Module):
    """Values that a relu must not overwrite: the waveform, a weight, a map with another user."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 2, 5).double(), nn.Conv1d(2, 3, 3).double()
        self.scale = nn.Parameter(torch.tensor([[-0.5], [2.0], [1.0]], dtype=torch.float64))

    def forward(self, x):
        """(batch, 1, time) to (batch, 3, time - 6)."""
        h = self.first(x)
        h = torch.relu(h) + h + torch.relu(x[..., 4:]) + torch.relu(self.scale[:2])
        return self.last(torch.relu(h.view(-1, 2, h.shape[-1]))) + h[..., 2:].sum(1, keepdim=True)


def test_a_relu_overwrites_nothing_that_is_read_again():
    torch.manual_seed(0)
    model = Branched()
    sonifier = Sonifier(model)
    program = sonifier.prepare(waveform(61), layer="add#4", tap="output")
    x, scale = waveform(61, seed=1), model.scale.detach().clone()
    for _ in range(2):
        prepared = program(x, channel=1)
        assert torch.equal(x, waveform(61, seed=1))
        assert torch.equal(model.scale, scale)
        equal(prepared, sonifier.sonify(x, layer="add#4", tap="output", channel=1))


def test_a_relu_overwrites_the_map_that_is_read_by_it_alone(sonifier):
    program = sonifier.prepare(waveform(61), layer="3")
    program(waveform(61), channel=1)
    (traced,) = program._traces.values()
    assert "relu_.default(convolution" in traced.forward.module.code
