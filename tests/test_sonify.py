"""The front door: what a sonification is, for every form of channel, seed, shape and dtype."""

import copy
import math
from collections import OrderedDict
from dataclasses import make_dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deconv1d import Deconvnet, Sonifier, channels
from deconv1d.sounding import to_peak_of

SAMPLES = 101


def network() -> nn.Sequential:
    """Three blocks and a head; conv2 makes 6 maps of 24 values from 101 samples."""
    torch.manual_seed(0)
    features = OrderedDict(
        conv1=nn.Conv1d(1, 4, 5, bias=False),
        act1=nn.ReLU(),
        mp1=nn.MaxPool1d(2),
        conv2=nn.Conv1d(4, 6, 3, stride=2, padding=1, bias=False),
        act2=nn.ReLU(),
        conv3=nn.Conv1d(6, 3, 3),
    )
    head = OrderedDict(pool=nn.AdaptiveAvgPool1d(1), flat=nn.Flatten(), out=nn.Linear(3, 2))
    parts = OrderedDict(features=nn.Sequential(features), head=nn.Sequential(head))
    return nn.Sequential(parts).double().eval()


@pytest.fixture
def model():
    return network()


@pytest.fixture
def sonifier(model):
    return Sonifier(model, sample_rate=8000)


@pytest.fixture
def x():
    return torch.randn(2, 1, SAMPLES, dtype=torch.float64, generator=torch.manual_seed(1))


def map_of(model, x):
    """The block of conv2 by plain torch."""
    return F.relu(model.features.conv2(model.features.mp1(F.relu(model.features.conv1(x)))))


def gradient(model, x, seed):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(map_of(model, x), x, seed)[0]


def only(values, channel):
    kept = torch.zeros_like(values)
    kept[:, channel] = values[:, channel]
    return kept


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# --- methods and channels ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deconvnet", "guided"])
def test_equals_figure_b2_written_by_hand(model, sonifier, x, method):
    conv1, conv2 = model.features.conv1, model.features.conv2
    before1 = conv1(x)
    pooled, switches = F.max_pool1d(F.relu(before1), 2, return_indices=True)
    before2 = conv2(pooled)
    signal = F.relu(only(F.relu(before2), 4)) * (before2 > 0 if method == "guided" else 1)
    signal = F.conv_transpose1d(signal, conv2.weight, stride=2, padding=1, output_padding=1)
    signal = F.max_unpool1d(signal, switches, 2, output_size=before1.shape)
    signal = F.relu(signal) * (before1 > 0 if method == "guided" else 1)
    expected = F.conv_transpose1d(signal, conv1.weight)
    found = sonifier.sonify(x, layer="conv2", channel=4, method=method)
    close(found.raw, expected)
    assert torch.equal(found.activation, map_of(model, x))


def test_gradient_is_autograds(model, sonifier, x):
    found = sonifier.sonify(x, layer="conv2", channel=4, method="gradient").raw
    close(found, gradient(model, x, only(map_of(model, x), 4)))


@pytest.mark.parametrize(
    "channel", [4, np.int64(4), np.uint8(4), torch.tensor(4), np.array(4)], ids=repr
)
def test_one_channel_is_one_sound(sonifier, x, channel):
    found = sonifier.sonify(x, layer="conv2", channel=channel)
    assert (found.channel, type(found.channel)) == (4, int)
    assert found.raw.shape == x.shape
    assert torch.equal(found.raw, sonifier.sonify(x, layer="conv2", channel=[4]).raw[0])


@pytest.mark.filterwarnings("ignore::deconv1d.SilenceWarning")
@pytest.mark.parametrize(
    ("channels", "numbers"),
    [
        ([5, 0, 5], [5, 0, 5]),
        ((4,), [4]),
        (range(1, 6, 2), [1, 3, 5]),
        (np.array([2, 4]), [2, 4]),
        (torch.tensor([2, 4]), [2, 4]),
        ([np.int64(2), torch.tensor(4)], [2, 4]),
        ("all", [0, 1, 2, 3, 4, 5]),
    ],
    ids=repr,
)
def test_several_channels_are_the_single_ones_in_order(sonifier, x, channels, numbers):
    found = sonifier.sonify(x, layer="conv2", channel=channels)
    assert found.channel == numbers
    assert found.gain.shape == (len(numbers), 2)
    for place, number in enumerate(numbers):
        alone = sonifier.sonify(x, layer="conv2", channel=number)
        for part in ("raw", "waveform", "gain", "residual"):
            close(getattr(found, part)[place], getattr(alone, part))


def test_most_active_is_each_examples_largest_mean():
    model = nn.Sequential(nn.Conv1d(1, 3, 1, bias=False)).double()
    model[0].weight.data = torch.tensor([1.0, -1.0, 0.5]).double()[:, None, None]
    x = torch.full((2, 1, 50), 0.1, dtype=torch.float64)
    x[0, 0, 7] = -3.0  # the strongest moment is channel 1's, the largest mean channel 0's
    x[1] = -x[0]
    found = Sonifier(model).sonify(x, layer="0", channel="most_active")
    assert found.channel == [0, 1]
    close(found.raw, x)
    assert Sonifier(model).sonify(x[0, 0], layer="0", channel="most_active").channel == 0


def test_no_channel_is_every_map_at_once(model, sonifier, x):
    found = sonifier.sonify(x, layer="conv2", channel=None, method="gradient")
    assert found.channel is None
    expected = gradient(model, x, map_of(model, x))
    close(found.raw, expected)


def test_a_batch_is_its_examples(sonifier, x):
    whole = sonifier.sonify(x, layer="conv3", channel=[0, 2])
    for example in range(2):
        alone = sonifier.sonify(x[example : example + 1], layer="conv3", channel=[0, 2])
        close(whole.waveform[:, example], alone.waveform[:, 0])


@pytest.mark.parametrize(("megabytes", "runs"), [(0.05, 64), (1, 5), (100, 1)])
def test_all_channels_of_a_wide_layer_run_in_chunks(monkeypatch, megabytes, runs):
    seeds = []
    run = Deconvnet.__call__
    monkeypatch.setattr(
        Deconvnet, "__call__", lambda self, seed: seeds.append(seed.shape) or run(self, seed)
    )
    monkeypatch.setattr(channels, "CHUNK_BYTES", int(megabytes * 2**20))
    wide = nn.Sequential(nn.Conv1d(1, 64, 9), nn.ReLU())
    sonifier = Sonifier(wide, verify=False)  # which carries one seed more
    found = sonifier.sonify(torch.randn(300), layer="0", channel="all")
    largest = max(math.prod(shape) * 4 for shape in seeds)
    assert largest <= max(megabytes * 2**20, 64 * 292 * 4)
    assert len(seeds) == runs
    assert found.raw.shape == (64, 300)


# --- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", [4, [0, 4], None])
def test_seed_of_ones(model, sonifier, x, channel):
    found = sonifier.sonify(x, layer="conv2", channel=channel, seed="ones", method="gradient")
    ones = torch.ones_like(map_of(model, x))
    numbers = channel if isinstance(channel, list) else [channel]
    seeds = [ones if number is None else only(ones, number) for number in numbers]
    expected = torch.stack([gradient(model, x, seed) for seed in seeds])
    close(found.raw.reshape(expected.shape), expected)


def test_seed_of_peaks_is_each_maps_strongest_moment(model, sonifier, x):
    maps, seed = map_of(model, x), torch.zeros(2, 6, 24, dtype=torch.float64)
    for example in range(2):
        for channel in range(6):
            moment = maps[example, channel].argmax()
            seed[example, channel, moment] = maps[example, channel, moment]
    found = sonifier.sonify(x, layer="conv2", channel=None, seed="peak", method="gradient")
    close(found.raw, gradient(model, x, seed))


def test_one_peak_sounds_for_one_receptive_field(sonifier, x):
    field = next(row for row in sonifier.layers(x) if row.name == "features.conv2").receptive_field
    raw = sonifier.sonify(x[:1], layer="conv2", channel=4, seed="peak").raw
    heard = raw.flatten().nonzero()
    assert 0 < heard.max() - heard.min() < field == 10


def test_peaks_follow_the_channel_axis():
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()  # (batch, time, channels)
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    found = Sonifier(model).sonify(x, layer="0", channel=1, seed="peak", tap="output").raw
    moments = model(x)[..., 1].argmax(1)
    assert [e.nonzero()[:, 0].unique().tolist() for e in found] == [[m] for m in moments.tolist()]


def test_seed_by_a_function(model, sonifier, x):
    def squares(maps):
        maps[:] = maps**2  # on its own copy
        return maps.float()

    found = sonifier.sonify(x, layer="conv2", channel=4, seed=squares, method="gradient")
    maps = map_of(model, x)
    expected = gradient(model, x, only((maps**2).float().double(), 4))
    close(found.raw, expected)
    assert torch.equal(found.activation, maps)


def test_the_seed_is_not_rectified_at_the_tap(x):
    model = nn.Sequential(nn.Conv1d(1, 2, 3, bias=False), nn.ReLU()).double()
    found = Sonifier(model).sonify(x, layer="0", channel=1, tap="output")
    assert found.activation.min() < 0
    expected = F.conv_transpose1d(only(model[0](x), 1), model[0].weight)
    close(found.raw, expected)


# --- shapes and dtypes ---------------------------------------------------------------------------


class Batched(nn.Module):
    """Takes (batch, time) and adds the channel axis itself."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 4).double()

    def forward(self, x):
        return self.conv(x.unsqueeze(1)).relu()


SHAPES = {
    "mono": (network, "conv2", (SAMPLES,)),
    "mono for (batch, time)": (Batched, "conv", (SAMPLES,)),
    "(batch, time)": (Batched, "conv", (2, SAMPLES)),
    "one of a batch": (network, "conv2", (1, 1, SAMPLES)),
    "stereo": (lambda: nn.Sequential(nn.Conv1d(2, 3, 4)).double(), "0", (2, 2, SAMPLES)),
    "frames": (lambda: nn.Sequential(nn.Conv2d(1, 3, (4, 1))).double(), "0", (2, 1, SAMPLES, 1)),
}


@pytest.mark.filterwarnings("ignore::deconv1d.SilenceWarning")
@pytest.mark.parametrize("case", SHAPES)
def test_shapes_out_are_the_shapes_in(case):
    build, layer, shape = SHAPES[case]
    x = torch.randn(shape, dtype=torch.float64)
    sonifier, batch = Sonifier(build()), shape[:1] if len(shape) > 1 else ()
    for channel, leading in [(0, ()), ([0, 2], (2,)), ([1], (1,)), (None, ()), ("most_active", ())]:
        found = sonifier.sonify(x, layer=layer, channel=channel)
        for part in (found.waveform, found.raw, found.residual):
            assert part.shape == (*leading, *shape)
        assert found.gain.shape == (*leading, *batch)
        assert torch.equal(found.input, x)


def test_mono_is_a_batch_of_one(sonifier, x):
    mono = sonifier.sonify(x[0, 0], layer="conv2", channel=4)
    assert torch.equal(
        mono.waveform, sonifier.sonify(x[:1], layer="conv2", channel=4).waveform[0, 0]
    )


def test_a_model_may_cut_examples_into_frames():
    class Framed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 5).double()

        def forward(self, x):
            return self.linear(x.reshape(-1, 16))

    x = torch.randn(2, 64, dtype=torch.float64)
    assert Sonifier(Framed()).sonify(x, layer="linear", channel=3).raw.shape == x.shape


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x[0, 0].numpy(),
        lambda x: x[0, 0].numpy()[::-1],
        lambda x: x[0, 0].tolist(),
        lambda x: x[0, 0].float().numpy(),
        lambda x: x[0, 0].half(),
        lambda x: x[0, 0].bfloat16(),
        lambda x: x[0, 0].clone().requires_grad_(),
        lambda x: x[0, 0].expand(2, 1, SAMPLES),
    ],
    ids=["float64", "reversed", "list", "float32", "half", "bfloat16", "requires_grad", "expanded"],
)
@pytest.mark.parametrize("inside", [torch.float32, torch.float64], ids=str)
def test_results_are_tensors_in_the_dtype_of_the_waveform(model, x, given, inside):
    given = given(x)
    clip = (
        torch.as_tensor(np.array(given)) if not isinstance(given, torch.Tensor) else given.detach()
    )
    found = Sonifier(model.to(inside)).sonify(given, layer="conv2", channel=4)
    parts = (found.waveform, found.raw, found.input, found.residual, found.activation, found.gain)
    assert all(part.dtype == clip.dtype and not part.requires_grad for part in parts)
    assert torch.equal(found.input, clip)
    expected = Sonifier(network()).sonify(clip.double(), layer="conv2", channel=4)
    error = (found.waveform.double() - expected.waveform).norm() / expected.waveform.norm()
    assert error < 4 * max(torch.finfo(d).eps for d in (clip.dtype, inside))


@pytest.mark.parametrize("size", [1, 100])  # of the weights: the maps fit into float16, raw not
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_models_in_half_precision(model, x, dtype, size):
    model.features.conv1.weight.data *= size
    model.features.conv2.weight.data *= size
    expected = Sonifier(model).sonify(x, layer="conv2", channel=4).raw
    found = Sonifier(copy.deepcopy(model).to(dtype)).sonify(x, layer="conv2", channel=4).raw
    assert found.dtype == x.dtype
    assert (found - expected).norm() / expected.norm() < 4 * torch.finfo(dtype).eps


def tied():
    model = nn.Sequential(nn.Conv1d(1, 3, 4), nn.ReLU(), nn.Conv1d(3, 3, 4), nn.Conv1d(3, 3, 4))
    model[3].weight = model[2].weight
    return model


@pytest.mark.parametrize(("build", "layer"), [(network, "conv3"), (tied, "3")])
def test_dtype_runs_a_float32_model_in_float64(build, layer, x):
    model = build().float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = Sonifier(copy.deepcopy(model).double()).sonify(x, layer=layer, channel=2).raw
    found = Sonifier(model, dtype=torch.float64).sonify(x, layer=layer, channel=2).raw
    close(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


Output = make_dataclass("Output", ["count", "map", "other"])


@pytest.mark.parametrize(
    "output",
    [
        lambda y: (None, y > 0, y, 2 * y),
        lambda y: [3, [y, 2 * y]],
        lambda y: {"count": 3, "map": y, "other": 2 * y},
        lambda y: Output(3, y, 2 * y),
    ],
    ids=["tuple", "nested list", "dict", "dataclass"],
)
def test_the_first_floating_tensor_of_an_output_counts(x, output):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 3, 4).double()

        def forward(self, x):
            return output(self.conv(x))

    model = nn.Sequential(OrderedDict(several=Several()))
    found = Sonifier(model).sonify(x, layer="several", channel=1)
    torch.testing.assert_close(found.activation, model.several.conv(x))


# --- how the model is run ------------------------------------------------------------------------


def test_forward_calls_models_that_take_more_than_a_waveform(model, x):
    class Needy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, lengths, *, waveform):
            return self.inner(waveform) * lengths

    sonifier = Sonifier(Needy(), forward=lambda needy, x: needy(torch.ones(1), waveform=x))
    found = sonifier.sonify(x, layer="conv2", channel=4).raw
    assert torch.equal(found, Sonifier(model).sonify(x, layer="conv2", channel=4).raw)


def test_the_model_is_stopped_at_the_map_if_its_call_is_named(model, sonifier, x):
    ran = []
    model.head.register_forward_hook(lambda *_: ran.append(1))
    first = sonifier.sonify(x, layer="conv2", channel=4).raw
    ran.clear()
    assert torch.equal(sonifier.sonify(x, layer="conv2#1", channel=4).raw, first)
    assert not ran


def test_silence_and_what_is_nearly_silent_scale_to_exactly_nothing():
    x, smallest = torch.ones(3, 5, dtype=torch.float64), 5e-324
    raw = torch.stack([torch.zeros(5), torch.ones(5), torch.full((5,), 3.0)]).double()
    raw[0, 2] = smallest  # 1 / 5e-324 overflows
    scaled, gain = to_peak_of(x[:, None], torch.stack([raw, 0 * raw])[:, :, None])
    assert gain.tolist() == [[0, 1, 1 / 3], [0, 0, 0]]
    assert torch.equal(scaled[0, :, 0], torch.stack([0 * raw[0], raw[1], raw[1]]))
    assert not scaled[1].any()
