"""Whatever a model's code looks like, the graph that is captured is what it computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import Function, RectifyingBackward, captured, derivative, heard, mirrored, random
from torch import Tensor, nn
from torch.testing import assert_close

from deconv1d import LayerError, Sonifier
from deconv1d.record.capture import capture
from deconv1d.record.replay import replay
from deconv1d.record.request import TapRequest
from deconv1d.rules.table import METHODS

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def check(run: Function, x: Tensor, twin: Function | None = None, rectifies: bool = False) -> None:
    """The captured function replays, and the ways back are those of autograd through its twin."""
    seen = captured(run, x)
    assert_close(replay(seen), seen.kept[seen.tap], **EXACT)
    assert_close(seen.kept[seen.tap], run(x.clone()), **EXACT)
    signal = random(*seen.kept[seen.tap].shape, seed=3)
    assert_close(mirrored(run, x, "gradient")(signal), oracle(twin or run, x, signal), **EXACT)
    if rectifies:
        with RectifyingBackward():
            expected = oracle(twin or run, x, signal)
        assert_close(mirrored(run, x)(signal), expected, **EXACT)


def oracle(run: Function, x: Tensor, signal: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return derivative(run(leaf * 1), leaf, signal)


# --- writes into views --------------------------------------------------------------------------

PLACES, KERNEL = torch.tensor([4, 0, 4]), random(4, 4, 3, seed=6)


def written(place: object, value: Function) -> Function:
    def run(h: Tensor) -> Tensor:
        h[place] = value(h)
        return h

    return run


def after(write: Callable[[Tensor], object], read: Callable[..., Tensor]) -> Function:
    """Looks at h, writes, and reads what it looked at before."""

    def run(h: Tensor) -> Tensor:
        seen = h[:, 1:3, 2:]
        write(h)
        return read(h, seen)

    return run


def reused_relu(h: Tensor) -> Tensor:
    relu = nn.ReLU(inplace=True)
    identity = relu(h)
    out = F.conv1d(relu(F.conv1d(identity, KERNEL, padding=1)), KERNEL, padding=1)
    out += identity
    return relu(out)


def overwritten_operands(h: Tensor) -> Tensor:
    waves, pooled, gated = h.sin(), F.max_pool1d(h, 2), h * h.sigmoid()
    h.fill_(9.0)
    return waves + gated + h + pooled.repeat(1, 1, 3)[..., :9]


def siblings(h: Tensor) -> Tensor:
    flat, turned, frames = h.view(2, 36), h.mT, h.unfold(-1, 3, 2)
    first = turned.cos()
    flat[:, 5:20].mul_(3)
    return first + turned * frames.sum(-1)[..., :1].mT


def siblings_apart(h: Tensor) -> Tensor:
    flat = h.reshape(2, 36)
    new = torch.cat([flat[:, :5], 3 * flat[:, 5:20], flat[:, 20:]], 1).reshape(2, 4, 9)
    return h.mT.cos() + new.mT * new[..., :3].sum(-1, keepdim=True).mT


def swapped(h: Tensor) -> Tensor:
    saved = h[:, 0].clone()
    h[:, 0] = h[:, 1]
    h[:, 1] = saved
    return h * torch.arange(4.0).double()[:, None]


def buffered(h: Tensor) -> Tensor:
    total = h.new_zeros(2, 8, 9)
    total[:, ::2] = h
    total[:, 1::2].copy_(h.flip(-1))
    total += total.mean(-1, keepdim=True) * 2
    return total


def many_short_lived(h: Tensor) -> Tensor:
    """Memory is used again and again: what was there before must not be taken for what is now."""
    for step in range(40):
        h = h + torch.sin(h * step).mean(-1, keepdim=True) / 40
        h = h * torch.tensor([[[1 + step / 40]] * 4] * 2, dtype=h.dtype)
    return h


def spectrum_cut(h: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(h)
    spectrum[..., 2:4] = 0
    spectrum[..., 1] *= 2j
    torch.view_as_real(spectrum)[..., 0, 1].mul_(3)
    return torch.fft.irfft(spectrum, 9) + spectrum.abs().sum(-1, keepdim=True)


def conjugate_seen_before(h: Tensor) -> Tensor:
    z = torch.complex(h, h.sin())
    conjugate, imaginary = z.conj(), z.imag
    z.mul_(1 - 2j)
    return (conjugate * z).real + imaginary


WRITES: dict[str, Function | tuple[Function, Function]] = {
    "out += identity": (lambda h: torch.tanh(h).add_(h), lambda h: torch.tanh(h) + h),
    "reused in-place relu": reused_relu,
    "operands overwritten": (
        overwritten_operands,
        lambda h: h.sin() + h * h.sigmoid() + 9 + F.max_pool1d(h, 2).repeat(1, 1, 3)[..., :9],
    ),
    "siblings": (siblings, siblings_apart),
    "overlapping": lambda h: (start := h[..., :6], h[..., 3:].mul_(2).sin_(), start.exp())[2],
    "swap": swapped,
    "buffer": buffered,
    "many short-lived": many_short_lived,
    "reshaped in place": lambda h: h.sin().unsqueeze_(1).transpose_(1, 2).squeeze_(2).mul_(2),
    "spectrum": spectrum_cut,
    "conjugate": conjugate_seen_before,
    "silence": written((..., slice(0, 3)), lambda h: 0),
    "mirror": written((..., slice(-3, None)), lambda h: h[..., 2:5].flip(-1)),
    "channel": written((slice(None), 2), lambda h: 3 * h[:, 0] - h[:, 1]),
    "mask": lambda h: written(h < -0.5, lambda h: 0)(h),
    "mask of itself": lambda h: written(h > 0.5, lambda h: h[h > 0.5].sin())(h),
    "places": written((..., PLACES[:2]), lambda h: h[..., :2] * 2),
    "fold": written((slice(None), slice(0, 2)), lambda h: h[:, :2] + h[:, 2:]),
    "view of a view": lambda h: (h[:, 1:][..., 2:5].mul_(2), h)[1],
    "transposed view": lambda h: (h.mT[:, 2].sin_(), h.cos())[1],
    "permuted view": lambda h: (h.permute(2, 0, 1)[1:3].mul_(-2), h.sin())[1],
    "flat view": lambda h: (h.flatten(1)[:, 5:20].zero_(), h)[1],
    "folded view": lambda h: (h.unflatten(1, (2, 2))[:, 1].exp_(), h)[1],
    "wider view": lambda h: (h.unsqueeze(1)[:, 0, 1].sin_(), h * h)[1],
    "diagonal": lambda h: (h.diagonal(0, 1, 2).mul_(3), h.sin())[1],
    "narrow": lambda h: (h.narrow(2, 1, 4).copy_(h[..., :4].clone()), h.sin())[1],
    "relu of a slice": lambda h: (F.relu_(h[:, 1:3]), h * 2)[1],
    "added at places": lambda h: h.index_add_(-1, PLACES, h[..., :3].clone()).sin(),
    "broadcast": lambda h: h.add_(h.mean(-1, keepdim=True)).mul_(h[:, :1].clone()),
    "no copy": (
        lambda h: (h.contiguous().to(h.dtype).mul_(h.cos()), h.sin())[1],
        lambda h: (h * h.cos()).sin(),
    ),
    "other precision": lambda h: written((..., 0), lambda f: 0)(h.float() * 2).double() * h,
    "base written": after(lambda h: h.mul_(3), lambda h, seen: seen.sin() + 1),
    "base written by itself": (
        after(lambda h: h.mul_(h), lambda h, seen: seen * h[:, :2, :7]),
        lambda h: (h * h)[:, 1:3, 2:] * (h * h)[:, :2, :7],
    ),
    "neighbour written": after(lambda h: h[:, 0].sin_(), lambda h, seen: seen.exp()),
    "overlap written": after(lambda h: h[:, 2].sin_(), lambda h, seen: seen.exp()),
    "seen written": after(lambda h: 0, lambda h, seen: (seen.sin_(), h.exp())[1]),
    "both written": after(lambda h: h.sin_(), lambda h, seen: seen.mul_(2) + h[:, 1:3, 2:] ** 2),
    "expanded": lambda h: (e := h[:, :1].expand(2, 4, 9), h.mul_(2), e * h)[2],
    "detached": lambda h: (d := h.detach(), h.mul_(2), h * d)[2],
    "pieces": (
        lambda h: (h.split([1, 3], 1)[1].neg_(), h.sin())[1],
        lambda h: torch.cat([h[:, :1], -h[:, 1:]], 1).sin(),
    ),
    "equal pieces": (
        lambda h: (h.chunk(3, -1)[2].sin_(), h * 2)[1],
        lambda h: torch.cat([h[..., :6], h[..., 6:].sin()], -1) * 2,
    ),
    "halves, one by the other": (
        lambda h: ((parts := h.chunk(2, 1))[0].mul_(parts[1].sigmoid_()), h)[1],
        lambda h: torch.cat([h[:, :2] * h[:, 2:].sigmoid(), h[:, 2:].sigmoid()], 1),
    ),
    "unbound": (
        lambda h: (h.unbind(1)[2].exp_(), h * 2)[1],
        lambda h: torch.stack([h[:, 0], h[:, 1], h[:, 2].exp(), h[:, 3]], 1) * 2,
    ),
    "memory given": (
        lambda h: torch.add(h, h.sin(), alpha=2, out=torch.empty(2, 4, 9).double()) * h,
        lambda h: (h + 2 * h.sin()) * h,
    ),
}
"""In-place functions; with a twin without the writes where autograd refuses them."""
BETWEEN = ("reused in-place relu", "silence", "mask", "fold", "flat view", "swap", "buffer")


@pytest.mark.parametrize("name", WRITES)
def test_writes_are_followed(name):
    run, twin = entry if isinstance(entry := WRITES[name], tuple) else (entry, None)
    check(run, random(2, 4, 9, seed=2), twin=twin)


@pytest.mark.parametrize("name", BETWEEN)
def test_writes_between_rectifiers_are_followed(name):
    run = WRITES[name]
    check(lambda x: F.relu(run(F.relu(x - 0.2) - 0.1)), random(2, 4, 9, seed=2), rectifies=True)


def test_the_waveform_handed_in_is_not_written_into():
    check(lambda x: x.mul_(2).sin_(), x := random(2, 4, 9))
    assert torch.equal(x, random(2, 4, 9))


# --- code that reads values ---------------------------------------------------------------------


class Branching(nn.Module):
    """Which convolutions run, and how often, depends on the waveform."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 4, 3)
        self.loud, self.again = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if h.abs().max() > 1:
            h = F.relu(self.loud(h)) / h.abs().max().item()
        for _ in range(1 + int((x > 0).all())):
            h = F.relu(self.again(h))
        return h


def branching() -> tuple[Sonifier, Tensor, Tensor]:
    """A sonifier, a quiet waveform, and a loud and positive one: its other branches."""
    torch.manual_seed(0)
    x = random(1, 1, 21)
    return Sonifier(Branching().double()), 0.01 * x, 10 * x.abs() + 1


def test_each_input_takes_its_own_branches():
    sonifier, quiet, loud = branching()
    for x, layer, times in ((quiet, "again", 1), (loud, "again#2", 2), (quiet, "again", 1)):
        leaf = x.clone().requires_grad_()
        (map_,) = heard(sonifier.model, [f"again#{times}"], lambda x=leaf: sonifier.model(x))
        deconvnet = sonifier.deconvnet(x, layer, tap="output", method="gradient")
        signal = random(*map_.shape)
        assert_close(deconvnet(signal), derivative(map_, leaf, signal), **EXACT)


def test_a_layer_that_this_input_does_not_reach_is_an_error():
    sonifier, quiet, loud = branching()
    sonifier.sonify(loud, layer="loud", channel=0)
    with pytest.raises(LayerError, match=r"'loud' never ran"):
        sonifier.sonify(quiet, layer="loud", channel=0)


def test_a_layer_that_this_input_calls_twice_must_be_named():
    """Also if the last input called it once."""
    sonifier, quiet, loud = branching()
    sonifier.sonify(quiet, layer="again", channel=None)
    with pytest.raises(LayerError, match=r"'again#1', 'again#2'"):
        sonifier.sonify(loud, layer="again", channel=0)


# --- complex values -----------------------------------------------------------------------------

WINDOW = torch.hann_window(16, dtype=torch.float64)
RESPONSE = torch.complex(random(16, 1, seed=7), random(16, 1, seed=8))


def log_spectrogram(x: Tensor) -> Tensor:
    return torch.log1p(torch.stft(x, 16, 5, window=WINDOW, return_complex=True).abs())


def filtered(x: Tensor) -> Tensor:
    """A spectrum times a complex response, phase and all, and back to time."""
    spectrum = torch.stft(x, 16, 4, window=WINDOW, return_complex=True, onesided=False)
    return torch.istft(spectrum * RESPONSE, 16, 4, window=WINDOW, length=x.shape[-1])


def correlated(x: Tensor) -> Tensor:
    return torch.fft.ifft((spectrum := torch.fft.fft(x)) * spectrum.conj() + spectrum).real


def gabor(x: Tensor) -> Tensor:
    """The envelope of a complex filter bank."""
    filters = torch.complex(KERNEL[:, :1], KERNEL[:, 1:2])
    return F.conv1d(x[:, None].to(filters.dtype), filters, padding="same").abs()


@pytest.mark.parametrize("run", [log_spectrogram, filtered, correlated, gabor])
def test_complex_values_are_followed(run):
    check(run, random(2, 41))


def test_a_linear_filter_in_the_spectrum_is_carried_by_its_adjoint():
    x, y = random(1, 41, seed=1), random(1, 41, seed=2)
    assert_close((filtered(x) * y).sum(), (x * mirrored(filtered, x)(y)).sum(), **EXACT)


# --- random draws -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: x + torch.randn_like(x),
        lambda x: F.dropout(x, 0.5, training=True).sin(),
        lambda x: x * torch.empty_like(x).uniform_(0.5, 2),
        lambda x: x + torch.randn(9, generator=torch.Generator().manual_seed(1)).double(),
        lambda x: x[..., torch.randperm(9)].sin(),
        lambda x: F.rrelu(x, training=True),
    ],
    ids=["noise", "dropout", "in place", "generator", "order", "rrelu"],
)
def test_random_draws_are_recorded(draw):
    """The map that was seen comes again, whatever the generator draws in between."""
    x = random(2, 4, 9, seed=2)
    seen = captured(draw, x)
    torch.randn(7)
    assert torch.equal(replay(seen), seen.kept[seen.tap])


# --- scripts --------------------------------------------------------------------------------------


class Looped(nn.Module):
    """A loop, a branch and a write, for TorchScript to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for step in range(3):
            if step > 0:
                x = F.relu(x - 0.1 * step)
            x = F.max_pool1d(self.conv(x), 3, 1, 1)
        y = x.clone()
        y[:, :2] += x[:, 2:]
        return y


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "compiled",
    [
        torch.jit.script,
        lambda model: torch.jit.freeze(torch.jit.script(model)),
        lambda model: torch.jit.trace(model, random(2, 4, 9)),
    ],
    ids=["script", "frozen", "trace"],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripts_are_what_they_were_compiled_from(compiled, method):
    torch.manual_seed(0)
    model = Looped().double().eval()
    x, signal = random(2, 4, 9, seed=1), random(2, 4, 9, seed=2)
    expected = mirrored(model, x, method)(signal)
    assert_close(mirrored(compiled(model), x, method)(signal), expected, **EXACT)


# --- where the model is stopped -------------------------------------------------------------------


class Swallowing(nn.Sequential):
    """Goes on after any exception, as servers do."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            try:
                x = layer(x)
            except Exception:
                continue
        return x


@pytest.mark.parametrize("kind", [nn.Sequential, Swallowing])
@pytest.mark.parametrize(("tap", "last", "next_"), [("output", 0, 1), ("block", 4, 6)])
def test_nothing_runs_after_the_map(kind, tap, last, next_):
    """A block goes on to max-pooling; that it ends there shows when the layer after it begins."""
    torch.manual_seed(0)
    block = [nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.Dropout(), nn.MaxPool1d(2)]
    model = kind(*block, nn.AvgPool1d(2), nn.Tanh()).double().eval()
    ran = []
    for layer in model[next_:]:
        layer.register_forward_pre_hook(lambda *call: ran.append(call))
    seen = capture(model, random(1, 1, 19), target=TapRequest("0#1", tap))
    assert ran == []
    assert seen.calls is None
    assert_close(seen.kept[seen.tap], model[: last + 1](random(1, 1, 19)), **EXACT)
