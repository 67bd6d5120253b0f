"""Where a block ends is decided once: the table of layers says what `sonify` does, on any model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from oracles import random
from torch import Tensor, nn
from zoo import built, waveforms

from deconv1d import ChannelError, PathError, Sonifier
from deconv1d.layers.axes import layout_of
from deconv1d.layers.table import layer_table
from deconv1d.mirror import mirror
from deconv1d.record.capture import capture
from deconv1d.record.request import TapRequest
from deconv1d.rules.op import shape_of
from deconv1d.rules.table import RULES

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]


def request_of(name: str, model: nn.Module) -> TapRequest:
    """What `sonify` asks the recorder for, of a row's name."""
    path, _, _ = name.partition("#")
    if path in dict(model.named_modules()):
        return TapRequest(name if "#" in name else f"{name}#1")
    return TapRequest(name, is_op=True)


def test_the_table_of_layers_tells_the_truth(architecture):
    """Each row's channels, axis and end of block are those of the map that is heard.

    The maps are taken while the model runs, all in one forward pass; the rows come from the graph
    of another.
    """
    model, x = built(architecture), waveforms(architecture)

    def run(**options):
        torch.manual_seed(2)
        return capture(model, x, forward=architecture.forward, **options)

    table = layer_table(run(), model, RULES, {})
    names = [row.name for row in table]
    assert len(set(names)) == len(names)
    targets = [request_of(name, model) for name in names]
    seen = run(target=targets, method="forward")
    for row, tap in zip(table, seen.taps, strict=True):
        assert tap is not None, row
        assert row.block_ends_in in (*called(tap), row.name), (row, called(tap))
        channel = layout_of(seen, tap).channel
        assert (row.channel_axis, row.channels) == (channel, shape_of(tap)[channel]), row


def called(tap: torch.fx.Node) -> tuple[str, str]:
    """What a row may call the end of a block: the module that it lies in, or the op."""
    return tap.meta.get("label", ""), tap.meta.get("name", "")


# --- ops that look at a map and ops that end its block -------------------------------------------


class Looking(nn.Module):
    """A convolution whose map is looked at before it is rectified and pooled."""

    def __init__(self, look) -> None:
        super().__init__()
        self.conv, self.look = nn.Conv1d(1, 3, 5), look
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        seen = self.look(h)
        return F.max_pool1d(F.relu(h), 2), seen


LOOKS = {
    "nothing": lambda h: None,
    "a comparison": lambda h: h > 0,
    "argmax": lambda h: h.argmax(-1),
    "long": lambda h: h.long(),
    "isnan": lambda h: h.isnan(),
    "sign bit": torch.signbit,
    "zeros": torch.zeros_like,
    "noise": torch.randn_like,
    "zeros of another size": lambda h: h.new_zeros(3),
    "nonzero": lambda h: h.nonzero(),
}
ENDS = {
    "its mean": lambda h: h.mean(),
    "a sine": torch.sin,
    "sorted": lambda h: h.sort(-1),
    "a sine in place": lambda h: h.sin_(),
    "its largest": lambda h: h.topk(2),
    "a slice": lambda h: h[..., 1:],
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_block_goes_on_after_a_look(look):
    check_end(Looking(LOOKS[look]), "max_pool1d#1", lambda h: F.max_pool1d(F.relu(h), 2))


@pytest.mark.parametrize("use", ENDS)
def test_a_block_ends_before_what_takes_the_map(use):
    check_end(Looking(ENDS[use]), "conv", lambda h: h)


def check_end(model: Looking, name: str, end) -> None:
    sonifier, x = Sonifier(model), random(2, 1, 30)
    ends = {row.name: row.block_ends_in for row in sonifier.layers(x)}
    assert ends["conv"] == name
    expected = end(model.conv(x)).detach()
    torch.testing.assert_close(sonifier.maps(x, layer="conv"), expected)
    found = sonifier.sonify(x, layer="conv", channel="all")
    torch.testing.assert_close(found.activation, expected)


def test_what_a_module_does_with_its_map_before_it_returns_it_is_not_its_block():
    """The mean is taken inside; what goes on is what takes the map up afterwards."""

    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 3, 5)

        def forward(self, x):
            h = self.conv(x)
            self.level = h.mean()
            return h

    model = nn.Sequential(Noting(), nn.ReLU()).double()
    sonifier, x = Sonifier(model), random(2, 1, 30)
    assert {row.name: row.block_ends_in for row in sonifier.layers(x)} == {
        "0.conv": "0.conv",
        "0": "1",
        "1": "1",
    }
    assert torch.equal(sonifier.maps(x, layer="0"), F.relu(model[0].conv(x)))
    assert torch.equal(sonifier.maps(x, layer="0.conv"), model[0].conv(x))


def test_a_layer_of_whole_numbers_is_refused_without_naming_itself():
    class Rounding(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv1d(1, 3, 5), nn.Identity()

        def forward(self, x):
            return self.last(self.conv(x).long().float())

    sonifier, x = Sonifier(Rounding()), torch.randn(1, 1, 20)
    assert sonifier.sonify(x, layer="conv", channel=0).raw.any()
    with pytest.raises(PathError, match=r"before that, such as 'conv'"):
        sonifier.sonify(x, layer="last", channel=0)


def three(rows):
    """The first row, one in the middle, the last; of one row that one alone."""
    return list({row.name: row for row in (rows[0], rows[len(rows) // 2], rows[-1])}.values())


def carried_from(architecture, rows_of):
    """Carries the last channel of each chosen row back, all from one recording of the model."""
    model, x = built(architecture), waveforms(architecture)

    def run(**options):
        torch.manual_seed(2)
        return capture(model, x, forward=architecture.forward, **options)

    rows = rows_of(list(layer_table(run(), model, RULES, {})))
    seen = run(target=[request_of(row.name, model) for row in rows], method="deconvnet")
    for row, tap in zip(rows, seen.taps, strict=True):
        deconvnet = mirror(replace(seen, taps=(tap,)))
        seed = torch.zeros(deconvnet.map_shape, dtype=tap.meta["dtype"])
        piece = seed if row.channel_axis is None else seed.select(row.channel_axis, -1)
        piece.fill_(1)
        raw = deconvnet(seed)
        assert raw.shape == x.shape, row
        assert raw.isfinite().all(), row


def test_rows_of_the_table_can_be_sonified(architecture):
    carried_from(architecture, three)


@pytest.mark.slow
def test_every_row_of_the_table_can_be_sonified(architecture):
    model, x = built(architecture), waveforms(architecture)
    carried_from(architecture, lambda rows: rows)
    sonifier = Sonifier(model, forward=architecture.forward, verify=False)
    for row in sonifier.layers(x):
        heard = sonifier.sonify(x, layer=row.name, channel=row.channels - 1)
        assert heard.raw.shape == x.shape
        with pytest.raises(ChannelError):
            sonifier.sonify(x, layer=row.name, channel=row.channels)
