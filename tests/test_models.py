"""Every architecture: captured right, left untouched, and carried back as autograd says."""

from __future__ import annotations

from copy import deepcopy
from math import ceil, floor
from typing import Any

import pytest
import torch
from oracles import RectifyingBackward, derivative, eager, heard, random
from torch import Tensor, nn
from zoo import built, waveforms

from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.architectures.interfaces import Answering
from deconv1d import PathError, Sonifier
from deconv1d.mirror import Deconvnet, mirror
from deconv1d.record.capture import Capture, capture
from deconv1d.record.replay import replay
from deconv1d.record.request import TapRequest

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.filterwarnings("ignore::deconv1d.SilenceWarning"),
]
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-9}

HELD_AFTER = {
    0: "gabor_envelopes log_spectrogram demucs encodec_group_norm whisper_encoder"
    " audio_spectrogram_transformer speech_to_text_encoder wav2vec2_bert wav2vec2_bert_adapter"
    " seamless_speech_encoder parakeet_encoder lasr_encoder qwen2_audio_encoder"
    " speecht5_hifigan fastspeech2_hifigan univnet time_series_transformer"
    " time_series_transformer_std informer patchtst patchtst_channel_attention"
    " patchtsmixer patchtsmixer_attention asteroid_free asteroid_analytic asteroid_sinc"
    " nnaudio_stft nnaudio_mel nnaudio_cqt nnaudio_gammatone biot",
    1: "squeeze_excitation convnext sincnet conv_tasnet wavenet conformer normalisations"
    " wav2vec2_features_group wav2vec2_features_layer wav2vec2 wav2vec2_stable"
    " wav2vec2_eager_attention wav2vec2_conformer hubert wavlm data2vec_audio unispeech"
    " unispeech_sat sew sew_d pytorch_tcn_gated atcnet wav2vec2_adapter wav2vec2_xvector mms"
    " hubert_commands wavlm_diarisation wav2vec2_conformer_rotary speecht5_encoder"
    " moonshine_encoder vibevoice_tokenizer",
    2: "state_space seanet conv_lstm stepwise_gru transformer_encoder multihead_attention"
    " shallow_eeg mean_pools activations segnet in_place_gates voice_activity encodec mimi"
    " snac_attention conformer_blocks mamba mamba_parallel local_attention eegconformer"
    " deepsleepnet ctnet xcodec pocket_tts_tokenizer",
}
"""How many of its three layers have nothing held or flagged below them, if not all."""


def rows(without: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """A test for each architecture but those named."""
    entries = [
        pytest.param(
            entry,
            id=entry.name,
            marks=pytest.mark.skipif(not entry.installed, reason=f"needs {entry.requires}"),
        )
        for entry in ARCHITECTURES.values()
        if entry.name not in without
    ]
    return pytest.mark.parametrize("architecture", entries)


class Twin:
    """An architecture as autograd can follow it, and what its layers answer.

    TorchScript is left out; what switches gradients off for itself does not.
    """

    def __init__(self, architecture: Architecture, model: nn.Module, dtype: torch.dtype) -> None:
        self.architecture = architecture
        self.model = eager(lambda: built(architecture, dtype))
        self.model.load_state_dict(model.state_dict(), strict=False)  # a frozen script has none

    def maps(self, x: Tensor) -> list[Tensor]:
        torch.manual_seed(2)  # for noise and dropout
        return heard(
            self.model, [self.layer(name) for name in self.architecture.layers], lambda: self.run(x)
        )

    def run(self, x: Tensor) -> Any:
        if self.architecture.name == "own_no_grad":
            return Answering.forward(self.model, x)
        return self.architecture.run(self.model, x)

    def layer(self, name: str) -> str:
        """The module that computes "path.convolution#n", the n-th convolution below path."""
        path, script, number = name.rpartition("convolution#")
        if not script:
            return name
        # Freezing folds each batch norm into the convolution before it.
        kind = nn.BatchNorm1d if self.architecture.name == "frozen" else nn.Conv1d
        modules = self.model.named_modules()
        below = [name for name, m in modules if isinstance(m, kind) and name.startswith(path)]
        return below[int(number) - 1]


def sonifier_of(architecture: Architecture, dtype: torch.dtype) -> Sonifier:
    return Sonifier(built(architecture, dtype), forward=architecture.forward)


def deconvnet_of(sonifier: Sonifier, x: Tensor, layer: str, method: str) -> Deconvnet:
    torch.manual_seed(2)
    return sonifier.deconvnet(x, layer, tap="output", method=method)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, as a share of the largest."""
    assert actual.shape == expected.shape
    assert expected.abs().max() > 0
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCES[expected.dtype]


def test_a_model_without_gradients_has_none():
    """The deconvnet does not need them."""
    architecture = ARCHITECTURES["own_no_grad"]
    sonifier, x = sonifier_of(architecture, torch.float64), waveforms(architecture, torch.float64)
    layer = architecture.layers[-1]
    assert deconvnet_of(sonifier, x, layer, "deconvnet").steps
    with pytest.raises(PathError, match="No signal can be carried"):
        deconvnet_of(sonifier, x, layer, "gradient")


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@rows(without=("own_no_grad",))
def test_gradient_is_autograd(architecture, dtype):
    sonifier, x = sonifier_of(architecture, dtype), waveforms(architecture, dtype)
    leaf = x.clone().requires_grad_()
    maps = Twin(architecture, sonifier.model, dtype).maps(leaf)
    for layer, map_ in zip(architecture.layers, maps, strict=True):
        deconvnet = deconvnet_of(sonifier, x, layer, "gradient")
        seed = random(*map_.shape, dtype=dtype)
        assert_near(deconvnet(seed), derivative(map_, leaf, seed))


@rows()
def test_deconvnet_is_autograd_with_a_rectifying_backward(architecture):
    sonifier, x = sonifier_of(architecture, torch.float64), waveforms(architecture, torch.float64)
    leaf, applies = x.clone().requires_grad_(), 0
    twin = Twin(architecture, sonifier.model, torch.float64)
    with RectifyingBackward():
        maps = twin.maps(leaf)
    for layer, map_ in zip(architecture.layers, maps, strict=True):
        deconvnet = deconvnet_of(sonifier, x, layer, "deconvnet")
        if {step.rule.kind for step in deconvnet.steps} & {"hold", "gradient"}:
            continue
        applies += 1
        seed = random(*map_.shape)
        assert_near(deconvnet(seed), derivative(map_, leaf, seed))
    held = [count for count, names in HELD_AFTER.items() if architecture.name in names.split()]
    assert [applies] == (held or [3])


@rows()
def test_several_seeds_are_carried_as_one_by_one(architecture):
    sonifier, x = sonifier_of(architecture, torch.float64), waveforms(architecture, torch.float64)
    deconvnet = deconvnet_of(sonifier, x, architecture.layers[2], "deconvnet")
    seeds = random(2, *deconvnet.map_shape)
    assert_near(deconvnet(seeds), torch.stack([deconvnet(seed) for seed in seeds]))


def captured(architecture: Architecture, method: str) -> Capture:
    last = architecture.layers[2]
    scripted = "convolution#" in last
    call = last if "#" in last else f"{last}#1"
    torch.manual_seed(2)
    return capture(
        built(architecture, torch.float64),
        waveforms(architecture, torch.float64),
        target=TapRequest(call, "output", is_op=scripted),
        method=method,
        forward=architecture.forward,
    )


@rows()
def test_replay_is_the_map_that_was_seen(architecture):
    seen = captured(architecture, "deconvnet")
    assert_near(replay(seen), seen.kept[seen.tap])


@rows(without=("own_no_grad",))
def test_field_holds_what_the_last_layer_reads(architecture):
    """The gradient of a single value in the middle of the map is zero outside its field."""
    seen = captured(architecture, "gradient")
    field, deconvnet = seen.receptive_fields[seen.tap], mirror(seen, method="gradient")
    if field is None:
        return
    seed = torch.zeros(deconvnet.map_shape, dtype=torch.float64).movedim(field.axis, -1)
    moment = seed.shape[-1] // 2
    seed[..., moment] = random(*seed.shape[:-1])
    read = deconvnet(seed.movedim(-1, field.axis)).flatten(0, -2).any(0).nonzero().flatten()
    assert ceil(moment * field.hop + field.start) <= read.min()
    assert read.max() <= floor(moment * field.hop + field.stop)


@rows()
def test_the_model_is_left_as_it_was(architecture):
    sonifier, x = sonifier_of(architecture, torch.float32), waveforms(architecture)
    before = deepcopy(sonifier.model.state_dict())
    for layer in architecture.layers:
        assert sonifier.sonify(x, layer=layer, channel="most_active").raw.isfinite().all()
    after = sonifier.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_wav2vec2_shows_the_local_hop_and_field_of_its_features():
    """With the published kernels and strides, and the group norm that reads the whole clip."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        conv_dim=(8,) * 7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    assert config.feat_extract_norm == "group"
    model = transformers.Wav2Vec2Model(config).eval()
    call = lambda model, x: model(x.reshape(-1, x.shape[-1])).last_hidden_state  # noqa: E731
    table = Sonifier(model, forward=call).layers(torch.randn(4000))
    found = {row.name: row for row in table}
    hop, field = 1, 1
    for number, (kernel, stride) in enumerate(
        zip(config.conv_kernel, config.conv_stride, strict=True)
    ):
        field, hop = field + (kernel - 1) * hop, hop * stride
        row = found[f"feature_extractor.conv_layers.{number}.conv"]
        assert (row.hop, row.receptive_field) == (str(hop), field)
        assert row.note == ("statistics over the whole clip" if number else "")
    assert (hop, field) == (320, 400)
    assert "statistics over the whole clip" in str(table)
