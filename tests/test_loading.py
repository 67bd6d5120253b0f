"""Weights as trainers and Hugging Face save them."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from command import enter, write
from safetensors.torch import save_file
from torch import nn

from deconv1d import FileError, InputError, ModelError
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
