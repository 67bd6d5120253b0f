"""What people do with sonifications, timed beside the loops that they would write themselves.

Every function returns a table. `benchmarks.speed` runs them on the processor, `benchmarks.gpu` on a
GPU; sizes are parameters, so that tests can run all of it small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import NamedTuple

import torch
from captum.attr import NeuronDeconvolution
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures import ARCHITECTURES, trained_like
from benchmarks.reporting import interleaved, table
from deconv1d import Sonifier
from reference_models.cnn12 import CNN12

RATE = 8000
LAYER, MAP = "features.conv8", "features.mp8"
BARS = "bar"


class Job(NamedTuple):
    """One channel of one network, as Captum calls it and as a sonifier does.

    Attributes:
        model: The network.
        x: (1, 1, time).
        layer: The sonifier's name of the map.
        module: The module that returns the map, for Captum.
        bars: How many times Captum's time a call and a program should take at most.
    """

    model: nn.Module
    x: Tensor
    layer: str
    module: str
    bars: tuple[float, float]


def cnn12(width: float, device: str) -> nn.Module:
    """CNN12 with weights that keep the level, and ReLUs that Captum's hooks can follow."""
    torch.manual_seed(0)
    model = trained_like(CNN12(width=width))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model.to(device)


def noise(seconds: float, device: str, rate: int = RATE) -> Tensor:
    """White noise, (1, 1, time)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 1, round(seconds * rate), generator=generator).to(device)


def one_channel_jobs(device: str, width: float = 1, seconds: float = 10) -> dict[str, Job]:
    """The three networks of the table.

    Args:
        device: Where they are.
        width: Of the largest.
        seconds: Of its waveform.
    """
    torch.manual_seed(0)
    m5 = ARCHITECTURES["m5"].build().to(device)
    return {
        f"CNN12, width {width:g}, {seconds:g} s": Job(
            cnn12(width, device), noise(seconds, device), LAYER, MAP, (0.6, 0.5)
        ),
        "CNN12, width 1/8, 1 s": Job(
            cnn12(1 / 8, device), noise(1, device), LAYER, MAP, (1.0, 0.4)
        ),
        "M5, 1 s": Job(m5, noise(1, device), "conv4", "bn4", (1.0, 0.4)),
    }


def with_captum(job: Job, channel: int) -> Tensor:
    """The same target by Captum: the map's own values are the seed."""

    def selector(a: Tensor) -> Tensor:
        return (a[:, channel] * a[:, channel].detach()).sum(-1)

    method = NeuronDeconvolution(job.model, job.model.get_submodule(job.module))
    return method.attribute(job.x, neuron_selector=selector)


def one_channel(jobs: dict[str, Job], *, rounds: int = 9) -> str:
    """One channel, called plainly and by a prepared program, beside Captum and a bare forward."""
    rows = []
    for name, job in jobs.items():
        sonifier = Sonifier(job.model)
        channel = sonifier.sonify(job.x, job.layer).channel  # one that is alive; verified here
        program = sonifier.prepare(job.x, job.layer)
        runs: dict[str, Callable[[], object]] = {
            "captum": partial(with_captum, job, channel),
            "sonify": partial(sonifier.sonify, job.x, job.layer, channel=channel),
            "program": partial(program, job.x, channel=channel),
            "forward": partial(_forward, job.model, job.x),
            "bare": partial(_bare, job),
        }
        times = _timed(runs, job.x, rounds)
        captum = times["captum"]
        order = ("captum", "forward", "bare", "sonify", "program")
        cells = [f"{1e3 * times[run]:.1f}" for run in order]
        ratios = [f"{times[run] / captum:.2f}" for run in ("sonify", "program")]
        judged = (x for two in zip(ratios, job.bars, strict=True) for x in two)
        rows.append([name, *cells, *judged, f"{times['bare'] / captum:.2f}"])
    head = ["one channel", "Captum, ms", "bare forward", "bare, both ways", "`sonify`", "program"]
    ratio_heads = ["`sonify` / Captum", BARS, "program / Captum", BARS, "both ways / Captum"]
    return table([*head, *ratio_heads], rows)


def _bare(job: Job) -> None:
    """What no program can do without: forward to the map, and the transposed convolutions."""
    with torch.inference_mode():
        _up_to(job.model, job.x, job.module)
    _bare_transposes(job.model, job.x, job.layer)


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)  # type: ignore[no-any-return]  # modules are untyped


def many_channels(
    device: str, *, several: int = 8, width: float = 1, seconds: float = 10, rounds: int = 7
) -> str:
    """Channels of one map, each: beside one retained graph in a loop, and bare convolutions."""
    model, x = cnn12(width, device), noise(seconds, device)
    # The most active: a dead map has no way to go.
    activity = _up_to(model, x, MAP).detach().mean(-1)[0]
    sonifier, channels = Sonifier(model), activity.topk(several).indices.tolist()
    program = sonifier.prepare(x, LAYER)
    bare = partial(_bare_transposes, model, x, LAYER)
    runs: dict[str, Callable[[], object]] = {
        "loop": partial(_retained_graph, model, x, channels),
        "bare": lambda: [bare() for _ in channels],
        "sonify": partial(sonifier.sonify, x, LAYER, channel=channels),
        "program": partial(program, x, channel=channels),
    }
    bare()
    each = {name: time / several for name, time in _timed(runs, x, rounds).items()}
    limit = max(0.7 * each["loop"], 1.15 * each["bare"])
    cells = [f"{1e3 * each[name]:.1f}" for name in ("loop", "bare", "sonify", "program")]
    head = [
        f"{several} channels, each",
        "retained graph, `autograd.grad` in a loop, ms",
        "bare transposed convolutions",
        "`sonify`",
        "program",
        "bar: the larger of 0.7 x the loop, 1.15 x the convolutions",
    ]
    row = [f"CNN12, width {width:g}, {seconds:g} s, conv8", *cells, f"{1e3 * limit:.1f}"]
    return table(head, [row])


def _retained_graph(model: nn.Module, x: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """What a user would write for many channels: the gradient method, from one forward pass."""
    waveform = x.clone().requires_grad_()
    maps = _up_to(model, waveform, MAP)
    seeds = [(maps[:, c] * maps[:, c].detach()).sum() for c in channels]
    return [torch.autograd.grad(seed, waveform, retain_graph=True)[0] for seed in seeds]


class _Reached(Exception):
    """The map is there: the rest of the model need not run."""


def _up_to(model: nn.Module, x: Tensor, module: str) -> Tensor:
    """The plain forward pass of any model as far as the module that returns a map."""
    maps: list[Tensor] = []

    def stop(_: nn.Module, __: object, output: Tensor) -> None:
        maps.append(output)
        raise _Reached

    with model.get_submodule(module).register_forward_hook(stop), suppress(_Reached):
        model(x)
    return maps[0]


class _Transpose(NamedTuple):
    """A transposed convolution: (..., channels, time) of the map's shape, and the weights."""

    signal: Tensor
    convolution: nn.Conv1d

    def run(self) -> None:
        own = self.convolution
        F.conv_transpose1d(
            self.signal,
            own.weight,
            stride=own.stride,
            padding=own.padding,  # type: ignore[arg-type]  # none of these pads by a word
            groups=own.groups,
            dilation=own.dilation,
        )


_transposes: dict[tuple[int, str, int], list[_Transpose]] = {}


def _bare_transposes(model: nn.Module, x: Tensor, layer: str) -> None:
    """The transposed convolutions from a layer down to the waveform, and nothing else."""
    key = (id(model), layer, x.shape[-1])
    if key not in _transposes:
        _transposes[key] = _transposed(model, x, layer)
    with torch.inference_mode():
        for transpose in reversed(_transposes[key]):
            transpose.run()


def _transposed(model: nn.Module, x: Tensor, layer: str) -> list[_Transpose]:
    """Those of every convolution that has run when a layer has."""
    found: list[_Transpose] = []

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv1d):
            found.append(_Transpose(output.clone(), module))

    with ExitStack() as hooks:
        hooks.enter_context(torch.inference_mode())
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(keep))
        _up_to(model, x, layer)
    return found


def peaks(device: str, *, width: float = 1, seconds: float = 10, rounds: int = 7) -> str:
    """Every channel's strongest moment, each, beside Captum; and the difference to the dense."""
    (name, job), *_ = one_channel_jobs(device, width, seconds).items()
    sonifier = Sonifier(job.model)
    local = sonifier.sonify(job.x, LAYER, channel="all", seed="peak")
    count = local.raw.shape[0]
    some = list(range(0, count, max(1, count // 8)))
    dense = sonifier.prepare(job.x, LAYER, seed="peak")(job.x, channel=some).raw
    error = float((local.raw[some] - dense).abs().amax() / dense.abs().amax())
    runs: dict[str, Callable[[], object]] = {
        "captum": partial(with_captum, job, 3),
        "all": partial(sonifier.sonify, job.x, LAYER, channel="all", seed="peak"),
    }
    times = _timed(runs, job.x, rounds)
    each, captum = times["all"] / count, times["captum"]
    head = [f'`seed="peak"`, {count} channels, each', "ours, ms", "Captum", "ratio", BARS]
    row = [name, f"{1e3 * each:.2f}", f"{1e3 * captum:.1f}", f"{each / captum:.3f}", "0.02"]
    return table([*head, "difference to the dense one", BARS], [[*row, f"{error:.0e}", "1e-06"]])


def removal(
    device: str, *, clips: int = 2, width: float = 1, seconds: float = 10, rounds: int = 7
) -> str:
    """Every clip sonified at each of 11 layers, beside the convolutions of that alone."""
    model = cnn12(width, device)
    sounds = [noise(seconds, device).roll(97 * number, -1) for number in range(clips)]
    layers = [f"features.conv{number}" for number in range(1, 12)]
    sonifier = Sonifier(model)

    def ours() -> None:
        for layer in layers:
            for x in sounds:
                sonifier.programs.sonify(x, layer)

    def bare() -> None:
        with torch.inference_mode():
            for layer in layers:
                for x in sounds:
                    _up_to(model, x, layer)
                    _bare_transposes(model, x, layer)

    ours()  # programs are prepared when a layer is heard again
    times = _timed({"ours": ours, "bare": bare}, sounds[0], rounds)
    count = clips * len(layers)
    cells = [f"{1e3 * times[name] / count:.1f}" for name in ("ours", "bare")]
    head = ["a clip at each of 11 layers, each", "ours, ms", "its convolutions", "ratio", BARS]
    name = f"CNN12, width {width:g}, {seconds:g} s"
    return table(head, [[name, *cells, f"{times['ours'] / times['bare']:.2f}", "1.3"]])


def _timed(runs: dict[str, Callable[[], object]], x: Tensor, rounds: int) -> dict[str, float]:
    """Medians; on a GPU each run ends when the GPU has done it."""
    if x.is_cuda:
        runs = {name: partial(_finished, run) for name, run in runs.items()}
    return interleaved(runs, rounds=rounds)


def _finished(run: Callable[[], object]) -> None:
    run()
    torch.cuda.synchronize()
