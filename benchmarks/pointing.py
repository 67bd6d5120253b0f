"""Which explanations point to what drives a channel: the networks that ship, and SoundNet-8.

python -m benchmarks.pointing --data DIR [--count N] [NETWORK ...]

Half an hour; writes POINTING.md beside this file, and the short table in docs/trust.md. `--data`
holds `speech_commands/` and `esc10/`, laid out as published. SoundNet-8 needs its
weights (see reference_models/soundnet.py).
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.evaluation.explanations import captum
from deconv1d.evaluation.intervals import Mean
from deconv1d.evaluation.recordings import PER_CLASS, read_recordings
from deconv1d.evaluation.trust import (
    Trust,
    benchmark_trust,
    standard_explanations,
    weights_hash,
)
from reference_models.cnn12 import CNN12, demo
from reference_models.soundnet import SAMPLE_RATE, SCALE, SoundNet, load_soundnet

WORDS = ("backward", "eight", "happy", "left", "marvin", "seven", "sheila", "stop", "yes", "zero")
UNTRAINED = ("deconvnet", "integrated gradients minus rivals, in cells", "mask")
"""What is put to the test on twins that learnt nothing."""
SHORT = ("conv3", "conv5", "conv9")
TRUST = HERE.parent / "docs" / "trust.md"
CAPTUM = "NeuronGuidedBackprop"


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
        share: Of the pairs that the others get: a larger network gets fewer.
        untrained: Whether it learnt nothing.
    """

    name: str
    model: Callable[[], nn.Module]
    sample_rate: int
    layers: Sequence[str]
    folder: str
    seconds: float
    share: float = 1.0
    untrained: bool = False


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
    return replace(network, name=name, model=untrained(model), untrained=True)


WORDS_NET = Network(
    "CNN12, words",
    demo,
    8000,
    [f"conv{n}" for n in (3, 5, 7, 9, 11)],
    "speech_commands",
    2.0,
)
CONTRASTIVE = Network(
    "CNN12, contrastive",
    lambda: demo(regime="contrastive"),
    8000,
    [f"conv{n}" for n in (5, 7, 9, 11)],
    "speech_commands",
    2.0,
)
SOUNDNET = Network(
    "SoundNet-8",
    lambda: load_soundnet().features,
    SAMPLE_RATE,
    ["conv5", "conv7"],
    "esc10",
    10.0,
    0.25,
)
NETWORKS = {
    network.name: network
    for network in (
        WORDS_NET,
        CONTRASTIVE,
        SOUNDNET,
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


def measured(network: Network, data: Path, count: int) -> tuple[str, list[Trust]]:
    """The hash of a network's weights, and its table."""
    sonifier = sonifier_of(network)
    explanations = standard_explanations(sonifier)
    if network.untrained:
        explanations = {k: v for k, v in explanations.items() if k in UNTRAINED}
    elif network is WORDS_NET:
        explanations[f"Captum's {CAPTUM}"] = captum(CAPTUM)
    share = network.share / (2 if network.untrained else 1)
    pairs = max(4, round(share * count))
    found = benchmark_trust(
        sonifier,
        network.layers,
        recordings(network, data),
        explanations,
        count=pairs,
        seconds=network.seconds,
        clips=max(4, pairs // 2),
        progress=True,
    )
    print(found, flush=True)
    return weights_hash(sonifier.model), list(found)


def rows(found: Sequence[Trust]) -> Iterator[list[str]]:
    """The lines of a table."""
    for row in found:
        told = row.identified, row.in_minus_out
        yield [
            row.layer,
            row.explanation,
            str(row.pairs),
            *map(with_error, (row.pointing, row.aligned, row.within_frames)),
            *("-" if mean is None else with_error(mean) for mean in told),
        ]


def with_error(mean: Mean) -> str:
    """A mean and its standard error."""
    return f"{mean.value:.2f} ± {mean.error:.2f}"


HEAD = (
    "layer",
    "explanation",
    "pairs",
    "pointing",
    "aligned",
    "within frames",
    "identified",
    "in minus out",
)
ABOUT = """\
Two recordings of different classes, of equal RMS, are mixed. *Pointing* is the share of a sound's \
energy under the ideal ratio mask of the recording that drives its channel, the mean of both \
directions: 0.5 for whatever does not depend on the channel. *Aligned* is the same with both \
recordings loud at once, so that time alone tells nothing; *within frames* is the part of it that \
a gate in time cannot have. *Identified* is the share of the nine most active channels' sounds on \
which, relative to the mixture, their own channel is the most active: 0.11 by chance. *In minus \
out* is the channel's activation on its sound minus that on what the sound leaves, both at the \
mixture's RMS, relative to the mixture. Means and standard errors (bootstrap over pairs, times \
1.4). Docs: [trust](../docs/trust.md).
"""


def section(network: Network, digest: str, found: Sequence[Trust]) -> str:
    """A network's part of the page."""
    about = (
        f"Weights {digest}; mixtures of {network.seconds:g} s from `{network.folder}/`, the first "
        f"{PER_CLASS} recordings of each of its classes; random_state 0."
    )
    return f"## {network.name}\n\n{about}\n\n{table(HEAD, list(rows(found)))}\n"


def short(network: Network, found: Sequence[Trust]) -> str:
    """A few layers and explanations: pointing, both recordings loud at once, and identified."""
    by_name: dict[str, list[Trust]] = {}
    for row in found:
        if row.layer in SHORT:
            by_name.setdefault(row.explanation, []).append(row)
    head = ["aligned / identified", *SHORT]
    lines = [
        [name, *(f"{with_error(r.aligned)} / {identified(r)}" for r in some)]
        for name, some in by_name.items()
    ]
    return f"{network.name}:\n\n{table(head, lines)}\n"


def identified(row: Trust) -> str:
    """One number, if there is one."""
    return "-" if row.identified is None else f"{row.identified.value:.2f}"


def put_between(path: Path, marker: str, text: str) -> None:
    """Writes text into a page, between two comments."""
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, after = page.partition(begin)[0], page.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def main() -> None:
    """Writes POINTING.md, anew after each network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all if none is named")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=24, metavar="N", help="pairs in each layer")
    given = parser.parse_args()
    parts = []
    named = [f'"{name}"' for name in given.networks]
    for name in given.networks or NETWORKS:
        digest, found = measured(NETWORKS[name], given.data, given.count)
        parts.append(section(NETWORKS[name], digest, found))
        if name == WORDS_NET.name:
            put_between(TRUST, "pointing", short(WORDS_NET, found))
        write_page(
            HERE / "POINTING.md",
            "Pointing: whose sound is it?",
            " ".join(
                ["python -m benchmarks.pointing --data DIR --count", str(given.count), *named]
            ),
            ABOUT + "\n" + "\n".join(parts).rstrip(),
            ("torch", "scipy", "captum"),
        )


if __name__ == "__main__":
    main()
