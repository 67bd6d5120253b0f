"""Time-series transformers of the package transformers, fed with a waveform as the past."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .architecture import Architecture, trained_like

SIZE: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
PAST: dict[str, Any] = {
    "context_length": 160,
    "prediction_length": 24,
    "lags_sequence": [1, 2, 3, 4],
    "num_time_features": 1,
}
PATCHED: dict[str, Any] = {
    "context_length": 160,
    "patch_length": 16,
    "patch_stride": 8,
    "num_input_channels": 2,
    "d_model": 16,
}


class Forecaster(nn.Module):
    """An encoder-decoder that takes the past, the clock of past and future, and a mask.

    The future is zeros: what the decoder says depends on the past alone.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 164) to the decoder's (batch, 24, width)."""
        ahead = self.network.config.prediction_length
        clock = torch.arange(x.shape[1] + ahead).to(x).expand(len(x), -1).unsqueeze(-1) / 100
        seen = self.network(
            past_values=x,
            past_time_features=clock[:, : x.shape[1]],
            past_observed_mask=torch.ones_like(x),
            future_values=x.new_zeros(len(x), ahead),
            future_time_features=clock[:, x.shape[1] :],
        )
        return seen.last_hidden_state


class FromPast(nn.Module):
    """A network that takes the past alone: (batch, channels, time)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        """(batch, 2, 160) to what the network returns."""
        return self.network(past_values=x.transpose(1, 2))


def _model(family: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{family}Config")(**settings)
    return getattr(transformers, family if "For" in family else f"{family}Model")(config)


def _forecaster(
    name: str, family: str, layers: tuple[str, str, str], **settings: Any
) -> Architecture:
    return Architecture(
        name,
        lambda: trained_like(Forecaster(_model(family, SIZE | PAST | settings))),
        (2, 164),
        8000,
        layers,
        requires="transformers",
    )


def _patched(name: str, family: str, layers: tuple[str, str, str], **settings: Any) -> Architecture:
    return Architecture(
        name,
        lambda: trained_like(FromPast(_model(family, PATCHED | settings))),
        (2, 2, 160),
        8000,
        layers,
        requires="transformers",
    )


ARCHITECTURES = (
    _forecaster(
        "time_series_transformer",
        "TimeSeriesTransformer",
        (
            "network.encoder.value_embedding.value_projection",
            "network.decoder.layers.0.self_attn.out_proj",
            "network.decoder.layers.1.fc2",
        ),
    ),
    _forecaster(
        "time_series_transformer_std",
        "TimeSeriesTransformer",
        (
            "network.encoder.value_embedding.value_projection",
            "network.decoder.layers.0.self_attn.out_proj",
            "network.decoder.layers.1.fc2",
        ),
        scaling="std",
    ),
    _forecaster(
        "informer",
        "Informer",
        (
            "network.encoder.value_embedding.value_projection",
            "network.decoder.layers.0.self_attn.v_proj",
            "network.decoder.layers.1.fc2",
        ),
    ),
    _patched(
        "patchtst",
        "PatchTST",
        (
            "network.encoder.embedder.input_embedding",
            "network.encoder.layers.0.ff.3",
            "network.encoder.layers.1.ff.3",
        ),
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
    ),
    _patched(
        "patchtst_channel_attention",
        "PatchTST",
        (
            "network.encoder.embedder.input_embedding",
            "network.encoder.layers.0.ff.3",
            "network.encoder.layers.1.ff.3",
        ),
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        channel_attention=True,
        norm_type="layernorm",
    ),
    _patched(
        "patchtsmixer",
        "PatchTSMixer",
        (
            "network.encoder.patcher",
            "network.encoder.mlp_mixer_encoder.mixers.0.feature_mixer.gating_block.attn_layer",
            "network.encoder.mlp_mixer_encoder.mixers.1.feature_mixer.gating_block.attn_layer",
        ),
        num_layers=2,
    ),
    _patched(
        "patchtsmixer_attention",
        "PatchTSMixer",
        (
            "network.encoder.patcher",
            "network.encoder.mlp_mixer_encoder.mixers.0.feature_mixer.gating_block.attn_layer",
            "network.encoder.mlp_mixer_encoder.mixers.1.feature_mixer.gating_block.attn_layer",
        ),
        num_layers=2,
        mode="mix_channel",
        self_attn=True,
        norm_mlp="BatchNorm",
    ),
)
