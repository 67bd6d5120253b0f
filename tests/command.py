"""What the tests of the command share: models in a file, sounds, and how an error must end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch import nn

from deconv1d.cli.commands import main

ROOT = Path(__file__).resolve().parents[1]
RATE = 8000
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

FACTORIES = """
import sys, time
from pathlib import Path
import torch
from torch import nn

def _network(inputs, channels=5):
    torch.manual_seed(0)
    first = [nn.Conv1d(inputs, 4, 9), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*first, nn.Conv1d(4, channels, 5))

def mono():
    return _network(1)

def stereo():
    return _network(2)

def wide():
    return _network(1, channels=40)

class Any(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = _network(1)

    def forward(self, x):
        return self.network(x.mean(1, keepdim=True))

def talkative():
    print("loading ...")
    network = _network(1)
    network.register_forward_hook(lambda *_: print("forward"))
    return network

def failing():
    raise ValueError("no checkpoint in\\n  'runs'")

def leaving():
    sys.exit("this is a program")

def needy(path):
    return _network(1)

def number():
    return 3

constant = 3

class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("my own mistake")

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3)

    def forward(self, x):
        open("started", "w").close()
        time.sleep(60)
        return self.conv(x)

class Halting(nn.Module):
    '''Stops once the first sounds are written, so that Ctrl-C finds it at work.'''
    def __init__(self):
        super().__init__()
        self.network = _network(1, channels=40)

    def forward(self, x):
        if Path("out0.wav").exists():
            time.sleep(60)
        return self.network(x)
"""


def line(code: str) -> str:
    """Where in the file of factories this is."""
    [number] = [n for n, text in enumerate(FACTORIES.splitlines(), 1) if code in text]
    return f"models.py:{number}"


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder with factories the current one, and `sys.path` the test's own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("models.py").write_text(FACTORIES)


def sound(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape)


def write(name: str, samples: np.ndarray, rate: int = RATE, **options) -> str:
    soundfile.write(name, samples, rate, **options)
    return name


def factory(name: str) -> nn.Module:
    namespace: dict = {}
    exec(FACTORIES, namespace)
    return namespace[name]()


def options(model: str = "models.py:mono", rate: int = RATE) -> list[str]:
    return ["--model", model, "--sample-rate", str(rate)]


def sonify(audio: str, *more: str, model: str = "models.py:mono", rate: int = RATE) -> int:
    layer = [] if "--layer" in more else ["--layer", "3"]
    output = [] if "-o" in more else ["-o", "out.wav"]
    return main(["sonify", audio, *options(model, rate), *layer, *output, *more])


def samples(name: str) -> np.ndarray:
    return soundfile.read(name, dtype="float32")[0].T


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def check_refused(capsys: pytest.CaptureFixture, code: int, *words: str) -> None:
    """That a command ended as after every error of a user's."""
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("deconv1d: ")
    for word in words:
        assert word in err
    assert not list(Path().glob("out*"))
    assert not list(Path().glob(".*.part"))


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
