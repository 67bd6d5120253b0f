"""The table of layers: how each is called, how far it hears, which axis counts its channels."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deconv1d import Sonifier

SAMPLES = 200


@pytest.fixture
def x():
    return torch.randn(2, 1, SAMPLES, dtype=torch.float64, generator=torch.manual_seed(1))


def rows(model, x):
    return {row.name: row for row in Sonifier(model).layers(x)}


# --- hop and receptive field ---------------------------------------------------------------------


def network() -> nn.Sequential:
    layers = OrderedDict(
        conv1=nn.Conv1d(1, 4, 5, padding=2),
        act1=nn.ReLU(),
        mp1=nn.MaxPool1d(2),
        conv2=nn.Conv1d(4, 6, 3, stride=3, dilation=4),
        bn2=nn.BatchNorm1d(6),
        act2=nn.ELU(),
        mp2=nn.MaxPool1d(3, stride=1, dilation=2),
        avg2=nn.AvgPool1d(2),
        conv3=nn.Conv1d(6, 5, 1),
        drop3=nn.Dropout(),
        gap=nn.AdaptiveAvgPool1d(1),
        flat=nn.Flatten(),
        fc=nn.Linear(5, 2),
    )
    return nn.Sequential(layers).double()


TABLE = """\
name   type               calls  channels  channel axis  hop  receptive field  block ends in
conv1  Conv1d             1      4         1             1    5                mp1
act1   ReLU               1      4         1             1    5                mp1
mp1    MaxPool1d          1      4         1             2    6                mp1
conv2  Conv1d             1      6         1             6    22               mp2
bn2    BatchNorm1d        1      6         1             6    22               mp2
act2   ELU                1      6         1             6    22               mp2
mp2    MaxPool1d          1      6         1             6    46               mp2
avg2   AvgPool1d          1      6         1             12   52               avg2
conv3  Conv1d             1      5         1             12   52               conv3
"""


def test_the_table_is_as_computed_by_hand(x):
    # conv2: 6 + 2 steps of dilation 4, each of 2 samples; mp2: 22 + 2 * 2 steps of 6; avg2: + 6.
    assert str(Sonifier(network()).layers(x)).startswith(TABLE)


@pytest.mark.parametrize("name", ["gap", "flat", "fc"])
def test_layers_without_time_hear_all_of_it(x, name):
    row = rows(network(), x)[name]
    assert (row.hop, row.receptive_field) == (None, None)
    (line,) = [s for s in str(Sonifier(network()).layers(x)).splitlines() if s.startswith(name)]
    assert line.split()[-3:-1] == ["all", "all"]


class Functional(nn.Module):
    """Called three times, with ops that no module holds; `unused` never runs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.unused = nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1), nn.ReLU()
        self.up, self.skip = nn.ConvTranspose1d(1, 2, 2, stride=2), nn.Conv1d(1, 2, 7, padding=3)
        self.double()

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x)))
        y = F.max_pool1d(self.conv(self.conv(y)), 2)
        return F.relu(self.up(y) + self.skip(x)[..., : 2 * y.shape[-1]])


def test_calls_and_free_ops_have_rows_of_their_own(x):
    # up: an even value t hears t ... t + 7, an odd one t - 1 ... t + 6; with skip t - 3 ... t + 7.
    found = rows(Functional(), x)
    facts = {n: (r.type, r.calls, r.channels, r.hop, r.receptive_field) for n, r in found.items()}
    assert facts == {
        "conv#1": ("Conv1d", 3, 1, "1", 3),
        "norm": ("BatchNorm1d", 1, 1, "1", 3),
        "relu#1": ("aten.relu", 1, 1, "1", 3),
        "conv#2": ("Conv1d", 3, 1, "1", 5),
        "conv#3": ("Conv1d", 3, 1, "1", 7),
        "max_pool1d#1": ("aten.max_pool1d", 1, 1, "2", 8),
        "up": ("ConvTranspose1d", 1, 2, "1", 9),
        "skip": ("Conv1d", 1, 2, "1", 7),
        "relu#2": ("aten.relu", 1, 2, "1", 11),
    }


def test_every_row_can_be_sonified_and_says_where_its_block_ends(x):
    model = Functional()
    ends = {name: row.block_ends_in for name, row in rows(model, x).items()}
    assert ends == {
        "conv#1": "relu#1",
        "norm": "relu#1",
        "relu#1": "relu#1",
        "conv#2": "conv#2",
        "conv#3": "max_pool1d#1",
        "max_pool1d#1": "max_pool1d#1",
        "up": "up",
        "skip": "skip",
        "relu#2": "relu#2",
    }
    sonifier = Sonifier(model)
    for name, end in ends.items():
        found, last = (sonifier.sonify(x, layer=n, channel=None, seed="ones") for n in (name, end))
        assert torch.equal(found.raw, last.raw)


@pytest.mark.parametrize("first", [nn.Identity(), nn.Dropout()])
def test_a_first_layer_that_changes_nothing_is_the_waveform_itself(x, first):
    model = nn.Sequential(OrderedDict(first=first, conv=nn.Conv1d(1, 3, 5))).double()
    assert torch.equal(Sonifier(model).sonify(x, layer="first", channel=0).raw, x)
    assert rows(model, x)["conv"].receptive_field == 5


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripts_have_a_row_for_each_op(x):
    script = torch.jit.script(network().eval())
    found = rows(script, x)
    assert list(found)[:4] == ["convolution#1", "relu#1", "max_pool1d#1", "convolution#2"]
    assert [found[name].block_ends_in for name in list(found)[:3]] == ["max_pool1d#1"] * 3
    assert found["convolution#2"].receptive_field == 22


# --- channels ------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Layers that count channels on different axes; batch 2, 6 to 8 channels, 50 frames."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 4, stride=4)
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 10)
        self.lstm = nn.LSTM(10, 4, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(8, 7, batch_first=True)
        self.wide = nn.Linear(7, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.turned, self.up = nn.Identity(), nn.ConvTranspose1d(8, 3, 4)
        self.flat, self.plane = nn.Linear(3, 5), nn.Conv2d(1, 2, (3, 1))
        self.double()

    def forward(self, x):
        y = self.norm(self.conv(x).transpose(1, 2))
        y = self.wide(self.gru(self.lstm(self.linear(y))[0])[0])
        y = self.encoder(self.attention(y, y, y)[0])
        y = self.up(self.turned(y.transpose(1, 2)))
        return self.flat(y.mean(-1)) + self.plane(y[:, None]).sum()


AXES = {
    "conv": (6, 1),
    "norm": (6, 2),
    "linear": (10, 2),
    "lstm": (8, 2),
    "gru": (7, 2),
    "attention": (8, 2),
    "encoder.self_attn": (8, 2),
    "encoder.linear1": (16, 2),
    "encoder.norm1": (8, 2),
    "encoder": (8, 2),
    "turned": (8, 1),
    "up": (3, 1),
    "flat": (5, 1),
    "plane": (2, 1),
}


def test_layers_show_the_channel_axis(x):
    found = rows(Mixed(), x)
    assert {name: (found[name].channels, found[name].channel_axis) for name in AXES} == AXES


@pytest.mark.parametrize("layer", AXES)
def test_channels_are_taken_along_that_axis(x, layer):
    channels, axis = AXES[layer]
    model = Mixed()
    found = Sonifier(model).sonify(x, layer=layer, channel=channels - 1, tap="output", seed="ones")
    deconvnet = Sonifier(model).deconvnet(x, layer, tap="output")
    seed = torch.zeros_like(found.activation)
    seed.select(axis, channels - 1).fill_(1)
    torch.testing.assert_close(found.raw, deconvnet(seed))


@pytest.mark.parametrize("axis", [2, -1])
def test_channel_axis_overrides(x, axis):
    model = nn.Sequential(nn.Conv1d(1, 3, 4, stride=4)).double()
    found = Sonifier(model).sonify(x, layer="0", channel=[49, 7], channel_axis=axis)
    seed = torch.zeros_like(found.activation)
    seed[..., 7] = found.activation[..., 7]
    torch.testing.assert_close(found.raw[1], Sonifier(model).deconvnet(x, "0")(seed))


def test_examples_are_found_where_a_recurrent_layer_has_time_first(x):
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lstm = nn.Conv1d(1, 4, 4, stride=4), nn.LSTM(4, 3)
            self.double()

        def forward(self, x):
            return self.lstm(self.conv(x).permute(2, 0, 1))[0]

    model = TimeFirst()
    maps = model(x)  # (time, batch, channels)
    found = Sonifier(model).sonify(x, layer="lstm", channel="most_active")
    assert found.channel == maps.mean(0).argmax(-1).tolist()


# --- verification ---------------------------------------------------------------------------------


def test_a_layer_that_was_heard_shows_how_far_it_is_from_the_model():
    torch.manual_seed(0)
    sonifier = Sonifier(nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 3)).eval())
    x = torch.randn(50)
    assert "verified" not in str(sonifier.layers(x))
    sonifier.sonify(x, layer="1#1", channel=0)
    table = sonifier.layers(x)
    assert [row.verified for row in table] == [None, sonifier.verified["1#1"], None]
    head, *lines = str(table).splitlines()
    assert head.endswith("verified")
    assert [line.rstrip().endswith(" -") for line in lines] == [True, False, True]


def test_a_layer_that_runs_twice_shows_it_for_the_call_that_was_heard():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.relu(x).sin())

    sonifier, x = Sonifier(Twice()), torch.randn(1, 2, 50)
    sonifier.sonify(x, layer="relu#2", channel=0)
    known = {row.name: row.verified is not None for row in sonifier.layers(x)}
    assert known["relu#2"]
    assert not known["relu#1"]
