"""Weights as trainers and Hugging Face save them."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import enter, write
from safetensors.torch import save_file
from torch import nn

from deconv1d import FileError, InputError, ModelError, Sonifier
from deconv1d.cli.commands import main
from deconv1d.cli.models import load_model
from deconv1d.loading.checkpoints import unwrap

WANTED = ["0.weight", "0.bias"]
MODEL = "made.py:make"
FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv1d(1, 3, 5), nn.ReLU())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    (tmp_path / "made.py").write_text(FACTORY)
    return tmp_path


@pytest.fixture
def state():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 3, 5), nn.ReLU()).state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


OPTIMISER = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
CHECKPOINTS = {
    "plain": (lambda s: s, ""),
    "wrapped": (
        lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": OPTIMISER},
        "used its 'model_state_dict'",
    ),
    "lightning": (
        lambda s: {
            "state_dict": {**prefixed("model.", s), "criterion.weight": torch.ones(2)},
            "pytorch-lightning_version": "2.5",
            "optimizer_states": [OPTIMISER],
        },
        "used its 'state_dict', took 'model.' off 2 names, left out 1 without it "
        "(criterion.weight)",
    ),
    "ddp": (lambda s: prefixed("module.", s), "took 'module.' off 2 names"),
    "compiled ddp": (
        lambda s: {"model": prefixed("module._orig_mod.", s)},
        "used its 'model', took 'module._orig_mod.' off 2 names",
    ),
    "an average beside it": (
        lambda s: {"net": s, "ema": {k: v + 1 for k, v in s.items()}},
        "used its 'net' ('ema' would fit too)",
    ),
    "two levels deep": (
        lambda s: {"epoch": 3, "best": {"metrics": [1], "net": prefixed("module.", s)}},
        "used its 'best.net', took 'module.' off 2 names",
    ),
    "another network beside it": (
        lambda s: {"discriminator": {"conv.weight": torch.ones(1)}, "generator": s},
        "used its 'generator'",
    ),
    "options and metrics beside it": (
        lambda s: {
            "state_dict": s,
            "args": argparse.Namespace(rate=0.1),
            "best": np.float64(0.9),
            "curve": np.arange(3.0),
            "folder": Path("runs"),
        },
        "used its 'state_dict'",
    ),
    "a teacher beside it": (
        lambda s: (
            prefixed("teacher_model.", {k: v + 1 for k, v in s.items()}) | prefixed("model.", s)
        ),
        "took 'model.' off 2 names, left out 2 without it (teacher_model.0.weight, "
        "teacher_model.0.bias)",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_is_unwrapped_and_it_is_said(case, state, recwarn):
    wrap, said = CHECKPOINTS[case]
    assert unwrap(wrap(state), WANTED, None).said == said
    torch.save(wrap(state), "c.ckpt")
    loaded = load_model(MODEL, "c.ckpt").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert [str(w.message) for w in recwarn] == ([f"The weights 'c.ckpt': {said}."] if said else [])


def test_the_key_names_the_state_dict(state):
    other = {name: value + 1 for name, value in state.items()}
    torch.save({"model": state, "ema": {"shadow": prefixed("module.", other)}}, "c.pt")
    with pytest.warns(UserWarning, match=r"used 'ema\.shadow', took 'module\.' off 2 names"):
        loaded = load_model(MODEL, "c.pt", key="ema.shadow").state_dict()
    assert torch.equal(loaded["0.bias"], other["0.bias"])
    with pytest.raises(InputError, match=r"the key 'best': expected one of 'model', 'ema\.shadow'"):
        load_model(MODEL, "c.pt", key="best")
    torch.save(state, "c.pt")
    with pytest.raises(InputError, match="a state dict itself"):
        load_model(MODEL, "c.pt", key="model")


def test_a_pickle_that_could_run_code_is_refused():
    torch.save({"state_dict": {}, "model": nn.ReLU()}, "c.pt")
    with pytest.raises(FileError, match=r"pickle that asks for .*ReLU.* can run any code"):
        load_model(MODEL, "c.pt")


def test_what_does_not_fit_is_refused_as_it_was(state):
    save_file(prefixed("module.", {"0.weight": state["0.weight"]}), "c.safetensors")
    with pytest.raises(ModelError, match=r"do not fit.*2 missing.*'0\.weight'"):
        load_model(MODEL, "c.safetensors")


def test_the_command_unwraps(state, capsys):
    clip = write("clip.wav", np.random.default_rng(0).normal(0, 0.1, 800))
    torch.save({"best": {"model": prefixed("module.", state)}}, "c.pt")
    weights = ["--weights", "c.pt", "--key", "best.model"]
    assert main(["layers", clip, "--model", MODEL, "--sample-rate", "8000", *weights]) == 0
    shown = capsys.readouterr()
    assert "Conv1d" in shown.out
    assert "used 'best.model', took 'module.' off 2 names" in shown.err


# --- Hugging Face --------------------------------------------------------------------------------

transformers = pytest.importorskip("transformers")


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
