"""The networks of POINTING.md: what each is tested on, and what its masks are to reach."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deconv1d import Sonifier
from deconv1d.evaluation.explanations import sonified
from deconv1d.evaluation.recordings import read_recordings
from deconv1d.evaluation.trust import CONTROLS, RANDOM_CELLS
from reference_models.cnn12 import CNN12, demo
from reference_models.soundnet import SAMPLE_RATE, SCALE, SoundNet, load_soundnet

WORDS = ("backward", "eight", "happy", "left", "marvin", "seven", "sheila", "stop", "yes", "zero")
UNTRAINED = ("deconvnet", "integrated gradients minus rivals, in cells", "mask")
"""What is put to the test on twins that learnt nothing."""
OPTIONS = {
    f"deconvnet, {name}={value!r}": sonified(**{name: value})
    for name, value in (("seed", "ones"), ("seed", "peak"), ("low_cut", 50))
}
"""Options of the deconvnet."""


@dataclass(frozen=True)
class Network:
    """A network and what it is tested on.

    Attributes:
        name: As the page names it.
        model: Makes it.
        sample_rate: In hertz.
        layers: Which are tested.
        folder: Of the data.
        seconds: Length of a mixture.
        bars: What a mask's pointing is to reach in some layers.
        leading: Layers in which a mask is to lead the largest control.
        explanations: What is put to the test; empty: all.
        captum: Whether one of Captum's methods is too.
        suffix: Of the names of its files, where the same weights are tested more than once.
    """

    name: str
    model: Callable[[], nn.Module]
    sample_rate: int
    layers: Sequence[str]
    folder: str
    seconds: float
    bars: Mapping[str, float] = field(default_factory=dict)
    leading: Sequence[str] = ()
    explanations: Sequence[str] = ()
    captum: bool = False
    suffix: str = ""


def untrained(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same with fresh weights, always the same ones."""

    def fresh() -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return make().eval()

    return fresh


def twin(network: Network, model: Callable[[], nn.Module]) -> Network:
    """A network that learnt nothing, tested as another one is."""
    name = f"{network.name}, untrained"
    return replace(network, name=name, model=untrained(model), explanations=UNTRAINED)


def with_options(network: Network) -> Network:
    """The same weights, heard by the deconvnet with each of its options."""
    name, explanations = f"{network.name}, options", ("deconvnet", *OPTIONS)
    return replace(network, name=name, explanations=explanations, captum=False, suffix="-options")


WORDS_NET = Network(
    "CNN12, words",
    demo,
    8000,
    [f"conv{n}" for n in (3, 5, 7, 9, 11)],
    "speech_commands",
    2.0,
    {"conv3": 0.95, "conv5": 0.95, "conv7": 0.95, "conv9": 0.88},
    ("conv9", "conv11"),
    captum=True,
)
CONTRASTIVE = Network(
    "CNN12, contrastive",
    lambda: demo(regime="contrastive"),
    8000,
    [f"conv{n}" for n in (5, 7, 9, 11)],
    "speech_commands",
    2.0,
    {"conv9": 0.85, "conv11": 0.85},
    ("conv9", "conv11"),
)
SOUNDNET = Network(
    "SoundNet-8",
    lambda: load_soundnet().features,
    SAMPLE_RATE,
    ["conv5", "conv7"],
    "esc10",
    10.0,
    {"conv5": 0.82},
    ("conv5",),
    ("deconvnet", "mask", *CONTROLS, RANDOM_CELLS),
)
NETWORKS = {
    network.name: network
    for network in (
        WORDS_NET,
        CONTRASTIVE,
        SOUNDNET,
        with_options(WORDS_NET),
        with_options(CONTRASTIVE),
        twin(WORDS_NET, lambda: CNN12(width=1 / 8)),
        twin(CONTRASTIVE, lambda: CNN12(width=1 / 8)),
        twin(SOUNDNET, lambda: SoundNet().features),
    )
}


def recordings(network: Network, data: Path) -> dict[str, list[Tensor]]:
    """Some recordings of each class, at the network's rate."""
    found = read_recordings(data / network.folder, network.sample_rate)
    return {
        name: some
        for name, some in found.items()
        if network.folder != "speech_commands" or name in WORDS
    }


def sonifier_of(network: Network) -> Sonifier:
    """The network as it takes mono clips of peak 1."""
    scale = SCALE if network.sample_rate == SAMPLE_RATE else 1.0
    return Sonifier(
        network.model(), sample_rate=network.sample_rate, forward=lambda model, x: model(scale * x)
    )
