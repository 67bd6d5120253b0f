"""Switches, or something that knows less of the input? The ways to undo max-pooling, compared.

python -m benchmarks.unpooling [--data DIR]

One minute; writes UNPOOLING.md beside this file. `--data` holds `esc10/`, for SoundNet-8 (see
reference_models/soundnet.py).
"""

import argparse
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.controls import networks
from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier, measure
from deconv1d.channels import ranked
from deconv1d.evaluation.faithfulness import faithfulness
from deconv1d.rules.unpooling import UNPOOL

MAPS, SEEDS = 8, 3
HEAD = (
    "network",
    "layer",
    "unpool",
    "coherence",
    "random seed's",
    "minus control",
    "mask-in",
    "rank",
    "AD",
    "spectral flatness",
)


def scores(sonifier: Sonifier, clip: Tensor, layer: str, unpool: str) -> list[float]:
    """The numbers of one clip: means over its most active maps."""
    channels = ranked(sonifier.maps(clip, layer=layer), MAPS)[:, 0].tolist()
    draws = torch.Generator().manual_seed(0)

    def noise(maps: Tensor) -> Tensor:
        """Positive, random, where a map is not zero."""
        return torch.rand(maps.shape, generator=draws) * (maps != 0)

    def coherence(seed: object) -> float:
        options = {"layer": layer, "channel": channels, "unpool": unpool, "seed": seed}
        return float(sonifier.sonify(clip, **options).coherence().mean())

    found = sonifier.sonify(clip, layer=layer, channel=channels, unpool=unpool)
    own = float(found.coherence().mean())
    control = fmean(coherence(noise) for _ in range(SEEDS))
    answers = faithfulness(sonifier, found)
    return [
        own,
        control,
        own - control,
        float((answers.mask_in / answers.activation).mean()),
        float(answers.rank_in.double().median()),
        float(answers.drop.mean()),
        float(measure.spectral_flatness(found.waveform).mean()),
    ]


def row(name: str, sonifier: Sonifier, layer: str, clips: list[Tensor], unpool: str) -> list[str]:
    """One line: means over the clips."""
    each = zip(*(scores(sonifier, clip, layer, unpool) for clip in clips), strict=True)
    own, control, minus, mask, rank, drop, flatness = map(fmean, each)
    numbers = f"{own:.2f}", f"{control:.2f}", f"{minus:+.2f}", f"{mask:.2f}", f"{rank:.0f}"
    line = [name, layer, unpool, *numbers, f"{drop:.2f}", f"{flatness:.3f}"]
    print(*line, sep=", ", flush=True)
    return line


def main() -> None:
    """Writes UNPOOLING.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds 'esc10'")
    given = parser.parse_args()
    lines = [
        row(name, sonifier, layer, clips, unpool)
        for name, sonifier, layers, clips in networks(given.data)
        for layer in layers
        for unpool in UNPOOL
    ]
    body = (
        f"The {MAPS} most active maps of each of three clips (spoken words; for SoundNet-8 a dog, "
        "a helicopter and a rooster); means over maps and clips (of ranks over the clips' "
        "medians).\n\n"
        "- *Coherence* of the sonification with the input, that of a random positive seed on the "
        "same map carried back in the same way, and the difference.\n"
        "- *Mask-in*: the map's activation on hearing its sonification, over that on the input; "
        "*rank*: its place among all maps of its layer then; *AD*: how much of its share of the "
        "layer's activation is lost (0 to 1, lower is better).\n"
        "- *Spectral flatness* of the sonification: near 0 for a tone, near 1 for noise.\n\n"
        + table(HEAD, lines)
    )
    write_page(
        HERE / "UNPOOLING.md",
        "Unpooling: switches, spreading or interpolating",
        "python -m benchmarks.unpooling",
        body,
        ("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
