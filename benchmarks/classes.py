"""Why this class? Explanations of the words network's own answer, by L-MAC's measures.

python -m benchmarks.classes --data DIR [--clips N]

A minute or two; writes CLASSES.md beside this file. `--data` holds `speech_commands/`.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.pointing_networks import WORDS_NET, recordings, sonifier_of
from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.compare.captum_methods import GRADIENT, GUIDED, OCCLUSION, PATH
from deconv1d.evaluation.cells import in_cells, random_cells
from deconv1d.evaluation.explanations import captum, sonified
from deconv1d.evaluation.pointing import Explanation
from deconv1d.evaluation.trust import weights_hash
from deconv1d.sounding import to_peak_of

LAYER = "head"
SAMPLES = 8000
NOISY = 0.1
"""Of the clip's RMS: noise that is mixed in, so that there is something to leave out."""
HEAD = ("explanation", "AI, %", "AD, %", "AG, %", "FF", "Fid-In", "energy")
ABOUT = """\
The network hears words in noise at -20 dB, and its own answer is explained: the class that it \
takes the clip for. *AI*: how often the class's probability is higher on the \
explanation than on the clip; *AD*: how much of it is lost on average; *AG*: how much of what it \
lacks to 1 is gained; *FF*: probability on the clip minus that on what the explanation leaves; \
*Fid-In*: how often the answer on the explanation is the same. As in Paissan et al., "Listenable \
maps for audio classifiers" (2024). Captum's attributions are played as they are, at the clip's \
peak, and *in cells*: the clip in the cells of its spectrogram that they prefer, up to a quarter \
of its energy, which is also the mask's budget. *Energy*: what the sound keeps of the clip's.
"""


def explanations() -> dict[str, tuple[Explanation, bool]]:
    """What is compared, by name, and whether its sounds are parts of the clip, at their level."""
    draws = torch.Generator().manual_seed(0)
    found: dict[str, tuple[Explanation, bool]] = {
        "mask": (sonified(method="mask"), True),
        "mask, no rivals": (sonified(method="mask", rivals=None), True),
        "deconvnet": (sonified(), False),
    }
    for method in (GRADIENT, PATH, GUIDED, OCCLUSION):
        found[f"Captum's {method}"] = captum(method), False
        found[f"Captum's {method}, in cells"] = in_cells(captum(method)), True
    return {**found, "control: random cells": (random_cells(draws), True)}


def clips(data: Path, count: int) -> Iterator[Tensor]:
    """Words of one second, in noise, of every class in turn."""
    draws = torch.Generator().manual_seed(0)
    by_word = list(recordings(WORDS_NET, data).values())
    for number in range(count):
        word = by_word[number % len(by_word)][number // len(by_word)]
        clip = torch.zeros(SAMPLES)
        clip[: len(word)] = word[:SAMPLES]
        noise = torch.randn(SAMPLES, generator=draws)
        clip += NOISY * clip.square().mean().sqrt() * noise
        yield clip / clip.abs().max()


def measured(
    sonifier: Sonifier, explain: Explanation, is_part: bool, clip: Tensor
) -> tuple[float, ...]:
    """The measures of one explanation of one clip, as in `HEAD`."""

    def answer(x: Tensor) -> Tensor:
        return sonifier.maps(x, layer=LAYER)[0].softmax(0)

    whole = answer(clip)
    label = int(whole.argmax())
    (sound,) = explain(sonifier, clip, LAYER, [label])
    if not is_part:
        sound = to_peak_of(clip, sound)[0]
    on_sound = answer(sound)
    before, kept, left = (float(p[label]) for p in (whole, on_sound, answer(clip - sound)))
    return (
        100.0 * (kept > before),
        100 * max(0.0, before - kept) / before,
        100 * max(0.0, kept - before) / max(1 - before, 1e-9),
        before - left,
        float(int(on_sound.argmax()) == label),
        float(sound.square().sum() / clip.square().sum()),
    )


def main() -> None:
    """Writes CLASSES.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--clips", type=int, default=40, metavar="N")
    given = parser.parse_args()
    sonifier = sonifier_of(WORDS_NET)
    heard = list(clips(given.data, given.clips))
    rows = []
    for name, (explain, is_part) in tqdm(explanations().items(), unit="explanation"):
        measures = [measured(sonifier, explain, is_part, clip) for clip in heard]
        means = [statistics.fmean(column) for column in zip(*measures, strict=True)]
        rows.append(
            [name, *(f"{mean:.1f}" for mean in means[:3]), *map("{:.2f}".format, means[3:])]
        )
    write_page(
        HERE / "CLASSES.md",
        "Why this class?",
        f"python -m benchmarks.classes --data DIR --clips {given.clips}",
        f"{ABOUT}\nWeights {weights_hash(sonifier.model)}; random_state 0.\n\n{table(HEAD, rows)}",
        ("torch", "captum"),
    )


if __name__ == "__main__":
    main()
