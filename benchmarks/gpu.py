"""A few minutes on a GPU: the laws on twelve networks of different kinds, then the speed tables.

python -m benchmarks.gpu                 # on the GPU, writes GPU.md
python -m benchmarks.gpu --device cpu --small --out gpu.md        # the script itself, anywhere
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.jobs import many_channels, one_channel, one_channel_jobs, peaks, removal
from benchmarks.reporting import HERE, in_a_process, table, write_page
from benchmarks.speed import mining_times
from deconv1d import Sonifier
from tests.oracles import heard

NETWORKS = (
    "m5",
    "samplecnn",
    "wavenet",
    "conv_tasnet",
    "unet",
    "sincnet",
    "conv_lstm",
    "stepwise_gru",
    "transformer_encoder",
    "conformer",
    "seanet",
    "eegnet",
)
"""One of each kind: pools, strides, dilation, gates, skips, filters made of parameters, recurrent
networks (which cuDNN does not differentiate in eval mode), attention, two-dimensional ones."""
MINED = {
    "width 1/8, 1 s": (1 / 8, 1, 1024),
    "width 1/8, 10 s": (1 / 8, 10, 128),
    "full width, 10 s": (1, 10, 128),
}
"""Width of CNN12, seconds of a clip, number of clips."""
TRIED = {"width 1/16, 1 s": (1 / 16, 1, 8)}
TOLERANCE = 1e-6
"""Of the laws, as a share of the peak. They are of float64: in float32 rounding, which is not the
same on another device, decides which of two like values a pool takes."""


def laws(names: Sequence[str], device: str) -> str:
    """What autograd gives on the device, and what the deconvnet gives on the processor.

    Raises:
        AssertionError: If one differs by more than rounding.
    """
    rows = []
    for name in names:
        errors = _errors(ARCHITECTURES[name], device)
        rows.append([name, *(f"{error:.0e}" for error in errors)])
        assert max(errors) < TOLERANCE, f"{name}: a law fails on {device}: {errors}"
    head = ["network", "gradient, difference to autograd", "deconvnet, difference to the CPU's"]
    return table(head, rows)


def _errors(architecture: Architecture, device: str) -> list[float]:
    def sound(device: str, method: str) -> Tensor:
        sonifier = Sonifier(model.to(device), forward=architecture.forward)
        options: dict[str, Any] = {"channel": None, "tap": "output", "method": method}
        raw = sonifier.sonify(x.to(device), layer, **options).raw
        assert raw.device.type == torch.device(device).type
        return raw.cpu()

    torch.manual_seed(0)
    model, layer = architecture.build().double(), architecture.layers[-1]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(architecture.input_shape, generator=generator, dtype=torch.float64)
    pairs = [(sound("cpu", "deconvnet"), sound(device, "deconvnet"))]
    pairs.insert(
        0, (_autograd(architecture, model, x.to(device), layer), sound(device, "gradient"))
    )
    return [float((ours - theirs).abs().max() / theirs.abs().max()) for theirs, ours in pairs]


def _autograd(architecture: Architecture, model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """The same by torch's own derivative; cuDNN's recurrent layers have none in eval mode."""
    x.requires_grad_()
    with torch.backends.cudnn.flags(enabled=False):
        (activation,) = heard(model, (layer,), lambda: architecture.run(model, x))
        (gradient,) = torch.autograd.grad((activation * activation.detach()).sum(), x)
    return gradient.cpu()


def mining(jobs: Mapping[str, tuple[float, int, int]], device: str, rounds: int = 3) -> str:
    """Clips a second of a bare forward pass in batches, and of mining 12 layers, decoding included.

    One thread decodes. TF32 is as torch has it by default.
    """
    rows = []
    for name, job in jobs.items():
        seconds = in_a_process(mining_times, job, rounds, device)
        rates = [f"{job[-1] / seconds[way]:.0f}" for way in ("bare", "cache", "files")]
        rows.append([name, *rates, f"{seconds['bare'] / seconds['cache']:.2f}"])
    head = ["clips a second", "bare forward", "mined from a cache", "from WAV files", "ratio"]
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow, short and few: to try it")
    parser.add_argument("--out", type=Path, default=HERE / "GPU.md")
    given = parser.parse_args(arguments)
    device, small = given.device, given.small
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    size: dict[str, Any] = {"width": 1 / 16, "seconds": 1} if small else {}
    rounds: dict[str, Any] = {"rounds": 1} if small else {}
    names = [n for n in (NETWORKS[:3] if small else NETWORKS) if ARCHITECTURES[n].installed]
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    body = [
        f"On {device}: {name}.",
        laws(names, device),
        one_channel(one_channel_jobs(device, **size), **rounds),
        *(job(device, **size, **rounds) for job in (many_channels, peaks, removal)),
        mining(TRIED if small else MINED, device, **rounds),
    ]
    command = "python -m benchmarks.gpu"
    write_page(given.out, "On a GPU", command, "\n\n".join(body), ("torch", "captum"))


if __name__ == "__main__":
    main()
