"""How far to trust sonifications of the networks that ship, and of SoundNet-8: their control cards.

python -m benchmarks.controls [--data DIR]

Ten minutes; writes CONTROLS.md beside this file. `--data` holds `esc10/`, for SoundNet-8 (see
reference_models/soundnet.py).
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.evaluation.controls import (
    EVERYTHING,
    FILTER,
    OTHER_CHANNELS,
    OTHER_SWITCHES,
    RANDOM_SEED,
)
from reference_models.clips import spoken_words
from reference_models.cnn12 import demo

WORDS = ("marvin", "seven", "happy")
KINDS = ("Dog bark", "Helicopter", "Rooster")
SHOWN = (FILTER, OTHER_CHANNELS, RANDOM_SEED, EVERYTHING, OTHER_SWITCHES, "input", "gradient")
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
    similar = [
        fmean(found)
        if (found := [c.similarity for k in cards for c in k.controls if c.control == control])
        else float("nan")
        for control in SHOWN
    ]
    rank = fmean(card.effective_rank / card.channels for card in cards)
    numbers = fmean(card.specific for card in cards), *similar
    own = fmean(card[RANDOM_SEED].input_coherence_margin for card in cards)
    answer = fmean(card.answer for card in cards)
    return [
        name,
        layer,
        *(f"{n:.2f}" for n in numbers),
        f"{own:+.2f}",
        f"{answer:.2f}",
        f"{rank:.2f}",
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
        *SHOWN,
        "coherence with input minus random seed's",
        "answer",
        "effective rank / channels",
    )
    body = (
        "The most active map of each of three clips (spoken words; for SoundNet-8 a dog, a "
        "helicopter and a rooster); means over the clips. The columns between are similarities of "
        "the sonification to its controls, 0 to 1: the mean of |Spearman|, log-mel correlation and "
        "coherence. *Specific* is one minus the larger of the first two; from 0.4 on a card calls "
        "a sound the channel's own, up to 0.3 mostly the input. *Answer* is the channel's "
        "activation on hearing its sonification over that on the input.\n\n" + table(head, rows)
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
