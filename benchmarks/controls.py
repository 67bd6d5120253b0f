"""How far to trust sonifications of the networks that ship, and of SoundNet-8: their control cards.

python -m benchmarks.controls [--data DIR]

Ten minutes; writes CONTROLS.md beside this file. `--data` holds `esc10/`, for SoundNet-8 (see
reference_models/soundnet.py).
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.evaluation.card import EVERYTHING, FILTER, OTHER_CHANNELS, RANDOM_SEED
from deconv1d.evaluation.trust import weights_hash
from reference_models.clips import spoken_words
from reference_models.cnn12 import demo

WORDS = ("marvin", "seven", "happy")
KINDS = ("Dog bark", "Helicopter", "Rooster")
SHOWN = (FILTER, EVERYTHING, RANDOM_SEED, OTHER_CHANNELS)
Network = tuple[str, Sonifier, Sequence[str], list[Tensor]]


def networks(data: Path | None, kinds: Sequence[str] = KINDS) -> Iterator[Network]:
    """Name, sonifier, layers and clips of each network; SoundNet-8's clips are of these kinds."""
    clips = [torch.from_numpy(read_audio(w.path)[0]) for w in spoken_words() if w.word in WORDS]
    layers = [f"conv{number}" for number in (1, 2, 3, 5, 7, 9, 11)]
    for regime in ("supervised", "contrastive"):
        yield f"CNN12, {regime}", Sonifier(demo(regime=regime), sample_rate=8000), layers, clips
    if data:
        from reference_models.soundnet import SAMPLE_RATE, load_soundnet, soundnet_input

        sonifier = Sonifier(load_soundnet().features, sample_rate=SAMPLE_RATE)
        paths = [min(data.glob(f"esc10/* - {kind}/*.ogg")) for kind in kinds]
        read = map(read_audio, paths)
        clips = [soundnet_input(waveform, sample_rate=rate) for waveform, rate in read]
        yield "SoundNet-8", sonifier, [f"conv{number}" for number in (1, 3, 5, 7)], clips


def row(name: str, sonifier: Sonifier, layer: str, clips: list[Tensor]) -> list[str]:
    """One layer's line: means over the clips, of the most active map of each."""
    cards = [sonifier.control_card(clip, layer=layer) for clip in clips]
    print(f"{name}, {layer}: {cards[0].verdict}", flush=True)

    def mean(values: Iterable[float | None]) -> str:
        known = [float(value) for value in values if value is not None]
        return f"{fmean(known):.2f}" if known else "-"

    def controls(field: str) -> Iterator[str]:
        for shown in SHOWN:
            found = (c for card in cards for c in card.controls if c.control == shown)
            yield mean(getattr(control, field) for control in found)

    facts = ("response", "place", "told", "input", "convergence", "ablation", "ablation_others")
    return [
        name,
        layer,
        f"{sum(card.specific for card in cards)} of {len(cards)}",
        *(mean(getattr(card, fact) for card in cards) for fact in facts),
        *controls("response"),
        *controls("similarity"),
    ]


def main() -> None:
    """Writes CONTROLS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds 'esc10'")
    given = parser.parse_args()
    rows = [
        row(name, sonifier, layer, clips)
        for name, sonifier, layers, clips in networks(given.data)
        for layer in layers
    ]
    head = (
        "network",
        "layer",
        "specific",
        "response",
        "place",
        "told from rivals",
        "coherence with input",
        "convergence",
        "output lost",
        "other channels'",
        *(f"response: {name}" for name in SHOWN),
        *(f"similarity: {name}" for name in SHOWN),
    )
    weights = "; ".join(
        f"{name} {weights_hash(sonifier.model)}" for name, sonifier, *_ in networks(given.data)
    )
    body = (
        "Quick cards of the most active map of each of three clips (spoken words; for SoundNet-8 "
        "a dog, a helicopter and a rooster); means over the clips. *Specific*: how many verdicts. "
        "*Response*: the channel's activation on hearing a sound, over that on the input, both at "
        "one RMS; *place*: among all channels of the layer; *told from rivals*: strict "
        "self-identification of this channel. *Coherence* is above that of unrelated noise. "
        "*Convergence*: cosine similarity convergence, 1 where one sound comes out whatever is "
        "carried back. *Output lost*: without the channel, and without random others.\n\n"
        f"Weights: {weights}.\n\n" + table(head, rows)
    )
    write_page(
        HERE / "CONTROLS.md",
        "Controls: how far to trust what is heard",
        "python -m benchmarks.controls",
        body,
        ("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
