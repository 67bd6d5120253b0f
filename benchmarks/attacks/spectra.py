"""Complex values between the waveform and the map, and complex maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconv1d import Sonifier
from deconv1d.mining import mine

from .attack import Attack, Check, Function, model_of, noise

COMPLEX = "complex values"

X = noise(2, 4, 9, seed=2)
LONG = noise(2, 4, 41, seed=3)
SINGLE = LONG.float()
WINDOW = torch.hann_window(8, dtype=torch.float64)
KERNEL = noise(4, 4, 3, seed=6, dtype=torch.complex128)
MATRIX = noise(9, 9, seed=7, dtype=torch.complex128)


def _complex(h: Tensor) -> Tensor:
    return torch.complex(h.sin(), h.cos())


class Linear(nn.Module):
    """A linear layer with complex weights."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 5, dtype=dtype)

    def forward(self, h: Tensor) -> Tensor:
        """The map is complex."""
        return self.layer(h.to(self.layer.weight.dtype))  # type: ignore[no-any-return]  # untyped


class Convolution(nn.Module):
    """A convolution with complex weights, behind a spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(4, 3, 3, dtype=torch.complex128)

    def forward(self, h: Tensor) -> Tensor:
        """The map is real."""
        return self.layer(torch.fft.rfft(h)).abs()  # type: ignore[no-any-return]  # untyped


def _spectrum(x: Tensor) -> Tensor:
    spectrum = torch.stft(x.flatten(0, 1), 8, 3, window=WINDOW.to(x), return_complex=True)
    return spectrum.unflatten(0, x.shape[:2])


def _back(x: Tensor) -> Tensor:
    spectrum = torch.stft(x.flatten(0, 1), 8, 3, window=WINDOW, return_complex=True)
    masked = spectrum * spectrum.abs().sigmoid()
    return torch.istft(masked, 8, 3, window=WINDOW).unflatten(0, x.shape[:2])


def _written_part(h: Tensor) -> Tensor:
    z = _complex(h) * 1
    z.real.mul_(2)
    z.imag[..., 1:] = h[..., 1:] * 3
    return z * z


def _written_conjugate(h: Tensor) -> Tensor:
    z = _complex(h) * (1 + 2j)
    c = z.conj()
    z.mul_(1j)
    return c + z * 2


def _conjugate_written(h: Tensor) -> Tensor:
    z = _complex(h) * (1 + 2j)
    c = z.conj()
    c.mul_(1j)
    return c + z * 2


def _imaginary_part_filled(h: Tensor) -> Tensor:
    z = _complex(h) * (1 + 2j)
    z.imag = h * 2
    z[:, 1].imag.zero_()
    return z * z


def _pairs_written(h: Tensor) -> Tensor:
    z = _complex(h) * (1 + 2j)
    torch.view_as_real(z)[..., 0].mul_(h)
    return z


MAPS: dict[str, tuple[Function, Tensor]] = {
    "a sum with a complex factor": (lambda h: torch.add(_complex(h), _complex(h * 2), alpha=2j), X),
    "a real and a complex term": (lambda h: torch.add(h, _complex(h), alpha=2 - 1j), X),
    "a difference with a complex factor": (lambda h: torch.sub(_complex(h), h, alpha=1j), X),
    "a complex number": (lambda h: h * (2 + 3j), X),
    "a complex divisor": (lambda h: h.cos() / (2 + 3j) + _complex(h) / _complex(h).conj(), X),
    "a number over a complex value": (lambda h: (1 - 2j) / (_complex(h) + 3), X),
    "fft": (torch.fft.fft, X),
    "ifft": (lambda h: torch.fft.ifft(h, n=12), X),
    "rfft": (lambda h: torch.fft.rfft(h, norm="ortho"), X),
    "irfft": (lambda h: torch.fft.irfft(_complex(h), n=11), X),
    "irfft of a real value": (lambda h: torch.fft.irfft(h, norm="forward"), X),
    "hfft": (lambda h: torch.fft.hfft(_complex(h), n=9), X),
    "hfft of a real value": (torch.fft.hfft, X),
    "ihfft": (lambda h: torch.fft.ihfft(h, norm="forward"), X),
    "hfft2": (lambda h: torch.fft.hfft2(_complex(h)), X),
    "ihfft2": (torch.fft.ihfft2, X),
    "hfftn": (lambda h: torch.fft.hfftn(_complex(h), s=(5, 6)), X),
    "ihfftn": (lambda h: torch.fft.ihfftn(h, norm="ortho"), X),
    "rfft2": (torch.fft.rfft2, X),
    "irfftn": (lambda h: torch.fft.irfftn(_complex(h), s=(4, 7)), X),
    "fftshift": (lambda h: torch.fft.fftshift(torch.fft.fft(h)), X),
    "single precision": (lambda h: torch.fft.fft(h * 1) * (1 + 1j), SINGLE),
    "stft": (_spectrum, LONG),
    "stft in single precision": (_spectrum, SINGLE),
    "two-sided stft": (
        lambda h: torch.stft(h[1], 8, window=WINDOW, onesided=False, return_complex=True)[None],
        LONG,
    ),
    "there and back": (_back, LONG),
    "magnitude": (lambda h: _spectrum(h).abs(), LONG),
    "angle": (lambda h: _spectrum(h)[:, :, 1:4].angle(), LONG),
    "power": (lambda h: (_complex(h) ** 2).abs().log1p(), X),
    "real power of a complex value": (lambda h: (_complex(h) + 3) ** 1.5, X),
    "polar": (lambda h: torch.polar(h.exp(), h) * h, X),
    "view as real": (lambda h: torch.view_as_real(_complex(h)).flatten(-2), X),
    "view as complex": (
        lambda h: torch.view_as_complex(h[..., :8].reshape(2, 4, 4, 2).contiguous()),
        X,
    ),
    "conjugate": (lambda h: _complex(h).conj() * _complex(h.cos()), X),
    "conjugate, resolved": (lambda h: torch.conj_physical(_complex(h)) * 1j, X),
    "adjoint": (lambda h: _complex(h) @ (_complex(h) * 2j).mH, X),
    "real and imaginary parts": (lambda h: _complex(h).real * (_complex(h) * 1j).imag, X),
    "a part written": (_written_part, X),
    "a part filled": (_imaginary_part_filled, X),
    "pairs written": (_pairs_written, X),
    "a conjugate, written, first": (_conjugate_written, X),
    "a conjugate, written": (_written_conjugate, X),
    "exponential": (lambda h: torch.exp(1j * h) * h, X),
    "complex product": (lambda h: _complex(h) * _complex(h * 2), X),
    "complex matrix": (lambda h: h.to(torch.complex128) @ MATRIX, X),
    "complex addmm": (
        lambda h: torch.addmm(_complex(h[0]), _complex(h[1]), MATRIX, alpha=2j, beta=1 - 1j)[None],
        X,
    ),
    "complex baddbmm": (
        lambda h: torch.baddbmm(_complex(h), _complex(h), MATRIX.expand(2, 9, 9), alpha=1j),
        X,
    ),
    "complex einsum": (
        lambda h: torch.einsum("bct,ts,bds->bcd", _complex(h), MATRIX, _complex(h)),
        X,
    ),
    "complex kernel": (lambda h: F.conv1d(_complex(h), KERNEL, padding=1), X),
    "complex kernel, transposed": (lambda h: F.conv_transpose1d(_complex(h), KERNEL, stride=2), X),
    "complex mean": (lambda h: _complex(h) - _complex(h).mean(-1, keepdim=True), X),
    "complex norm": (lambda h: _complex(h) / _complex(h).norm(dim=-1, keepdim=True), X),
    "complex sum of squares": (lambda h: torch.linalg.vector_norm(_complex(h), 3, -1), X),
    "complex where": (lambda h: torch.where(h > 0, _complex(h), h * 2j), X),
    "complex cumulative product": (lambda h: _complex(h).cumprod(-1), X),
    "complex sign": (lambda h: torch.sgn(_complex(h)) * h, X),
    "complex, joined": (lambda h: torch.cat([_complex(h), h.to(torch.complex128)], -1), X),
    "complex, written into": (lambda h: _complex(h).index_fill(2, torch.tensor([1, 3]), 1j), X),
    "complex, detached beside": (lambda h: _complex(h) + 2j * _complex(h).detach()[:], X),
    "complex pole": (lambda h: torch.fft.rfft(h, 16) / (torch.fft.rfft(noise(3), 16) + 2), X),
    "by the Hilbert transform": (
        lambda h: torch.fft.ifft(torch.fft.fft(h) * (torch.arange(9) < 5) * 2).abs(),
        X,
    ),
    "complex tanh": (lambda h: _complex(h).tanh() + _complex(h).sinh(), X),
}


def _layers_of(build: Function) -> None:
    """Every way to listen to a complex map, each finite and of the right shape."""
    x = noise(1, 1, 900).float()
    model = nn.Sequential(nn.Conv1d(1, 4, 3), model_of(lambda: build), nn.Conv1d(4, 2, 3)).eval()
    sonifier = Sonifier(nn.Sequential(model[0], model[1]).eval(), sample_rate=8000)
    rows = {row.name: row for row in sonifier.layers(x)}
    assert rows["1.body"].channels == 4
    assert sonifier.maps(x, layer="1.body").is_complex()
    for channel in ("most_active", "all", 1, None):
        for seed in ("activation", "ones", "peak"):
            found = sonifier.sonify(x, layer="1.body", channel=channel, seed=seed, tap="output")
            assert found.waveform.isfinite().all()
            assert found.waveform.any()
    card = sonifier.control_card(x, layer="1.body", channel=1)
    assert str(card)
    for score in ("peak", "mean"):
        clips = [(f"clip{n}", noise(1, 1, 99, seed=n).float()) for n in range(3)]
        mined = mine(sonifier, clips, layers=["1.body"], score=score)
        peaks = {n: sonifier.maps(w, layer="1.body")[0, 2].abs() for n, w in clips}
        best = max(
            peaks, key=lambda n: float(peaks[n].max() if score == "peak" else peaks[n].mean())
        )
        assert mined.top("1.body", channel=2)[0].clip == best


LAYERS: dict[str, Function] = {
    "fft as a layer": torch.fft.fft,
    "a complex factor as a layer": lambda h: h * (2 + 3j),
    "a complex sum as a layer": lambda h: torch.add(h, torch.complex(h, -h), alpha=2j),
}

ATTACKS: list[Attack | Check] = [
    *(Attack(COMPLEX, name, lambda f=f: f, x) for name, (f, x) in MAPS.items()),
    Attack(COMPLEX, "complex linear layer", lambda: Linear(torch.complex128), X),
    Attack(COMPLEX, "complex linear layer, single", lambda: Linear(torch.complex64), X.float()),
    Attack(COMPLEX, "complex convolution", Convolution, LONG),
    *(Check(COMPLEX, name, lambda f=f: _layers_of(f)) for name, f in LAYERS.items()),
]
