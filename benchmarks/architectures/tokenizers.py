"""Waveform networks of the package transformers that tokenise, transcribe or tell speakers apart.

Small and with random weights, as in `huggingface`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .architecture import Architecture, trained_like
from .huggingface import SPEECH

RATE = 16000
ATTENTION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 32,
}
DAC: dict[str, Any] = {
    "encoder_hidden_size": 8,
    "hidden_size": 32,
    "decoder_hidden_size": 32,
    "downsampling_ratios": [8, 5, 4, 2],
    "upsampling_ratios": [8, 5, 4, 2],
}


def _model(name: str, settings: dict[str, Any], part: str = "") -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name.partition(':')[0]}Config")(**settings)
    model = getattr(transformers, name.replace(":", ""))(config)
    return trained_like(model.get_submodule(part) if part else model)


def _initial(model: nn.Module) -> nn.Module:
    """With torch's own initial weights: under Snake, He's grow from layer to layer, into chaos."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            module.reset_parameters()
    return model


def _speech(
    name: str,
    model: str,
    layers: tuple[str, str, str],
    part: str = "",
    samples: int = 4000,
    **settings: Any,
) -> Architecture:
    return Architecture(
        name,
        lambda: _model(model, SPEECH | settings, part),
        (2, samples),
        RATE,
        layers,
        requires="transformers",
    )


def _codec(
    name: str,
    build: Callable[[], nn.Module],
    layers: tuple[str, str, str],
    shape: tuple[int, ...] = (2, 1, 2560),
) -> Architecture:
    return Architecture(name, build, shape, RATE, layers, requires="transformers")


ARCHITECTURES = (
    _speech(
        "wav2vec2_adapter",
        "Wav2Vec2:Model",
        (
            "feature_extractor.conv_layers.0.conv",
            "feature_extractor.conv_layers.5.conv",
            "adapter.layers.1.conv",
        ),
        add_adapter=True,
        num_adapter_layers=2,
    ),
    _speech(
        "wav2vec2_xvector",
        "Wav2Vec2:ForXVector",
        (
            "wav2vec2.feature_extractor.conv_layers.0.conv",
            "wav2vec2.feature_extractor.conv_layers.4.conv",
            "classifier",
        ),
        tdnn_dim=[16] * 5,
        xvector_output_dim=16,
        use_weighted_layer_sum=True,
        classifier_proj_size=16,
        samples=8000,
    ),
    _speech(
        "mms",
        "Wav2Vec2:ForCTC",
        (
            "wav2vec2.feature_extractor.conv_layers.0.conv",
            "wav2vec2.feature_extractor.conv_layers.4.conv",
            "lm_head",
        ),
        adapter_attn_dim=8,
        vocab_size=32,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    ),
    _speech(
        "hubert_commands",
        "Hubert:ForSequenceClassification",
        (
            "hubert.feature_extractor.conv_layers.0.conv",
            "hubert.feature_extractor.conv_layers.4.conv",
            "classifier",
        ),
        use_weighted_layer_sum=True,
        classifier_proj_size=16,
    ),
    _speech(
        "wavlm_diarisation",
        "WavLM:ForAudioFrameClassification",
        (
            "wavlm.feature_extractor.conv_layers.0.conv",
            "wavlm.feature_extractor.conv_layers.4.conv",
            "classifier",
        ),
    ),
    _speech(
        "wav2vec2_conformer_rotary",
        "Wav2Vec2Conformer:Model",
        (
            "feature_extractor.conv_layers.0.conv",
            "feature_extractor.conv_layers.6.conv",
            "encoder.layers.1.ffn2.output_dense",
        ),
        position_embeddings_type="rotary",
    ),
    _speech(
        "speecht5_encoder",
        "SpeechT5:ForSpeechToText",
        (
            "prenet.feature_encoder.conv_layers.0.conv",
            "prenet.feature_encoder.conv_layers.4.conv",
            "wrapped_encoder.layers.1.feed_forward.output_dense",
        ),
        part="speecht5.encoder",
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=2,
    ),
    _codec(
        "moonshine_encoder",
        lambda: _model(
            "Moonshine:Model",
            {
                "hidden_size": 32,
                "intermediate_size": 64,
                "encoder_num_hidden_layers": 2,
                "decoder_num_hidden_layers": 1,
                "encoder_num_attention_heads": 2,
                "decoder_num_attention_heads": 2,
                "vocab_size": 64,
            },
            "encoder",
        ),
        ("conv1", "conv2", "layers.1.mlp.fc2"),
        (2, 4000),
    ),
    _codec(
        "vibevoice_tokenizer",
        lambda: _model(
            "VibeVoiceAcousticTokenizer:Model",
            {
                "hidden_size": 16,
                "num_filters": 8,
                "downsampling_ratios": [2, 4, 5],
                "depths": [1, 1, 1, 2],
            },
        ),
        ("encoder.stem.conv.conv", "decoder.stem.conv.conv", "decoder.head.conv"),
    ),
    _codec(
        "xcodec",
        lambda: _initial(
            _model(
                "Xcodec:Model",
                {
                    "acoustic_model_config": DAC | {"model_type": "dac", "n_codebooks": 2},
                    "semantic_model_config": SPEECH | {"model_type": "hubert"},
                    "codebook_size": 16,
                },
            )
        ),
        ("acoustic_encoder.conv1", "acoustic_encoder.block.2.res_unit1.conv1", "fc"),
        (2, 1, 3200),
    ),
    _codec(
        "pocket_tts_tokenizer",
        lambda: _model(
            "PocketTTSAudioTokenizer:EncoderModel",
            ATTENTION | {"num_filters": 8, "upsampling_ratios": [4, 3, 2], "upsample_groups": 32},
        ),
        ("encoder_seanet.layers.0.conv", "encoder_seanet.layers.6.conv", "downsample.conv"),
    ),
)
