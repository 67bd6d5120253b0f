"""The command with models of all kinds, bad ones, and with Ctrl-C while they work."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command import (
    ENVIRONMENT,
    FACTORIES,
    RATE,
    cut,
    factory,
    line,
    options,
    samples,
    sonify,
    sound,
    write,
)
from safetensors.torch import save_file

from deconv1d import Sonifier
from deconv1d.audio import read_audio, write_audio

# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models.py:absent", ("function 'absent'", "'models.py', got none", "'mono'")),
        ("models.py:constant", ("function 'constant'", "got int")),
        ("models.py", ("no module and function", "path.py:factory")),
        ("nowhere.py:mono", ("'nowhere.py' failed: FileNotFoundError",)),
        ("nowhere.at_all:mono", ("'nowhere.at_all' failed: ModuleNotFoundError", "'nowhere'")),
        (
            "models.py:failing",
            (f"{line('raise ValueError')}: ValueError: no checkpoint in 'runs'.",),
        ),
        ("models.py:leaving", ("SystemExit: this is a program",)),
        ("models.py:needy", ("missing 1 required positional argument: 'path'",)),
        ("models.py:number", ("made no model", "got a int")),
        ("models.py:Broken", (f"{line('raise KeyError')}: KeyError: 'my own mistake'",)),
        ("broken.py:mono", ("broken.py", "SyntaxError")),
    ],
    ids=str,
)
def test_bad_factories(clip, model, words, refused):
    Path("broken.py").write_text("def mono(:")
    refused(sonify(clip, model=model), *words)


def test_a_file_imports_its_neighbours_and_replaces_no_package(clip):
    folder = Path("deep")
    folder.mkdir()
    (folder / "beside_the_model.py").write_text("inputs = 1")
    (folder / "torch.py").write_text(f"from beside_the_model import inputs\n{FACTORIES}")
    assert sonify(clip, model="deep/torch.py:mono") == 0
    assert sys.modules["torch"] is torch


def test_a_module_is_found_in_the_current_folder(clip):
    Path("package_of_models").mkdir()
    Path("package_of_models/deep.py").write_text(FACTORIES)
    assert sonify(clip, model="package_of_models.deep:mono") == 0


def other_weights() -> dict[str, torch.Tensor]:
    return {name: 1 - 2 * tensor for name, tensor in factory("mono").state_dict().items()}


@pytest.mark.parametrize(("name", "save"), [("w.safetensors", save_file), ("w.pt", torch.save)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_weights(clip, name, save, dtype):
    save({key: tensor.to(dtype) for key, tensor in other_weights().items()}, name)
    assert sonify(clip, "--weights", name) == 0
    model = factory("mono")
    model.load_state_dict({k: v.to(dtype).float() for k, v in other_weights().items()})
    found = Sonifier(model).sonify(read_audio(clip, RATE)[0], layer="3", channel="most_active")
    np.testing.assert_array_equal(samples("out.wav"), found.waveform.numpy())


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def save_bytes(change):
    def save(name: str) -> None:
        whole = io.BytesIO()
        torch.save(other_weights(), whole)
        Path(name).write_bytes(change(whole.getvalue()))

    return save


def save_changed(**changes):
    def save(name: str) -> None:
        state = other_weights() | {key.replace("_", "."): value for key, value in changes.items()}
        torch.save({key: value for key, value in state.items() if value is not None}, name)

    return save


def save_script(name):
    torch.jit.script(factory("mono")).save(name)


@pytest.mark.parametrize(
    ("name", "save", "words"),
    [
        ("absent.pt", lambda name: None, ("'absent.pt' cannot be read: No such file",)),
        ("absent.safetensors", lambda name: None, ("cannot be read: No such file",)),
        ("folder.pt", os.mkdir, ("Is a directory",)),
        ("w.pt", save_bytes(lambda whole: b""), ("'w.pt' cannot be read", "EOFError")),
        ("w.pt", save_bytes(cut), ("'w.pt' cannot be read", "RuntimeError")),
        ("w.safetensors", save_bytes(cut), ("cannot be read", "SafetensorError")),
        ("w.pt", lambda name: torch.save([1, 2], name), ("a state dict", "got a list")),
        ("w.pt", lambda name: torch.save(RunsCode(), name), ("refused", "posix.mkdir")),
        ("w.pt", lambda name: torch.save(factory("mono"), name), ("refused", "Sequential")),
        ("w.pt", save_script, ("a model as TorchScript", "torch.jit.load('w.pt')")),
        ("w.pt", save_changed(**{"0_bias": None}), ("1 missing: '0.bias'",)),
        ("w.pt", save_changed(head=torch.ones(1)), ("1 unexpected: 'head'",)),
        ("w.pt", save_changed(**{"3_weight": torch.ones(2)}), ("1 of another shape: '3.weight'",)),
    ],
)
def test_bad_weights(clip, name, save, words, refused):
    save(name)
    refused(sonify(clip, "--weights", name), "weights", *words)
    assert not Path("ran").exists()


# --- Ctrl-C --------------------------------------------------------------------------------------


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def started(arguments: list[str], sign: str):
    """The command in a process of its own, once a file of that name has appeared."""
    command = [sys.executable, "-m", "deconv1d", *arguments]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not Path(sign).exists():  # however busy the machine is
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.005)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("model", "names", "sign"),
    [
        ("models.py:Slow", ["--layer", "conv", "-o", "out.wav"], "started"),
        (
            "models.py:Halting",
            ["--layer", "network.3", "--channel", "all", "-o", "out{channel}.wav"],
            "out0.wav",
        ),
    ],
    ids=["while the model runs", "while files are written"],
)
def test_ctrl_c_leaves_whole_files(interruptible, model, names, sign):
    clip = write("clip.wav", sound(80_000))
    with started(["sonify", clip, *options(model), *names], sign) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert (out, err) == ("", "deconv1d: interrupted\n")
    assert len(list(Path().glob("out*"))) < 40
    for name in Path().glob("out*"):
        assert samples(str(name)).shape == (80_000,)
    assert not list(Path().glob(".*.part"))


@pytest.mark.parametrize("work", ["read", "write"])
def test_ctrl_c_is_not_lost_in_the_sound_library(interruptible, folder, work):
    noise = sound(60 * RATE)
    write_audio("in.ogg", noise, RATE)
    sent = threading.Event()

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        sent.set()

    threading.Timer(0.3, interrupt).start()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # once may take less time
        rounds_after = 0
        while rounds_after < 3:
            rounds_after += sent.is_set()
            read_audio("in.ogg") if work == "read" else write_audio("out.ogg", noise, RATE)
    assert not list(folder.glob(".*.part"))
