"""Models in the folders of Hugging Face, with what their processors do to sound."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import enter, write

from deconv1d import FileError, ModelError, Sonifier
from deconv1d.cli.commands import main

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)


def saved(normalise=True):
    """A tiny random wav2vec 2.0 with its processor, in a folder."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(4, 4),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = transformers.Wav2Vec2Model(config).eval()
    model.save_pretrained("hub")
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=normalise, sampling_rate=8000
    ).save_pretrained("hub")
    return model


@pytest.mark.parametrize("normalise", [True, False])
def test_a_folder_of_hugging_face_is_heard_as_its_processor_says(normalise):
    model, layer = saved(normalise), "conv_layers.1.conv"
    x = 0.3 + torch.randn(900, generator=torch.Generator().manual_seed(0))
    sonifier = Sonifier.from_huggingface("hub")
    assert sonifier.sample_rate == 8000
    assert ("mean 0 and variance 1" in repr(sonifier)) == normalise
    processor = transformers.AutoFeatureExtractor.from_pretrained("hub")
    given = processor(x.numpy(), sampling_rate=8000, return_tensors="pt").input_values
    expected = Sonifier(model).maps(given, layer=layer)
    torch.testing.assert_close(sonifier.maps(x, layer=layer), expected, atol=1e-5, rtol=1e-4)


def test_the_command_takes_the_folder(capsys):
    saved()
    clip = write("clip.wav", np.random.default_rng(0).normal(0, 0.1, 900))
    command = ["layers", clip, "--model", "transformers:AutoModel", "--weights", "hub"]
    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    rows = json.loads(shown.out)["layers"]
    assert any(row["name"].endswith("conv_layers.1.conv") for row in rows)
    assert "Wav2Vec2Model: 8000 Hz, waveforms normalised to mean 0 and variance 1" in shown.err
    assert main([*command, "--sample-rate", "16000"]) == 2
    assert "--sample-rate 16000" in capsys.readouterr().err
    assert main([*command, "--key", "ema"]) == 2
    assert "--key" in capsys.readouterr().err


def test_folders_that_hold_no_such_model():
    with pytest.raises(FileError, match="no config"):
        Sonifier.from_huggingface("nowhere")
    saved()
    extractor = transformers.ASTFeatureExtractor(sampling_rate=8000)
    extractor.save_pretrained("hub")
    with pytest.raises(ModelError, match=r"takes no waveform: .*ASTFeatureExtractor"):
        Sonifier.from_huggingface("hub")
    Path("hub/model.safetensors").unlink()
    with pytest.raises(FileError, match=r"cannot be read: expected config\.json and"):
        Sonifier.from_huggingface("hub")


@pytest.mark.parametrize("normalise", [True, False])
def test_hop_and_field_are_local_also_where_the_processor_normalises(normalise):
    saved(normalise)
    rows = {row.name: row for row in Sonifier.from_huggingface("hub").layers(torch.randn(900))}
    first, second = (rows[f"feature_extractor.conv_layers.{n}.conv"] for n in (0, 1))
    assert (first.hop, first.receptive_field) == ("5", 10)
    assert (second.hop, second.receptive_field) == ("10", 20)
    note = "statistics over the whole clip"
    assert (first.note, second.note) == (note if normalise else "", note)


def test_a_class_without_its_folder_is_told_what_it_needs(capsys):
    saved()
    clip = write("clip.wav", np.random.default_rng(0).normal(0, 0.1, 900))
    model = ["--model", "transformers:AutoModel", "--sample-rate", "8000"]
    assert main(["layers", clip, *model]) == 2
    assert "--weights FOLDER" in capsys.readouterr().err
