"""Names of layers, and where the block of a layer ends."""

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deconv1d
from deconv1d import LayerError, Sonifier


def network() -> nn.Sequential:
    """Three blocks and a head, with the same module names in different places."""
    torch.manual_seed(0)
    block = OrderedDict(conv=nn.Conv1d(1, 4, 5), act=nn.ReLU(inplace=True), pool=nn.MaxPool1d(2))
    other = OrderedDict(conv=nn.Conv1d(4, 6, 3, stride=3), bn=nn.BatchNorm1d(6), act=nn.ReLU())
    features = OrderedDict(
        one=nn.Sequential(block),
        two=nn.Sequential(other),
        drop=nn.Dropout(),
        conv3=nn.Conv1d(6, 3, 3),
    )
    head = OrderedDict(gap=nn.AdaptiveAvgPool1d(1), flat=nn.Flatten(), out=nn.Linear(3, 2))
    parts = OrderedDict(features=nn.Sequential(features), head=nn.Sequential(head))
    return nn.Sequential(parts).double()


@pytest.fixture
def x():
    return torch.randn(2, 1, 200, dtype=torch.float64, generator=torch.manual_seed(1))


def layer_of(model, x, layer, **asked):
    return Sonifier(model).sonify(x, layer=layer, channel=None, **asked).layer


# --- names of modules ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("features.two.conv", "features.two.conv"),
        ("two.conv", "features.two.conv"),
        ("conv3", "features.conv3"),
        ("bn", "features.two.bn"),
        ("bn#1", "features.two.bn#1"),
        ("features", "features"),
        ("features.two", "features.two"),
        ("head", "head"),
        ("module.features.conv3", "features.conv3"),
        ("_orig_mod.module.conv3", "features.conv3"),
        ("module.conv3#1", "features.conv3#1"),
        ("two.conv.convolution#1", "features.two.conv.convolution#1"),
        ("max_pool1d#1", "features.one.pool.max_pool1d#1"),
    ],
)
def test_a_unique_suffix_of_a_path_names_its_layer(x, asked, found):
    assert layer_of(network(), x, asked) == found


@pytest.mark.parametrize(
    ("asked", "candidates"),
    [
        ("conv", ["features.one.conv", "features.two.conv"]),
        ("act", ["features.one.act", "features.two.act"]),
        ("act#1", ["features.one.act", "features.two.act"]),
        ("relu#1", ["features.one.act.relu#1", "features.two.act.relu#1"]),
    ],
)
def test_an_ambiguous_name_is_an_error_with_the_candidates(x, asked, candidates):
    listed = ", ".join(map(repr, candidates))
    with pytest.raises(LayerError, match=rf"is ambiguous: .* got {listed}\. Give one of these"):
        layer_of(network(), x, asked)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("cnv3", "features.conv3"), ("features.tow.conv", "features.two.conv"), ("", "features")],
)
def test_an_unknown_name_is_an_error_with_the_nearest(x, asked, nearest):
    with pytest.raises(LayerError, match=rf"No layer '{asked}' in this model: .*'{nearest}'") as e:
        layer_of(network(), x, asked)
    assert "sonifier.layers(x)" in str(e.value)


@pytest.mark.parametrize("asked", [3, None, b"conv3", ["conv3"], nn.ReLU()], ids=repr)
def test_a_layer_is_named_by_text(x, asked):
    with pytest.raises(LayerError, match=r"expected a module path such as .*layers\(x\)"):
        layer_of(network(), x, asked)


def test_a_whole_path_wins_over_a_suffix(x):
    inner = OrderedDict({"0": nn.Conv1d(1, 2, 3), "conv": nn.Conv1d(2, 2, 3)})
    model = nn.Sequential(nn.Sequential(inner), nn.Conv1d(2, 5, 3)).double()
    assert layer_of(model, x, "1") == "1"
    assert layer_of(model, x, "0") == "0"
    assert layer_of(model, x, "0.0") == "0.0"


def test_an_own_module_named_module_is_no_wrapper(x):
    inner = nn.Sequential(OrderedDict(conv=nn.Conv1d(1, 2, 3)))
    model = nn.Sequential(OrderedDict(module=inner, conv=nn.Conv1d(2, 5, 3))).double()
    assert layer_of(model, x, "module.conv") == "module.conv"
    assert layer_of(model, x, "conv") == "conv"


# --- calls ---------------------------------------------------------------------------------------


class Repeating(nn.Module):
    """One relu called for both convolutions, one module under two names, one never called."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.relu = nn.Conv1d(1, 3, 3), nn.Conv1d(3, 5, 3), nn.ReLU()
        self.again = self.last = nn.Conv1d(5, 5, 3, padding=1)
        self.unused = nn.Conv1d(5, 5, 3)
        self.double()

    def forward(self, x):
        y = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.last(self.again(y))


@pytest.mark.parametrize(("call", "channels"), [(1, 3), (2, 5)])
def test_calls_of_a_module_are_numbered(x, call, channels):
    found = Sonifier(Repeating()).sonify(x, layer=f"relu#{call}", channel=0)
    assert found.layer == f"relu#{call}"
    assert found.activation.shape[1] == channels


@pytest.mark.parametrize(
    ("asked", "path"), [("relu", "relu"), ("again", "again"), ("last", "again")]
)
def test_a_module_called_twice_needs_the_number_of_the_call(x, asked, path):
    message = rf"{path}' is called 2 times: .*Give one of '{path}#1', '{path}#2'"
    sonifier = Sonifier(Repeating())
    for _ in range(2):  # also once its calls are known
        with pytest.raises(LayerError, match=message):
            sonifier.sonify(x, layer=asked, channel=0)


@pytest.mark.parametrize("call", [0, 3])
def test_a_call_that_did_not_happen_is_an_error(x, call):
    with pytest.raises(LayerError, match=rf"'relu#{call}' cannot be sonified: .* got 2 call"):
        layer_of(Repeating(), x, f"relu#{call}")


def test_a_module_that_never_ran_is_an_error(x):
    with pytest.raises(LayerError, match=r"'unused' never ran: expected .*sonifier\.layers\(x\)"):
        layer_of(Repeating(), x, "unused")


class InPieces(nn.Module):
    """Calls its layer once for each 100 samples."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3).double()

    def forward(self, x):
        return torch.cat([F.relu(self.conv(piece)) for piece in x.split(100, -1)], -1)


def test_calls_are_counted_for_each_length(x):
    sonifier = Sonifier(InPieces())
    sonifier.sonify(x[..., :100], layer="conv", channel=0)
    with pytest.raises(LayerError, match="'conv' is called 2 times"):
        sonifier.sonify(x, layer="conv", channel=0)


def test_an_op_may_be_missing_for_another_length(x):
    sonifier = Sonifier(InPieces())
    assert sonifier.sonify(x, layer="relu#2", channel=0).layer == "relu#2"
    with pytest.raises(LayerError, match=r"relu#2"):
        sonifier.sonify(x[..., :100], layer="relu#2", channel=0)


# --- ops without a module ------------------------------------------------------------------------


class Functional(nn.Module):
    """An op before each module; the last module has the name `last`."""

    def __init__(self, last):
        super().__init__()
        self.conv1, self.conv2, self.last = nn.Conv1d(1, 3, 3), nn.Conv1d(3, 5, 3), last
        self.add_module(last, nn.ReLU())
        self.double()

    def forward(self, x):
        y = F.relu(self.conv1(x))
        return getattr(self, self.last)(F.relu(self.conv2(y)) - 1)


@pytest.mark.parametrize(("asked", "channels"), [("relu#2", 5), ("conv1.convolution#1", 3)])
def test_ops_are_numbered_within_their_module_call(x, asked, channels):
    found = Sonifier(Functional("end")).sonify(x, layer=asked, channel=0)
    assert (found.layer, found.activation.shape[1]) == (asked, channels)


def test_ops_of_a_later_call_carry_its_number(x):
    model = Repeating()
    assert layer_of(model, x, "relu#2.relu#1") == "relu#2.relu#1"
    assert layer_of(model, x, "conv2.convolution#1") == "conv2.convolution#1"


@pytest.mark.parametrize("asked", ["relu", "relu#1"])
def test_a_real_module_wins_over_an_op_of_its_name(x, asked):
    model = Functional("relu")
    found = Sonifier(model).sonify(x, layer=asked, channel=0)
    torch.testing.assert_close(found.activation, model(x))


# --- taps ----------------------------------------------------------------------------------------


class Rescale(nn.Module):
    def forward(self, x):
        return 2 * x


GOES_ON = {
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "tanh": nn.Tanh(),
    "batch norm": nn.BatchNorm1d(4),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm1d(4),
    "layer norm": nn.LayerNorm(30),
    "max-pooling": nn.MaxPool1d(3),
    "dropout": nn.Dropout(),
    "identity": nn.Identity(),
    "whole block": nn.Sequential(
        nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.MaxPool1d(2), nn.ELU()
    ),
}
STOPS = {
    "average pooling": nn.AvgPool1d(3),
    "global pooling": nn.AdaptiveAvgPool1d(1),
    "reshape": nn.Flatten(),
    "pad": nn.ConstantPad1d(2, 0.0),
    "convolution": nn.Conv1d(4, 4, 3),
    "linear": nn.Linear(30, 4),
    "upsampling": nn.Upsample(scale_factor=2),
    "scaling": Rescale(),
}


@pytest.mark.parametrize("tail", GOES_ON | STOPS)
def test_a_block_goes_on_through_norms_activations_and_max_pooling(x, tail):
    layers = OrderedDict(conv=nn.Conv1d(1, 4, 3), tail=(GOES_ON | STOPS)[tail], end=Rescale())
    model = nn.Sequential(layers).double().eval()
    conv = model.conv(x[..., :32])
    block = Sonifier(model).sonify(x[..., :32], layer="conv", channel=None)
    output = Sonifier(model).sonify(x[..., :32], layer="conv", channel=None, tap="output")
    assert torch.equal(output.activation, conv)
    expected = model.tail(conv.clone()) if tail in GOES_ON else conv
    torch.testing.assert_close(block.activation, expected)


@pytest.mark.parametrize("join", [lambda y, x: y + x, lambda y, x: torch.cat([y, x], 1)])
def test_a_block_stops_at_a_join(x, join):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1).double()

        def forward(self, x):
            return join(F.relu(self.conv(x)), x)

    model = Joined()
    found = Sonifier(model).sonify(x, layer="conv", channel=0)
    torch.testing.assert_close(found.activation, F.relu(model.conv(x)))


@pytest.mark.parametrize("write", [torch.Tensor.add_, torch.Tensor.mul_])
def test_a_block_ends_before_what_is_written_into_it(x, write):
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1).double()

        def forward(self, x):
            return F.relu(write(self.conv(x), x))

    model = Written()
    sonifier = Sonifier(model)
    for _ in range(2):  # also once the calls are counted
        found = sonifier.sonify(x, layer="conv", channel=0)
        assert torch.equal(found.activation, model.conv(x))


@pytest.mark.parametrize("layer", ["relu", "pool"])
def test_the_output_of_an_activation_or_pooling_is_where_its_block_begins(x, layer):
    layers = OrderedDict(conv=nn.Conv1d(1, 4, 3), relu=nn.ReLU(), pool=nn.MaxPool1d(2))
    model = nn.Sequential(layers).double()
    expected = model.relu(model.conv(x)) if layer == "relu" else model(x)
    found = Sonifier(model).sonify(x, layer=layer, channel=None, tap="output")
    torch.testing.assert_close(found.activation, expected)


# --- long models ----------------------------------------------------------------------------------


def sines(h):
    return h.sin()


def gates(h):
    return h * h.sigmoid()


def writes(h):
    h = h + 1
    h[:, 1:].mul_(2)
    return h


class Chain(nn.Module):
    def __init__(self, step, length):
        super().__init__()
        self.step, self.length = step, length

    def forward(self, x):
        for _ in range(self.length):
            x = self.step(x)
        return x


def lines_run(function):
    """How many lines of the library a function runs: its work, whatever the machine's speed."""
    count, library = 0, str(Path(deconv1d.__file__).parent)

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(library):
            return None
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("step", [sines, gates, writes])
def test_layers_takes_four_times_the_work_for_four_times_the_ops(step):
    x = torch.randn(1, 2, 9, generator=torch.manual_seed(0))
    short, long = (Sonifier(Chain(step, length)) for length in (30, 120))
    short.layers(x)  # what is done once is done
    assert lines_run(lambda: long.layers(x)) < 4.4 * lines_run(lambda: short.layers(x))
