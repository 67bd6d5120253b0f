"""Our methods and Captum's on the networks that ship, and on SoundNet-8, on the same targets.

python -m benchmarks.compare [--data DIR]

Writes COMPARE.md beside this file. `--data` holds `esc10/`, for SoundNet-8 (see
reference_models/soundnet.py).
"""

import argparse
from pathlib import Path
from statistics import fmean, median

from torch import Tensor

from benchmarks.controls import networks
from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.compare import METHODS, compare

LAYERS = {"CNN12, supervised": (2, 5, 9), "CNN12, contrastive": (2, 5, 9), "SoundNet-8": (3, 7)}
CLIPS = {"SoundNet-8": 1}
HEAD = (
    "network",
    "layer",
    "method",
    "answer",
    "selectivity",
    "coherence",
    "minus control",
    "sparsity",
    "time / deconvnet's",
    "note",
)


def rows(name: str, sonifier: Sonifier, layer: str, clips: list[Tensor]) -> list[list[str]]:
    """One layer's lines: means over the clips, of the most active map of each."""
    comparisons = [compare(sonifier, clip, layer) for clip in clips]
    lines = []
    for method in METHODS:
        own = [comparison[method] for comparison in comparisons]
        worked = [one for one in own if one.answer is not None]
        numbers = ["-"] * 6
        if worked:
            seconds = [c[method].seconds / c["deconvnet"].seconds for c in comparisons]
            selectivity = median(one.selectivity for one in worked)
            means = (
                f"{fmean(one.answer for one in worked):.2f}",
                f"{selectivity:.3g}",
                f"{fmean(one.coherence for one in worked):.2f}",
                f"{fmean(one.minus_control for one in worked):+.2f}",
                f"{fmean(one.sparsity for one in worked):.2f}",
                f"{median(seconds):.2g}",
            )
            numbers = list(means)
        notes = "; ".join(dict.fromkeys(one.note for one in own if one.note))
        lines.append([name, layer, method, *numbers, notes])
    print(f"{name}, {layer}", flush=True)
    return lines


def main() -> None:
    """Writes COMPARE.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds 'esc10'")
    given = parser.parse_args()
    lines = [
        line
        for name, sonifier, _, clips in networks(given.data)
        for number in LAYERS[name]
        for line in rows(name, sonifier, f"conv{number}", clips[: CLIPS.get(name)])
    ]
    body = (
        "The most active map of each of three clips (spoken words; for SoundNet-8 of one, a dog); "
        "means over the clips, of selectivity and time the median. All methods have the same "
        "target: the seed is the map. *Answer* is the channel's activation on hearing the sound "
        "over that on the input, *selectivity* that over the other channels' median. *Minus "
        "control* is the coherence with the input less that of the same method with a random seed. "
        "docs/compare.md says what each sound is.\n\n" + table(HEAD, lines)
    )
    write_page(
        HERE / "COMPARE.md",
        "Our methods and Captum's, side by side",
        "python -m benchmarks.compare",
        body,
        ("torch", "captum", "numpy"),
    )


if __name__ == "__main__":
    main()
