"""Directions among channels, and the output without a channel."""

import numpy as np
import pytest
import torch
from torch import nn

from deconv1d import ChannelError, InputError, ModelError, Sonifier


class Network(nn.Module):
    """With a batch norm, an op without module, a skip connection and a module called twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 6, 9)
        self.norm = nn.BatchNorm1d(6)
        self.twice = nn.Conv1d(6, 6, 5, padding=2)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        y = self.norm(self.first(x)).relu_()
        y = y + self.twice(torch.relu(self.twice(y)))
        return self.last(nn.functional.max_pool1d(y.relu(), 2).mean(-1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Network().double().eval()
    with torch.no_grad():
        model.norm.bias.uniform_(0.2, 0.6)
    return model


@pytest.fixture(scope="module")
def sonifier(network):
    return Sonifier(network, sample_rate=8000)


X = torch.randn(2, 1, 301, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LAYERS = ("first", "twice#1", "twice#2")


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", ["deconvnet", "gradient"])
def test_a_direction_of_one_channel_is_that_channel(sonifier, layer, method):
    direction = torch.zeros(6)
    direction[4] = -2.5  # its length and sign do not matter
    found = sonifier.sonify(X, layer=layer, direction=direction, method=method)
    wanted = sonifier.sonify(X, layer=layer, channel=4, method=method)
    torch.testing.assert_close(found.raw, wanted.raw)
    assert found.channel is None
    assert torch.equal(found.direction, direction.double())


def test_the_seed_is_the_map_projected_on_the_direction(sonifier):
    direction = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def projected(maps):
        d = direction[None, :, None]
        return (maps * d).sum(1, keepdim=True) / d.square().sum() * d

    found = sonifier.sonify(X, layer="first", direction=direction.tolist())
    wanted = sonifier.sonify(X, layer="first", channel=None, seed=projected)
    torch.testing.assert_close(found.raw, wanted.raw)


def test_several_directions_are_each_alone(sonifier):
    rows = np.random.default_rng(0).standard_normal((3, 6))
    found = sonifier.sonify(X, layer="first", direction=rows)
    assert found.waveform.shape == (3, *X.shape)
    assert found.gain.shape == (3, 2)
    for number, row in enumerate(rows):
        one = sonifier.sonify(X, layer="first", direction=row)
        torch.testing.assert_close(found.waveform[number], one.waveform)
    assert len(found.sounds()) == 6
    lone = sonifier.sonify(X, layer="first", direction=rows[:1])
    assert lone.waveform.shape == (1, *X.shape)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"direction": [1.0] * 6, "channel": 3}, "cannot go with channel=3"),
        ({"direction": [1.0] * 6, "seed": "ones"}, "cannot go with seed='ones'"),
        ({"direction": [1.0] * 6, "method": "mask"}, "cannot go with method='mask'"),
        ({"direction": [1.0] * 5}, r"expected floating numbers of shape \(6,\)"),
        ({"direction": [1] * 6}, "torch.int64"),
        ({"direction": [0.0] * 6}, "has no projection"),
        ({"direction": [float("nan")] * 6}, "has no projection"),
        ({"direction": torch.zeros(0, 6)}, "does not fit"),
    ],
)
def test_a_direction_that_cannot_be_used_is_refused(sonifier, options, words):
    with pytest.raises(InputError, match=words):
        sonifier.sonify(X, layer="first", **options)


# --- ablation ------------------------------------------------------------------------------------


def by_hand(model, x, channels, value):
    """The output with channels of the first block overwritten, written out."""
    y = model.norm(model.first(x)).relu()
    for channel in channels:
        y[:, channel] = y[:, channel].mean(-1, keepdim=True) if value == "mean" else 0
    y = y + model.twice(torch.relu(model.twice(y)))
    return model.last(nn.functional.max_pool1d(y.relu(), 2).mean(-1))


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("channels", [[2], [0, 5]])
def test_the_output_without_a_channel(network, sonifier, value, channels):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = sonifier.ablate(X, "first", channels, value=value)
    with torch.no_grad():
        torch.testing.assert_close(found.unchanged, network(X))
        torch.testing.assert_close(found.output, by_hand(network, X, channels, value))
    assert found.layer == "first"
    assert found.channels == tuple(channels)
    assert found.change > 0
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_each_call_of_a_module_and_each_tap_is_its_own(sonifier):
    places = [("first", "output"), ("first", "block"), ("twice#1", "block"), ("twice#2", "block")]
    outputs = [sonifier.ablate(X, layer, 1, tap=tap).output for layer, tap in places]
    for number, output in enumerate(outputs):
        for other in outputs[number + 1 :]:
            assert not torch.allclose(output, other)


def test_an_op_without_a_module_and_a_single_clip(sonifier):
    layer = next(row.name for row in sonifier.layers(X) if row.name.endswith("relu#1"))
    found = sonifier.ablate(X[0, 0].numpy(), layer, 3)
    assert found.output.shape == (1, 3)


def test_without_all_channels_the_output_is_that_of_no_map(network, sonifier):
    found = sonifier.ablate(X, "twice#2", "all")
    with torch.no_grad():
        y = network.norm(network.first(X)).relu()
        wanted = network.last(nn.functional.max_pool1d(y, 2).mean(-1))
    torch.testing.assert_close(found.output, wanted)


def test_what_cannot_be_silenced_is_refused(sonifier):
    with pytest.raises(ChannelError, match="out of range"):
        sonifier.ablate(X, "first", 6)
    with pytest.raises(InputError, match="cannot be silenced"):
        sonifier.ablate(X, "first", None)
    with pytest.raises(InputError, match="Unknown value"):
        sonifier.ablate(X, "first", 1, value="half")


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 9)

    def forward(self, x):
        y = self.conv(x)
        return y if float(y.mean()) > 0 else -y


class Pair(Deciding):
    def forward(self, x):
        return self.conv(x), 1


@pytest.mark.parametrize(("model", "reason"), [(Deciding, "looks at values"), (Pair, "one tensor")])
def test_models_that_may_run_otherwise_are_refused(model, reason):
    with pytest.raises(ModelError, match=reason):
        Sonifier(model()).ablate(torch.randn(100), "conv", 1)
