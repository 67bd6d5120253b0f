"""Values that are awkward to carry: complex, drawn at random, in half precision, singular."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import analytic, parts
from oracles import Function, captured, derivative, mirrored, random
from torch import Tensor, nn
from torch.testing import assert_close

from deconv1d import Sonifier
from deconv1d.mining import mine
from deconv1d.record.replay import replay

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def carried_by_autograd(run: Function, x: Tensor, signal: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return derivative(run(x * 1), x, signal)


# --- complex layers ------------------------------------------------------------------------------


class Complex(nn.Module):
    """A spectrum through complex layers, and back to real numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 4, 3)
        self.spectral = nn.Conv1d(4, 6, 3, dtype=torch.complex64)
        self.mixing = nn.Linear(23, 5, dtype=torch.complex64)
        self.end = nn.Conv1d(6, 2, 3)

    def forward(self, x):
        return self.end(self.mixing(self.spectral(torch.fft.rfft(self.conv(x)))).abs())


@pytest.fixture
def clip():
    return torch.randn(1, 1, 50, generator=torch.manual_seed(1))


ASKED = {
    "one": {"channel": 1},
    "the most active": {"channel": "most_active"},
    "all": {"channel": "all"},
    "at once": {"channel": None},
    "ones": {"channel": 1, "seed": "ones"},
    "the strongest moment": {"channel": [0, 2], "seed": "peak"},
    "guided": {"channel": 1, "method": "guided"},
}


@pytest.mark.filterwarnings("error:Casting complex")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("layer", ["spectral", "mixing"])
def test_complex_layers_are_heard(clip, layer, asked):
    found = Sonifier(Complex()).sonify(clip, layer=layer, **ASKED[asked])
    assert found.waveform.dtype == clip.dtype
    assert found.activation.dtype == torch.complex64
    assert found.gain.all()


@pytest.mark.parametrize("layer", ["spectral", "mixing"])
def test_complex_layers_have_the_gradient_of_autograd(clip, layer):
    model, x = Complex(), clip.clone().requires_grad_()
    found = Sonifier(model).sonify(clip, layer=layer, channel=None, method="gradient")
    outputs = []
    model.get_submodule(layer).register_forward_hook(lambda m, a, output: outputs.append(output))
    model(x)
    (expected,) = torch.autograd.grad(outputs[0], x, found.activation)
    assert_close(found.raw, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_complex_map_counts_by_its_magnitude(clip):
    sonifier = Sonifier(Complex(), sample_rate=8000)
    maps = sonifier.maps(clip, layer="spectral").abs()
    strongest = sonifier.sonify(clip, layer="spectral", channel="most_active").channel
    assert [strongest] == maps.mean(-1).argmax(1).tolist()
    row = mine(sonifier, [("a", clip)], layers=["spectral"]).top("spectral", 2)[0]
    assert row.value == float(maps[0, 2].max())
    assert row.position == int(maps[0, 2].argmax())
    mean = mine(sonifier, [("a", clip)], layers=["spectral"], score="mean").top("spectral", 2)[0]
    assert mean.value == pytest.approx(float(maps[0, 2].mean()))


def test_a_complex_layer_has_a_control_card():
    noise = torch.randn(1, 1, 50, generator=torch.manual_seed(1))
    model = Complex()
    model.mixing = nn.Linear(510, 4, dtype=torch.complex64)
    x = noise.repeat(1, 1, 21)[..., :1024]
    card = Sonifier(model, sample_rate=8000).control_card(x, layer="mixing", draws=1)
    assert 0 <= card.specific <= 1


CONJUGATED = {
    "hfft": lambda x: torch.fft.hfft(analytic(x)),
    "hfft of a few": lambda x: torch.fft.hfft(analytic(x), 5, norm="ortho"),
    "hfft2": lambda x: torch.fft.hfft2(analytic(x)),
    "hfftn": lambda x: torch.fft.hfftn(analytic(x), dim=(0, 2)),
    "ihfft": lambda x: parts(torch.fft.ihfft(x).resolve_conj()),
    "ihfft2": lambda x: parts(torch.fft.ihfft2(x).resolve_conj()),
    "vdot": lambda x: parts(torch.vdot(analytic(x)[0, 0], analytic(x)[0, 1])),
    "vecdot": lambda x: parts(torch.linalg.vecdot(analytic(x), analytic(x).flip(-1))),
    "matrix product": lambda x: parts(analytic(x).mH @ analytic(x)),
    "einsum": lambda x: parts(torch.einsum("bct,bdt->bcd", analytic(x), analytic(x).conj())),
    "imaginary part": lambda x: analytic(x).conj().imag @ x.mT,
}


@pytest.mark.parametrize("run", CONJUGATED.values(), ids=CONJUGATED)
def test_what_conjugates_within_is_recorded_as_it_runs(run):
    """Torch conjugates lazily, by a mark on the memory; an op that reads past it is wrong."""
    x = random(2, 3, 7)
    seen = captured(run, x, "gradient")
    assert_close(seen.kept[seen.tap], run(x), **EXACT)
    assert_close(replay(seen), run(x), **EXACT)
    deconvnet = mirrored(run, x, "gradient")
    signal = random(*deconvnet.map_shape, seed=3)
    assert_close(deconvnet(signal), carried_by_autograd(run, x, signal), **EXACT)


# --- draws ---------------------------------------------------------------------------------------


def attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x.flip(-1), 2 * x, x.roll(1, -1), dropout_p=0.4)


def recurrent(kind: type[nn.RNNBase]) -> Function:
    torch.manual_seed(0)
    layer = kind(3, 4, 2, dropout=0.5, batch_first=True).double()
    return lambda x: layer.train()(x.mT)[0]


DRAWING = {
    "attention": attention,
    "rrelu": lambda x: F.rrelu(x, training=True),
    "rrelu in place": lambda x: F.rrelu(x, training=True, inplace=True),
    "dropout": lambda x: F.dropout(x, 0.4, True),
    "dropout in place": lambda x: F.dropout(x, 0.4, True, inplace=True),
    "fused dropout": lambda x: torch.native_dropout(x, 0.4, True)[0],
    "dropout of channels": lambda x: F.dropout1d(x, 0.4, True),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.4, True),
    "added noise": lambda x: x.tanh() + torch.randn_like(x) * x,
    "gumbel": lambda x: F.gumbel_softmax(x, dim=1),
    "fractional pooling": lambda x: F.fractional_max_pool2d(x[:, None], 2, output_size=(2, 3)),
    "lstm": recurrent(nn.LSTM),
    "gru": recurrent(nn.GRU),
}


@pytest.mark.parametrize("run", DRAWING.values(), ids=DRAWING)
def test_what_was_drawn_is_kept_and_never_drawn_again(run):
    x = random(2, 3, 7)
    torch.manual_seed(5)
    seen = captured(run, x, "gradient")
    torch.manual_seed(6)
    deconvnet, before = mirrored(run, x, "gradient"), torch.get_rng_state()
    signal = random(*deconvnet.map_shape, seed=3)
    torch.manual_seed(7)  # so that a mirror that draws would be another each time
    before = torch.get_rng_state()
    carried, twice = deconvnet(signal), deconvnet(torch.stack([signal, signal]))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert_close(carried, carried_by_autograd(run, x, signal), **EXACT)
    assert_close(twice, torch.stack([carried, carried]), **EXACT)
    torch.manual_seed(5)
    assert_close(replay(seen), run(x * 1), **EXACT)


@pytest.mark.parametrize("method", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("run", DRAWING.values(), ids=DRAWING)
def test_sonify_leaves_the_global_generators_alone(run, method):
    class Drawing(nn.Module):
        def forward(self, x):
            return run(x * 1)

    model = nn.Sequential(nn.Conv1d(1, 3, 3), Drawing(), nn.Identity()).double()
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Sonifier(model).sonify(random(2, 1, 9), layer="2", channel=None, method=method)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


# --- half precision ------------------------------------------------------------------------------


def loud_and_quiet(ratio: float) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 6, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 5), nn.Conv1d(4, 2, 3)
    )
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.bias.zero_()
        model[3].weight[1] *= ratio
        model[0].weight /= 4
    return model


@pytest.mark.parametrize("channel", [1, [1, 0], "all"])
@pytest.mark.parametrize("ratio", [2.0**-9, 2.0**12])
def test_a_quiet_channel_beside_a_loud_one_is_heard_in_half_precision(ratio, channel):
    x = 0.1 * torch.randn(2, 1, 60, generator=torch.manual_seed(1))
    model = loud_and_quiet(ratio)
    expected = Sonifier(model).sonify(x, layer="3", channel=channel, tap="output")
    found = Sonifier(model, dtype=torch.float16).sonify(x, layer="3", channel=channel, tap="output")
    assert expected.gain.all()
    assert_close(found.waveform, expected.waveform, rtol=0, atol=0.01 * float(x.abs().max()))
    assert_close(
        found.raw / expected.raw.abs().max(),
        expected.raw / expected.raw.abs().max(),
        rtol=0.02,
        atol=0.02,
    )


def test_a_quiet_example_beside_a_loud_one_is_heard_in_half_precision():
    x = torch.randn(3, 1, 60, generator=torch.manual_seed(1))
    x = x * torch.tensor([1.0, 2.0**-9, 0.0])[:, None, None]
    sonifier = Sonifier(loud_and_quiet(1.0), dtype=torch.float16)
    together = sonifier.sonify(x, layer="3", channel=[0, 2])
    alone = [sonifier.sonify(part, layer="3", channel=[0, 2]) for part in x[:2, None]]
    for number, found in enumerate(alone):
        assert found.gain.all()
        assert_close(together.waveform[:, number], found.waveform[:, 0], rtol=1e-3, atol=1e-5)


# --- infinite derivatives ------------------------------------------------------------------------

SINGULAR = {
    "magnitude": lambda x: x.pow(2).sum(1).sqrt(),
    "magnitude by a power": lambda x: x.pow(2).sum(1) ** 0.5,
    "compressed": lambda x: (x * x) ** 0.3,
    "compressed by abs": lambda x: x.abs() ** 0.3,
    "spectrogram": lambda x: torch.fft.rfft(x).abs().pow(2).sum(1).sqrt(),
    "spectrogram by parts": lambda x: torch.view_as_real(torch.fft.rfft(x)).square().sum(-1).sqrt(),
    "deviation": lambda x: x.unfold(-1, 4, 4).std(-1),
    "variance": lambda x: x.unfold(-1, 4, 4).var(-1).sqrt(),
    "level in dB": lambda x: (20 * x.abs().log10()).clamp(min=-80),
    "logarithm": lambda x: x.abs().log().clamp(min=-5),
    "norm of a half": lambda x: x.unfold(-1, 4, 4).norm(0.5, dim=-1),
    "masked": lambda x: torch.where(x > 0, x.clamp(min=0).sqrt(), 0),
    "reciprocal": lambda x: (1 / x.abs()).clamp(max=3),
    "distance": lambda x: torch.cdist(x, x.flip(1), p=1.5),
}


@pytest.mark.parametrize("method", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("run", SINGULAR.values(), ids=SINGULAR)
def test_digital_silence_inside_a_clip(run, method):
    """Where a derivative is infinite 0 takes its place; elsewhere it is that of autograd."""
    x = random(2, 3, 24)
    x[..., 8:16] = 0
    if run is SINGULAR["distance"]:
        x = random(2, 3, 24)
        x[:, 0] = x[:, 2]
    deconvnet = mirrored(run, x, method)
    signal = random(*deconvnet.map_shape, seed=3)
    carried = deconvnet(signal)
    assert carried.isfinite().all()
    assert carried.any()
    if method == "gradient":
        expected = carried_by_autograd(run, x, signal)
        known = expected.isfinite()
        assert_close(carried[known], expected[known], **EXACT)
        together = deconvnet(torch.stack([signal, 2 * signal]))
        assert_close(together, torch.stack([carried, 2 * carried]), **EXACT)


def test_a_clip_with_silence_in_it_is_sonified():
    class Magnitude(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 8, 16, stride=8, bias=False)
            self.end = nn.Conv1d(4, 3, 3)

        def forward(self, x):
            y = self.conv(x)
            return self.end((y[:, :4].pow(2) + y[:, 4:].pow(2)).sqrt())

    x = torch.randn(1, 1, 400, generator=torch.manual_seed(1))
    x[..., 100:200] = 0
    torch.manual_seed(0)
    for method in ("deconvnet", "gradient"):
        found = Sonifier(Magnitude()).sonify(x, layer="end", channel=[0, 1], method=method)
        assert found.waveform.isfinite().all()
        assert found.gain.all()


def test_an_overflow_of_the_signal_itself_is_still_noticed():
    deconvnet = mirrored(lambda x: torch.special.i0(x), random(1, 1, 5).float() + 2)
    assert not deconvnet(torch.full((1, 1, 5), 3e38)).isfinite().all()
