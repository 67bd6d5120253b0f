"""Which explanations point to what drives a channel: the networks that ship, and SoundNet-8.

python -m benchmarks.pointing --data DIR [--count N] [NETWORK ...]

Some minutes a network; writes its section of POINTING.md beside this file, and a short table in
docs/trust.md. `--data` holds `speech_commands/` and `esc10/`, laid out as published. SoundNet-8
needs its weights (see reference_models/soundnet.py).
"""

import argparse
import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.reporting import HERE, table
from deconv1d import Sonifier
from deconv1d.evaluation.disturbed import AS_IT_IS, DISTURBANCES, disturbed_masks
from deconv1d.evaluation.explanations import captum
from deconv1d.evaluation.identity import Identities
from deconv1d.evaluation.intervals import Mean
from deconv1d.evaluation.pointing import ORACLE
from deconv1d.evaluation.recordings import PER_CLASS, read_recordings
from deconv1d.evaluation.trust import (
    CONTROLS,
    GATE,
    RANDOM_CELLS,
    Trials,
    Trust,
    standard_explanations,
    trials_of,
    weights_hash,
)
from reference_models.cnn12 import CNN12, demo
from reference_models.soundnet import SAMPLE_RATE, SCALE, SoundNet, load_soundnet

WORDS = ("backward", "eight", "happy", "left", "marvin", "seven", "sheila", "stop", "yes", "zero")
UNTRAINED = ("deconvnet", "integrated gradients minus rivals, in cells", "mask")
"""What is put to the test on twins that learnt nothing."""
SHORT = {
    "CNN12, words": ("conv3", "conv5", "conv9"),
    "CNN12, contrastive": ("conv5", "conv9", "conv11"),
}
"""What docs/trust.md shows: some layers of some networks."""
TRUST = HERE.parent / "docs" / "trust.md"
CAPTUM = "NeuronGuidedBackprop"
HIGH = 0.8
"""Where the largest control points better than this, the aligned form of the game decides."""
KEPT = 0.8
"""What a disturbed mask is to keep of its in minus out."""


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


WORDS_NET = Network(
    "CNN12, words",
    demo,
    8000,
    [f"conv{n}" for n in (3, 5, 7, 9, 11)],
    "speech_commands",
    2.0,
    {"conv3": 0.95, "conv5": 0.95, "conv7": 0.95, "conv9": 0.88},
    ("conv9", "conv11"),
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


@dataclass(frozen=True)
class Measured:
    """What was measured of one network.

    Attributes:
        network: The network.
        digest: The hash of its weights.
        count: How many pairs it was asked for.
        clips: How many mixtures serve self-identification.
        trials: Pair by pair and clip by clip.
        disturbed: Self-identification by disturbed masks; None: of a network that learnt nothing.
    """

    network: Network
    digest: str
    count: int
    clips: int
    trials: Trials
    disturbed: Identities | None

    @cached_property
    def table(self) -> list[Trust]:
        """The rows of trust."""
        return list(self.trials.table)

    def row(self, layer: str, explanation: str) -> Trust:
        """The row of one explanation in one layer."""
        return next(r for r in self.table if (r.layer, r.explanation) == (layer, explanation))

    def largest_control(self, layer: str, form: str) -> Trust:
        """The control that points best, in the form "pointing" or "aligned"."""
        return max((self.row(layer, c) for c in CONTROLS), key=lambda row: getattr(row, form).value)


def measured(network: Network, data: Path, count: int) -> Measured:
    """Plays the games of one network."""
    sonifier = sonifier_of(network)
    explanations = standard_explanations(sonifier)
    if network.explanations:
        explanations = {name: explanations[name] for name in network.explanations}
    elif network is WORDS_NET:
        explanations[f"Captum's {CAPTUM}"] = captum(CAPTUM)
    clips = max(2, count // 2)
    trials = trials_of(
        sonifier,
        network.layers,
        recordings(network, data),
        explanations,
        count=count,
        seconds=network.seconds,
        clips=clips,
        random_state=0,
        progress=True,
    )
    trained = GATE in explanations
    disturbed = disturbed_masks(sonifier, network.layers, trials.mixtures) if trained else None
    digest = weights_hash(sonifier.model)
    return Measured(network, digest, count, clips, trials, disturbed)


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
    """A mean and its standard error; "-" where nothing was measured."""
    if math.isnan(mean.value):
        return "-"
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


def section(found: Measured, command: str) -> str:
    """A network's part of the page."""
    network = found.network
    about = (
        f"Written by `{command}` ({datetime.date.today()}; torch {torch.__version__}). Weights "
        f"{found.digest}; mixtures of {network.seconds:g} s from `{network.folder}/`, the first "
        f"{PER_CLASS} recordings of each of its classes; {found.clips} mixtures serve "
        f"self-identification; random_state 0."
    )
    if any(not row.pairs for row in found.table):
        about += (
            " Where there are no pairs, no mixture has channels that are selective for each of its "
            "two recordings: pointing is not testable there."
        )
    parts = [f"## {network.name}", about, table(HEAD, list(rows(found.table)))]
    if found.disturbed is not None:
        parts += [
            "In minus out of the mask, as it is and disturbed:",
            table(("layer", *DISTURBANCES), list(disturbed_rows(found.disturbed))),
            "Whether the targets hold, by means; ± is one standard error:",
            table(("layer", "what", "target", "measured", "holds"), list(targets(found))),
        ]
    return "\n\n".join(parts) + "\n"


def disturbed_rows(disturbed: Identities) -> Iterator[list[str]]:
    """In minus out of each layer under each disturbance."""
    found = {(row.layer, row.explanation): row.in_minus_out for row in disturbed.table}
    for layer in disturbed.scores:
        yield [layer, *(with_error(found[layer, name]) for name in DISTURBANCES)]


def targets(found: Measured) -> Iterator[list[str]]:
    """The lines that say which targets hold."""
    for layer in found.network.layers:
        for what, bar, shown, holds in _targets(found, layer):
            yield [layer, what, bar, shown, "yes" if holds else "no"]


def _targets(found: Measured, layer: str) -> Iterator[tuple[str, str, str, bool]]:
    mask, oracle = found.row(layer, "mask"), found.row(layer, ORACLE)
    bar = found.network.bars.get(layer)
    if bar is not None:
        shown = with_error(mask.pointing)
        yield "pointing", f"at least {bar}", shown, mask.pointing.value >= bar
    if layer in found.network.leading:
        yield _lead(found, layer)
    share = mask.within_frames.value / oracle.within_frames.value
    yield "within frames, share of the oracle's", "at least 0.7", f"{share:.2f}", share >= 0.7
    told = identity_of(mask.identified)
    yield "identified", "at least 0.65", with_error(told), told.value >= 0.65
    control = max(identity_of(found.row(layer, c).identified).value for c in CONTROLS)
    yield "identified, largest control", "at most 0.2", f"{control:.2f}", control <= 0.2
    more = identity_of(mask.in_minus_out)
    yield "in minus out", "at least +1.0", with_error(more), more.value >= 1
    other = identity_of(found.row(layer, RANDOM_CELLS).in_minus_out)
    yield "in minus out, random masks", "at most 0", with_error(other), other.value <= 0
    kept = [
        row.in_minus_out.value
        for row in (found.disturbed.table if found.disturbed else ())
        if row.layer == layer and row.explanation != AS_IT_IS
    ]
    least = min(kept)
    bar_kept = KEPT * more.value
    yield (
        "in minus out, least when disturbed",
        f"at least {bar_kept:.2f}",
        f"{least:.2f}",
        least >= bar_kept,
    )


def _lead(found: Measured, layer: str) -> tuple[str, str, str, bool]:
    """How far the mask is above the largest control, on the same pairs."""
    control = found.largest_control(layer, "pointing")
    name = control.explanation.removeprefix("control: ")
    if control.pointing.value <= HIGH:
        lead = found.trials.apart.advantage(layer, "mask", control.explanation)
        holds = lead.value >= 0.15 and lead.value >= 3 * lead.error
        return f"lead over {name}", "at least 0.15 and 3 errors", with_error(lead), holds
    aligned = found.largest_control(layer, "aligned")
    lead = found.trials.aligned.advantage(layer, "mask", aligned.explanation)
    share = lead.value / (1 - aligned.aligned.value)
    name = aligned.explanation.removeprefix("control: ")
    what = f"aligned lead over {name}, share of what it lacks to 1"
    return what, "at least 0.5", f"{share:.2f}", share >= 0.5


def identity_of(mean: Mean | None) -> Mean:
    """A mean that only the oracle lacks."""
    assert mean is not None
    return mean


def short(network: Network, found: Sequence[Trust]) -> str:
    """A few layers and explanations: pointing, both recordings loud at once, and identified."""
    by_name: dict[str, list[Trust]] = {}
    for row in found:
        if row.layer in SHORT[network.name]:
            by_name.setdefault(row.explanation, []).append(row)
    head = ["aligned / identified", *SHORT[network.name]]
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


def page_with(sections: Mapping[str, str], path: Path = HERE / "POINTING.md") -> None:
    """Writes the page, with new sections of some networks and the old ones of the others."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = ["# Pointing: whose sound is it?", ABOUT.rstrip()]
    for name in NETWORKS:
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        kept = old.partition(begin)[2].partition(end)[0].strip()
        if text := sections.get(name, kept).strip():
            parts.append(f"{begin}\n{text}\n{end}")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    """Writes POINTING.md, anew after each network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all if none is named")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=24, metavar="N", help="pairs in each layer")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.networks or NETWORKS:
        command = f'python -m benchmarks.pointing --data DIR --count {given.count} "{name}"'
        found = measured(NETWORKS[name], given.data, given.count)
        page_with({name: (text := section(found, command))})
        print(text, flush=True)
        if name in SHORT:
            put_between(TRUST, name, short(found.network, found.table))


if __name__ == "__main__":
    main()
