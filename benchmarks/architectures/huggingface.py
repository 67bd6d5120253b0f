"""Waveform networks that the package transformers ships, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .architecture import Architecture, trained_like

SPEECH: dict[str, Any] = {
    "conv_dim": (16,) * 7,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM: dict[str, Any] = {
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
}
SEW: dict[str, Any] = {"conv_dim": (16,) * 13}
ENCODEC: dict[str, Any] = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_dim": 16,
    "codebook_size": 16,
    "num_lstm_layers": 1,
    "upsampling_ratios": [4, 3, 2],
}
ENCODEC_48: dict[str, Any] = {
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
    "normalize": True,
}
ENCODEC_LAYERS = (
    "encoder.layers.0.conv",
    "encoder.layers.4.block.1.conv",
    "encoder.layers.12.conv",
)
DAC: dict[str, Any] = {
    "encoder_hidden_size": 8,
    "hidden_size": 32,
    "decoder_hidden_size": 32,
    "n_codebooks": 2,
    "codebook_size": 16,
    "downsampling_ratios": [2, 4],
    "upsampling_ratios": [4, 2],
    "hop_length": 8,
}
MIMI: dict[str, Any] = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "codebook_size": 16,
    "num_quantizers": 3,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "upsampling_ratios": [4, 3, 2],
    "upsample_groups": 16,
}


def _model(family: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{family}Config")(**settings)
    return trained_like(getattr(transformers, f"{family}Model")(config))


def _dac() -> nn.Module:
    """With torch's own initial weights: under Snake, He's grow from layer to layer, into chaos."""
    model = _model("Dac", DAC)
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            module.reset_parameters()
    return model


def _speech(
    name: str, family: str, last: str = "encoder.pos_conv_embed.conv", **settings: Any
) -> Architecture:
    return Architecture(
        name,
        lambda: _model(family, SPEECH | settings),
        (2, 4000),
        16000,
        ("feature_extractor.conv_layers.0.conv", "feature_extractor.conv_layers.6.conv", last),
        requires="transformers",
    )


def _codec(
    name: str, build: Callable[[], nn.Module], sample_rate: int, layers: tuple[str, str, str]
) -> Architecture:
    return Architecture(name, build, (2, 1, 2400), sample_rate, layers, requires="transformers")


def _feature_encoder(norm: str) -> Architecture:
    return Architecture(
        f"wav2vec2_features_{norm}",
        lambda: _model("Wav2Vec2", SPEECH | {"feat_extract_norm": norm}).feature_extractor,
        (2, 4000),
        16000,
        ("conv_layers.0.conv", "conv_layers.3.conv", "conv_layers.6.conv"),
        requires="transformers",
    )


ARCHITECTURES = (
    _feature_encoder("group"),
    _feature_encoder("layer"),
    _speech("wav2vec2", "Wav2Vec2"),
    _speech("wav2vec2_stable", "Wav2Vec2", **LAYER_NORM),
    _speech("wav2vec2_eager_attention", "Wav2Vec2", attn_implementation="eager"),
    _speech(
        "wav2vec2_conformer", "Wav2Vec2Conformer", "encoder.layers.1.conv_module.depthwise_conv"
    ),
    _speech("hubert", "Hubert"),
    _speech("wavlm", "WavLM"),
    _speech(
        "data2vec_audio",
        "Data2VecAudio",
        "encoder.pos_conv_embed.layers.2.conv",
        num_conv_pos_embeddings=3,
    ),
    _speech("unispeech", "UniSpeech"),
    _speech("unispeech_sat", "UniSpeechSat"),
    _speech("sew", "SEW", **SEW),
    _speech("sew_d", "SEWD", **SEW),
    _codec("encodec", lambda: _model("Encodec", ENCODEC), 24000, ENCODEC_LAYERS),
    _codec(
        "encodec_group_norm",
        lambda: _model("Encodec", ENCODEC | ENCODEC_48),
        48000,
        ENCODEC_LAYERS,
    ),
    _codec("dac", _dac, 16000, ("encoder.conv1", "encoder.block.1.conv1", "decoder.conv2")),
    _codec(
        "mimi",
        lambda: _model("Mimi", MIMI),
        24000,
        (
            "encoder.encoder_seanet.layers.0.conv",
            "encoder.encoder_seanet.layers.6.conv",
            "encoder.downsample.conv",
        ),
    ),
)
