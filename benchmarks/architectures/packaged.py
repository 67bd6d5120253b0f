"""Networks and front ends that small packages of the registry ship, with random weights.

pip install -c constraints.txt -e ".[models]"
"""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn

from .architecture import Architecture, trained_like

WIDTH = 16
RATE = 16000


class BehindFilters(nn.Module):
    """Convolutions over what a package's filterbank makes of a waveform.

    Args:
        filterbank: Takes (batch, 1, time) or (batch, time).
        bins: How many maps it returns; a last axis of real and imaginary parts counts for two.
        squeezed: Whether it takes (batch, time).
    """

    def __init__(self, filterbank: nn.Module, bins: int, *, squeezed: bool = False):
        super().__init__()
        self.filterbank, self.squeezed = filterbank, squeezed
        self.norm = nn.BatchNorm1d(bins)
        self.conv1 = nn.Conv1d(bins, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.conv3 = nn.Conv1d(WIDTH, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        maps = self.filterbank(x.squeeze(1) if self.squeezed else x)
        if maps.dim() == 4:  # real and imaginary parts in a last axis
            maps = maps.transpose(2, 3).flatten(1, 2)
        h = torch.relu(self.conv1(self.norm(torch.log(1 + maps.abs()))))
        return self.conv3(torch.relu(self.conv2(h))).mean(-1)


class BetweenConvolutions(nn.Module):
    """A package's layers over frames, (batch, frames, width), between a stem and a head."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.stem = nn.Conv1d(1, WIDTH, 32, stride=16)
        self.middle = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.layers = layers
        self.head = nn.Conv1d(WIDTH, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes, frames)."""
        h = torch.relu(self.middle(torch.relu(self.stem(x))))
        return self.head(self.layers(h.transpose(1, 2)).transpose(1, 2))


class FreeFilters(nn.Module):
    """A filterbank of asteroid_filterbanks."""

    def __init__(self, kind: str):
        super().__init__()
        import asteroid_filterbanks as filterbanks

        filters = getattr(filterbanks, kind)(32, 64, stride=16)
        self.encoder = filterbanks.Encoder(filters)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, filters, frames)."""
        return self.encoder(x)


def _features(name: str, bins: int, **settings: object) -> nn.Module:
    import nnAudio.features

    made = getattr(nnAudio.features, name)(sr=RATE, hop_length=64, verbose=False, **settings)
    return BehindFilters(made, bins, squeezed=True)


def _tcn(**settings: object) -> nn.Module:
    from pytorch_tcn import TCN

    return TCN(1, [WIDTH] * 3, kernel_size=4, **settings)


def _snac(encoder_dim: int, attn_window_size: int | None) -> nn.Module:
    # Its Snake is compiled when it is imported; the oracle of the deconvnet law can give another
    # backward pass to Python alone.
    with patch("torch.jit.script", lambda function: function):
        from snac import SNAC

    return SNAC(
        encoder_dim=encoder_dim,
        encoder_rates=[2, 4],
        decoder_dim=4 * encoder_dim,
        decoder_rates=[4, 2],
        attn_window_size=attn_window_size,
        codebook_size=16,
        vq_strides=[2, 1],
    )


def _conformer() -> nn.Module:
    from conformer import Conformer

    return BetweenConvolutions(Conformer(WIDTH, depth=2, dim_head=8, heads=2, conv_kernel_size=7))


def _mamba(pscan: bool) -> nn.Module:
    from mambapy.mamba import Mamba, MambaConfig

    return BetweenConvolutions(Mamba(MambaConfig(WIDTH, 2, d_state=4, pscan=pscan)))


def _local_attention() -> nn.Module:
    from local_attention import LocalMHA

    return BetweenConvolutions(LocalMHA(dim=WIDTH, window_size=8, dim_head=8, heads=2, causal=True))


def _row(
    name: str,
    build: Callable[[], nn.Module],
    layers: tuple[str, str, str],
    requires: str,
    samples: int = 4096,
    *,
    initial: bool = False,
) -> Architecture:
    """A row; `initial`: with the package's own initial weights, which its activations need."""
    made = (lambda: build().eval()) if initial else (lambda: trained_like(build()))
    return Architecture(name, made, (2, 1, samples), RATE, layers, requires=requires)


FILTERED = ("conv1", "conv2", "conv3")
STACKED = ("stem", "middle", "head")
ARCHITECTURES = (
    _row(
        "pytorch_tcn",
        lambda: _tcn(causal=True),
        ("network.0.conv1", "network.1.conv1", "network.2.conv2"),
        "pytorch_tcn",
    ),
    _row(
        "pytorch_tcn_gated",
        lambda: _tcn(causal=False, use_gate=True, use_norm="layer_norm", use_skip_connections=True),
        ("network.0.conv1", "network.1.conv1", "network.2.conv2"),
        "pytorch_tcn",
    ),
    _row(
        "snac",
        lambda: _snac(8, None),
        ("encoder.block.0", "encoder.block.2.block.2.block.1", "decoder.model.5"),
        "snac",
        initial=True,
    ),
    _row(
        "snac_attention",
        lambda: _snac(64, 8),
        ("encoder.block.0", "encoder.block.2.block.1.block.1", "decoder.model.6"),
        "snac",
        2048,
        initial=True,
    ),
    _row("conformer_blocks", _conformer, STACKED, "conformer"),
    _row("mamba", lambda: _mamba(False), STACKED, "mambapy", 1024),
    _row("mamba_parallel", lambda: _mamba(True), STACKED, "mambapy", 1024),
    _row("local_attention", _local_attention, STACKED, "local_attention", 2048 + 16),
    *(
        _row(
            f"asteroid_{name}",
            lambda kind=kind: BehindFilters(FreeFilters(kind), 32),
            FILTERED,
            "asteroid_filterbanks",
        )
        for name, kind in (
            ("free", "FreeFB"),
            ("analytic", "AnalyticFreeFB"),
            ("sinc", "ParamSincFB"),
        )
    ),
    _row(
        "nnaudio_stft",
        lambda: _features("STFT", 65, n_fft=128, output_format="Magnitude"),
        FILTERED,
        "nnAudio",
    ),
    _row(
        "nnaudio_mel",
        lambda: _features("MelSpectrogram", 32, n_fft=256, n_mels=32),
        FILTERED,
        "nnAudio",
    ),
    _row(
        "nnaudio_cqt", lambda: _features("CQT1992v2", 24, fmin=500, n_bins=24), FILTERED, "nnAudio"
    ),
    _row(
        "nnaudio_gammatone",
        lambda: _features("Gammatonegram", 32, n_fft=256, n_bins=32),
        FILTERED,
        "nnAudio",
    ),
)
