"""Bad input: for each its own error that says what to do, and a model that was not touched."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from untouched import untouched

from deconv1d import (
    RULES,
    ChannelError,
    Deconv1dError,
    InputError,
    LayerError,
    ModelError,
    PathError,
    Rule,
    Sonifier,
    errors,
)
from deconv1d.forward import TooShort

SHORTEST = 12


def network() -> nn.Sequential:
    """Needs 12 samples up to conv2, 5 for conv1 and (2 * 4 - 1) more, and 14 up to pool2."""
    torch.manual_seed(0)
    layers = OrderedDict(
        conv1=nn.Conv1d(1, 4, 5),
        bn1=nn.BatchNorm1d(4),
        act1=nn.ReLU(),
        pool1=nn.MaxPool1d(2),
        conv2=nn.Conv1d(4, 6, 4),
        pool2=nn.AvgPool1d(2, 1),
        drop=nn.Dropout(),
    )
    model = nn.Sequential(layers)
    model.bn1.eval()
    return model


@pytest.fixture
def model():
    return network()


@pytest.fixture
def x():
    return torch.randn(2, 1, 60, generator=torch.manual_seed(1))


def fails(model, error, message, x, *, sonifier=None, **asked):
    """Asks for a sonification that must fail so, and leave the model as it was."""
    sonifier = Sonifier(model) if sonifier is None else sonifier
    asked = {"layer": "conv2", "channel": 0, **asked}
    with untouched(model), pytest.raises(error, match=message) as caught:
        sonifier.sonify(x, **asked)
    assert type(caught.value) in (error, TooShort)  # the only one with a kind of its own


# --- the waveform --------------------------------------------------------------------------------

NUMBERS = r"expected a tensor or an array of numbers.*Read files with"
FLOATING = r"expected a floating dtype\. Convert it first, 16-bit samples by x / 32768"
EMPTY = r"expected samples along the last axis, got shape \({}\)\. Check how"
FINITE = (
    r"expected finite samples, got {} NaN or infinite of {}, the first at index \({}\)\. Repair"
)
SHORT = (
    rf"too short .*: expected at least {SHORTEST} samples, got {{}}\. Give a longer one, or pad it"
)
CHANNELS = (
    r"channels does not fit layer 'conv1' \(.*:\d+\): expected 1, got {}.*"
    r"Give x\.reshape\({}, 1, 60\) for"
)
RANK = (
    r"rank does not fit layer 'conv1' \(.*:\d+\): expected rank 3, .*got shape \({}\).*"
    r"Give x\.reshape\(1, 1, 60\)"
)


def holed(place, value, *shape):
    x = torch.ones(shape)
    x[place] = value
    return x


WAVEFORMS = {
    "None": (None, "is a NoneType: " + NUMBERS),
    "a file": (
        "dog.wav",
        r"'dog\.wav' needs a sample rate .*: expected the model's.* Give it once",
    ),
    "bytes": (b"RIFF", "is a bytes: " + NUMBERS),
    "dict": ({"x": [1.0]}, "is a dict: " + NUMBERS),
    "objects": (np.array([1.0, None]), "is a ndarray: " + NUMBERS),
    "ragged": ([[1.0, 2.0], [3.0]], "is a list: " + NUMBERS),
    "complex array": (np.ones(60, complex), "dtype torch.complex128: " + FLOATING),
    "complex tensor": (torch.ones(60, dtype=torch.cfloat), "dtype torch.complex64: " + FLOATING),
    "integers": (torch.ones(60, dtype=torch.int16), "dtype torch.int16: " + FLOATING),
    "numbers without a point": ([1, 2, 3], "dtype torch.int64: " + FLOATING),
    "truths": (np.ones(60, bool), "dtype torch.bool: " + FLOATING),
    "empty list": ([], EMPTY.format("0,")),
    "no samples": (torch.zeros(2, 1, 0), EMPTY.format("2, 1, 0")),
    "no examples": (torch.zeros(0, 1, 60), EMPTY.format("0, 1, 60")),
    "one number": (torch.tensor(1.0), EMPTY.format("")),
    "NaN": (holed((1, 0, 7), float("nan"), 2, 1, 60), FINITE.format(1, 120, "1, 0, 7")),
    "infinity": (holed(slice(3, 5), float("inf"), 60), FINITE.format(2, 60, "3,")),
    "minus infinity": (holed(59, -float("inf"), 60).numpy(), FINITE.format(1, 60, "59,")),
    "one sample": (torch.ones(1), SHORT.format(1)),
    "too short": (torch.ones(2, 1, SHORTEST - 1), SHORT.format(SHORTEST - 1)),
    "too short mono": (torch.ones(SHORTEST - 1), SHORT.format(SHORTEST - 1)),
    "stereo": (torch.ones(1, 2, 60), CHANNELS.format(2, 2)),
    "clips too short": (torch.ones(3, SHORTEST - 1), SHORT.format(SHORTEST - 1)),
    "rank 4": (torch.ones(1, 1, 1, 60), RANK.format("1, 1, 1, 60")),
}


@pytest.mark.parametrize("case", WAVEFORMS)
def test_a_waveform_that_cannot_be_used(model, case):
    x, message = WAVEFORMS[case]
    fails(model, InputError, message, x)


@pytest.mark.parametrize(("layer", "shortest"), [("conv2", SHORTEST), ("pool2", 14)])
def test_a_waveform_is_long_enough_for_its_layer_or_an_error_says_so(model, layer, shortest):
    message = rf"too short .*: expected at least {shortest} samples, got {shortest - 1}\."
    fails(model, InputError, message, torch.ones(shortest - 1), layer=layer)
    for x in (torch.randn(shortest), torch.randn(2, 1, shortest)):
        assert Sonifier(model).sonify(x, layer=layer, channel=None).raw.shape == x.shape


class Unbatched(nn.Sequential):
    """Takes (channels, time), and nothing else."""

    def forward(self, x):
        if x.dim() != 2:
            raise RuntimeError("no batches")
        return super().forward(x)


@pytest.mark.parametrize("channels", [1, 4])  # other than the map has, and just as many
def test_a_waveform_needs_a_batch(channels):
    model, x = Unbatched(nn.Conv1d(channels, 4, 3)), torch.ones(channels, 60)
    message = rf"expected a batch first, got shape \({channels}, 60\).*or one clip as a 1-D array"
    fails(model, InputError, message, x, layer="0")


DOORS = {
    "layers": lambda sonifier, x: sonifier.layers(x),
    "plan": lambda sonifier, x: sonifier.plan(x, "pool2"),
    "deconvnet": lambda sonifier, x: sonifier.deconvnet(x, "pool2"),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_checks_the_waveform(model, door):
    for x, message in [(None, NUMBERS), (torch.ones(5), "expected at least 14 samples, got 5")]:
        with untouched(model), pytest.raises(InputError, match=message):
            DOORS[door](Sonifier(model), x)


# --- the layer -----------------------------------------------------------------------------------


class Paths(nn.Module):
    """Layers that the waveform reaches only by ops without a derivative, or not at all."""

    def __init__(self):
        super().__init__()
        self.conv, self.code, self.side = nn.Conv1d(1, 4, 5), nn.Embedding(4, 3), nn.Conv1d(3, 2, 1)
        self.numbers, self.position, self.unused = (
            nn.Identity(),
            nn.Parameter(torch.ones(1, 3, 9)),
            nn.ReLU(),
        )

    def forward(self, x):
        codes = self.code(self.numbers(self.conv(x).argmax(1)))
        return codes.sum() + F.relu(self.side(self.position)).sum()


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (
            "code",
            PathError,
            r"from layer 'code' to the waveform: .*ends at argmax#1 \(.*\.py:\d+\)\. Choose",
        ),
        (
            "side",
            PathError,
            r"from layer 'side' to the waveform: expected a path of diff.*layers\(x\)",
        ),
        (
            "numbers",
            LayerError,
            r"'numbers' cannot be sonified: .*returns a floating tensor.*layers",
        ),
        ("unused", LayerError, r"'unused' never ran: expected .* to call it\. Choose one that"),
        ("convv", LayerError, r"No layer 'convv' in this model: expected .*'conv'.*layers\(x\)"),
    ],
)
def test_a_layer_that_cannot_be_heard(x, layer, error, message):
    fails(Paths(), error, message, x, layer=layer)


# --- channels and words --------------------------------------------------------------------------

WORDS = r'a number from 0 to 5, a list of them, "all", "most_active" or None'


@pytest.mark.parametrize("channel", [6, -1, [0, 6], np.int64(99), torch.tensor([2, -3])], ids=repr)
def test_a_channel_out_of_range(model, x, channel):
    message = (
        r"Channel (6|-1|99|-3) is out of range in layer 'conv2': expected 0 to 5\. .*layers\(x\)"
    )
    fails(model, ChannelError, message, x, channel=channel)


NO_CHANNELS = [
    *("most active", "ALL", "", 1.0, True, [True], [], [0, "1"], {}, [[0]], [0.5], 1j),
    *(np.array([0.5]), np.array([[0, 1]]), np.array([True]), np.array(1.0), np.array([], int)),
    *(torch.tensor(2.0), torch.tensor([[0]]), torch.tensor([True])),
]


@pytest.mark.parametrize("channel", NO_CHANNELS, ids=repr)
def test_a_channel_that_is_no_channel(model, x, channel):
    fails(
        model, InputError, rf"Unknown channel .*layer 'conv2': expected {WORDS}", x, channel=channel
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tap": "blok"}, r"Unknown tap 'blok': expected one of 'block', 'output'"),
        ({"seed": "one"}, r"Unknown seed 'one': expected one of 'activation', 'ones', 'peak'"),
        ({"seed": None}, r"Unknown seed None"),
        (
            {"method": "zeiler"},
            r"Unknown method 'zeiler': expected one of 'deconvnet', 'guided', 'gr",
        ),
        (
            {"channel_axis": 0},
            r"channel_axis=0 does not fit the map: expected .*of shape \(2, 6, 25\).*layers",
        ),
        ({"channel_axis": 3}, r"channel_axis=3 does not fit the map"),
        ({"channel_axis": -3}, r"channel_axis=-3 does not fit the map"),
        (
            {"seed": lambda maps: maps[:1]},
            r"shape \(2, 6, 25\), got \(1, 6, 25\)\. Return a value for",
        ),
        (
            {"seed": lambda maps: None},
            r"seed function does not fit the map: expected .*got NoneType",
        ),
        ({"seed": lambda maps: 1.0}, r"seed function does not fit the map: expected .*got float"),
    ],
)
def test_an_argument_that_does_not_fit(model, x, asked, message):
    fails(model, InputError, message, x, **asked)


@pytest.mark.parametrize("ask", ["plan", "deconvnet"])
@pytest.mark.parametrize("asked", [{"tap": "blok"}, {"method": "zeiler"}])
def test_plan_and_deconvnet_check_their_words(model, x, ask, asked):
    with untouched(model), pytest.raises(InputError, match=r"Unknown (tap|method)"):
        getattr(Sonifier(model), ask)(x, "conv2", **asked)


# --- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing", [None, F.relu, nn.Conv1d, {"state": 1}], ids=lambda x: type(x).__name__
)
def test_a_model_that_is_no_module(thing):
    with pytest.raises(InputError, match=r"model is a \w+: expected a torch\.nn\.Module\. Wrap"):
        Sonifier(thing)


def test_a_model_of_nan(model, x):
    model.conv2.weight.data[0, 0, 0] = float("nan")
    message = r"map of 'conv2\.convolution#1' has NaN or infinite values: .*Check its weights"
    fails(model, ModelError, message, x)


def test_a_sound_beyond_the_range_of_its_dtype_is_an_error(model, x):
    message = r"not finite: expected numbers within torch\.float16's range\. Give .*float32"
    asked = {"channel": None, "seed": lambda maps: 1e9 * maps.sign()}
    fails(model, ModelError, message, x.half(), **asked)


def test_a_model_that_fails_says_which_op_where_and_on_what(x):
    class Sum(nn.Module):
        def forward(self, x):
            return x + torch.ones(7)

    model = nn.Sequential(OrderedDict(sum=Sum(), conv=nn.Conv1d(1, 1, 3)))
    line = Sum.forward.__code__.co_firstlineno + 1
    message = (
        r"failed on a waveform of shape \(2, 1, 60\): aten\.add in layer 'sum' "
        rf"\(.*errors\.py:{line}\) got shapes \[\(2, 1, 60\), \(7,\)\]: .*Give what the model takes"
    )
    fails(model, ModelError, message, x, layer="conv")


def test_a_model_that_needs_more_arguments_raises_its_own_error(x):
    class Needy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3)

        def forward(self, x, lengths):
            return self.conv(x) * lengths

    fails(Needy(), TypeError, "missing 1 required positional argument: 'lengths'", x, layer="conv")


class BehindTorchsBack(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.conv, self.factor = nn.Conv1d(1, 2, 3), factor

    def forward(self, x):
        y = self.conv(x)
        y.numpy()[...] *= self.factor
        return y.relu()


@pytest.mark.filterwarnings("error")
def test_verification_finds_a_capture_that_does_not_replay(x):
    honest = Sonifier(BehindTorchsBack(1), verify="always")
    assert honest.sonify(x, layer="relu#1", channel=1).raw.any()
    model = BehindTorchsBack(2)
    message = (
        r"not what the model computes: expected the value of .* at 'relu#1' .*report this model"
    )
    asked = {"layer": "relu#1", "sonifier": Sonifier(model, verify="always")}
    fails(model, ModelError, message, x, **asked)


# --- rules ---------------------------------------------------------------------------------------

relu = torch.ops.aten.relu


def test_a_rule_that_carries_nothing_blocks_the_path(model, x):
    rules = {**RULES, relu: Rule("pass", lambda op, signal, emit: iter(()), block=True)}
    message = r"gets from 'conv2\..*' back to .*none past 'act1\.relu#1' \(.*\)\. Choose a layer"
    fails(model, PathError, message, x, sonifier=Sonifier(model, rules=rules))


def test_a_rule_must_name_the_values_that_it_reads(model, x):
    def carry_back(op, signal, emit):
        yield op["self"], emit(torch.mul, signal, emit.value(op["self"]))

    message = r"reads the forward value of 'bn1\.batch_norm#1', which was not kept\. Name .*`keeps`"
    rules = {**RULES, relu: Rule("gradient", carry_back)}
    fails(model, InputError, message, x, sonifier=Sonifier(model, rules=rules))
    named = {**RULES, relu: Rule("gradient", carry_back, keeps=lambda op: [op["self"]])}
    assert Sonifier(model, rules=named).sonify(x, layer="conv2", channel=0).flagged == 1 / 5


# --- the classes ---------------------------------------------------------------------------------

BUILTINS = {
    "InputError": ValueError,
    "LayerError": LookupError,
    "ChannelError": IndexError,
    "PathError": ValueError,
    "ModelError": RuntimeError,
    "FileError": OSError,
    "DependencyError": ImportError,
}


def test_every_error_is_ours_and_a_builtin():
    found = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Deconv1dError) and kind is not Deconv1dError
    }
    assert found.keys() == BUILTINS.keys()
    assert all(issubclass(found[name], builtin) for name, builtin in BUILTINS.items())
    assert issubclass(errors.SilenceWarning, UserWarning)
