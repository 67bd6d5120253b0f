"""Networks of the package transformers that read a spectrogram, behind a front end of torch's ops.

    waveform -> torch.stft -> power -> mel filters -> logarithm -> network

Small and with random weights, as in `huggingface`. The vocoders take the same spectrogram.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import Architecture, trained_like

BINS, SIZE, HOP, RATE = 32, 256, 64, 16000
LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
ENCODER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
}
VOCODER: dict[str, Any] = {
    "model_in_dim": BINS,
    "upsample_initial_channel": 32,
    "upsample_rates": [4, 4],
    "upsample_kernel_sizes": [8, 8],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
}


class BehindSpectrogram(nn.Module):
    """A network behind the logarithm of a mel spectrogram.

    Args:
        network: Takes the spectrogram as its argument `name`.
        name: Of that argument.
        frames_first: Whether it takes (batch, frames, bins), not (batch, bins, frames).
        stacked: How many frames side by side make one of the network's.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        *,
        frames_first: bool = False,
        stacked: int = 1,
    ):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.network, self.name = network, name
        self.frames_first, self.stacked = frames_first, stacked
        filters = mel_filter_bank(SIZE // 2 + 1, BINS, 0, RATE / 2, RATE)
        self.register_buffer("filters", torch.tensor(filters.T, dtype=torch.float32))
        self.register_buffer("window", torch.hann_window(SIZE))

    def forward(self, x: Tensor) -> Any:
        """(batch, time) to whatever the network returns."""
        spectrum = torch.stft(x, SIZE, HOP, window=self.window, return_complex=True)
        maps = torch.log(self.filters @ spectrum[..., :-1].abs().pow(2) + 1e-3)
        if self.frames_first:
            maps = maps.transpose(1, 2).reshape(len(x), -1, self.stacked * BINS)
        return self.network(**{self.name: maps})


def _behind(
    family: str,
    settings: dict[str, Any],
    name: str,
    *,
    config: str = "",
    part: str = "",
    **front: Any,
) -> nn.Module:
    """The model of a family, or a part of it, behind a spectrogram."""
    import transformers

    made = getattr(transformers, config or f"{family}Config")(**settings)
    model = getattr(transformers, family if config else f"{family}Model")(made)
    network = model.get_submodule(part) if part else model
    return trained_like(BehindSpectrogram(network, name, **front))


def _row(
    name: str, build: Callable[[], nn.Module], layers: tuple[str, str, str], samples: int = 4096
) -> Architecture:
    return Architecture(name, build, (2, samples), RATE, layers, requires="transformers")


ARCHITECTURES = (
    _row(
        "whisper_encoder",
        lambda: _behind(
            "Whisper",
            ENCODER
            | {
                "num_mel_bins": BINS,
                "max_source_positions": 32,
                "decoder_layers": 1,
                "decoder_attention_heads": 2,
                "decoder_ffn_dim": 16,
                "vocab_size": 64,
                "pad_token_id": 1,
                "bos_token_id": 1,
                "eos_token_id": 1,
                "decoder_start_token_id": 1,
            },
            "input_features",
            part="encoder",
        ),
        ("network.conv1", "network.layers.0.fc2", "network.layers.1.fc2"),
    ),
    _row(
        "audio_spectrogram_transformer",
        lambda: _behind(
            "AST",
            LAYERS
            | {"num_mel_bins": BINS, "max_length": 64, "patch_size": 8}
            | {"frequency_stride": 6, "time_stride": 6},
            "input_values",
            frames_first=True,
        ),
        (
            "network.embeddings.patch_embeddings.projection",
            "network.layers.0.mlp.fc2",
            "network.layers.1.mlp.fc2",
        ),
    ),
    _row(
        "speech_to_text_encoder",
        lambda: _behind(
            "Speech2Text",
            ENCODER
            | {
                "input_feat_per_channel": BINS,
                "conv_channels": 32,
                "decoder_layers": 1,
                "decoder_attention_heads": 2,
                "decoder_ffn_dim": 16,
                "vocab_size": 64,
                "max_source_positions": 64,
            },
            "input_features",
            part="encoder",
            frames_first=True,
        ),
        ("network.conv.conv_layers.0", "network.layers.0.fc2", "network.layers.1.fc2"),
    ),
    _row(
        "wav2vec2_bert",
        lambda: _behind(
            "Wav2Vec2Bert",
            LAYERS | {"feature_projection_input_dim": 2 * BINS, "conv_depthwise_kernel_size": 7},
            "input_features",
            frames_first=True,
            stacked=2,
        ),
        (
            "network.feature_projection.projection",
            "network.encoder.layers.1.conv_module.pointwise_conv1",
            "network.encoder.layers.1.ffn2.output_dense",
        ),
    ),
    _row(
        "wav2vec2_bert_adapter",
        lambda: _behind(
            "Wav2Vec2Bert",
            LAYERS
            | {"feature_projection_input_dim": 2 * BINS, "conv_depthwise_kernel_size": 7}
            | {"position_embeddings_type": "rotary", "add_adapter": True},
            "input_features",
            frames_first=True,
            stacked=2,
        ),
        (
            "network.feature_projection.projection",
            "network.encoder.layers.1.conv_module.depthwise_conv",
            "network.adapter.layers.0.ffn.output_dense",
        ),
    ),
    _row(
        "seamless_speech_encoder",
        lambda: _behind(
            "SeamlessM4T",
            {
                "hidden_size": 32,
                "vocab_size": 64,
                "t2u_vocab_size": 64,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "speech_encoder_layers": 2,
                "speech_encoder_attention_heads": 2,
                "speech_encoder_intermediate_size": 64,
                "feature_projection_input_dim": 2 * BINS,
                "conv_depthwise_kernel_size": 7,
                "adaptor_kernel_size": 4,
                "adaptor_stride": 4,
                "t2u_encoder_layers": 1,
                "t2u_decoder_layers": 1,
                "upsample_initial_channel": 64,
            },
            "input_features",
            part="speech_encoder",
            frames_first=True,
            stacked=2,
        ),
        (
            "network.feature_projection.projection",
            "network.encoder.layers.1.conv_module.depthwise_conv",
            "network.adapter.layers.0.ffn.output_dense",
        ),
    ),
    _row(
        "parakeet_encoder",
        lambda: _behind(
            "ParakeetEncoder",
            LAYERS | {"num_mel_bins": BINS, "subsampling_conv_channels": 16},
            "input_features",
            config="ParakeetEncoderConfig",
            frames_first=True,
        ),
        (
            "network.subsampling.layers.0",
            "network.layers.0.conv.pointwise_conv1",
            "network.layers.1.feed_forward2.linear2",
        ),
    ),
    _row(
        "lasr_encoder",
        lambda: _behind(
            "LasrEncoder",
            LAYERS | {"num_mel_bins": BINS, "subsampling_conv_channels": 16, "conv_kernel_size": 8},
            "input_features",
            config="LasrEncoderConfig",
            frames_first=True,
        ),
        (
            "network.subsampler.dense_0",
            "network.layers.0.conv.pointwise_conv2",
            "network.layers.1.feed_forward2.linear2",
        ),
    ),
    _row(
        "qwen2_audio_encoder",
        lambda: _behind(
            "Qwen2AudioEncoder",
            ENCODER | {"num_mel_bins": BINS, "max_source_positions": 32},
            "input_features",
            config="Qwen2AudioEncoderConfig",
        ),
        ("network.conv1", "network.layers.0.fc2", "network.layers.1.fc2"),
    ),
    _row(
        "speecht5_hifigan",
        lambda: _behind(
            "SpeechT5HifiGan",
            VOCODER,
            "spectrogram",
            config="SpeechT5HifiGanConfig",
            frames_first=True,
        ),
        ("network.conv_pre", "network.upsampler.1", "network.conv_post"),
        1024,
    ),
    _row(
        "fastspeech2_hifigan",
        lambda: _behind(
            "FastSpeech2ConformerHifiGan",
            VOCODER,
            "spectrogram",
            config="FastSpeech2ConformerHifiGanConfig",
            frames_first=True,
        ),
        ("network.conv_pre", "network.upsampler.1", "network.conv_post"),
        1024,
    ),
    _row(
        "univnet",
        lambda: _behind(
            "UnivNetModel",
            {
                "model_in_channels": 8,
                "model_hidden_channels": 8,
                "num_mel_bins": BINS,
                "resblock_kernel_sizes": [3, 3],
                "resblock_stride_sizes": [4, 4],
                "resblock_dilation_sizes": [[1, 3], [1, 3]],
                "kernel_predictor_num_blocks": 1,
                "kernel_predictor_hidden_channels": 8,
            },
            "input_features",
            config="UnivNetConfig",
            frames_first=True,
        ),
        (
            "network.resblocks.0.kernel_predictor.input_conv",
            "network.resblocks.1.kernel_predictor.input_conv",
            "network.conv_post",
        ),
        1024,
    ),
)
