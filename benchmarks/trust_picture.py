"""The picture in docs/trust.md: a mixture, what drives a channel, and where its sounds lie.

python -m benchmarks.trust_picture
"""

from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.evaluation.hearing import hear
from deconv1d.evaluation.pointing import Pair, draw_pairs, oracle, pointed, selective, window_of
from deconv1d.evaluation.trust import GATE, standard_explanations
from deconv1d.render import plot_spectrograms, save_figure
from reference_models.clips import spoken_words
from reference_models.cnn12 import demo

RATE, LAYER = 8000, "conv5"
SHOWN = {
    "deconvnet": "deconvnet",
    "integrated gradients minus rivals, in cells": "integrated gradients in cells",
    GATE: "control: a gate in time",
}
PICTURE = Path(__file__).parents[1] / "docs" / "trust.png"


def driven(sonifier: Sonifier, pair: Pair) -> int | None:
    """The channel that the first stem drives most, if any."""
    sounds = torch.cat([pair.stems, pair.mixture[None]])
    [(one, two, both)] = hear(sonifier, sounds, [LAYER])
    active = torch.where(selective(one, two, both), one, 0)
    return int(active.argmax()) if active.any() else None


def first_pair(sonifier: Sonifier) -> tuple[Pair, int]:
    """The first pair of words, both loud at once, with a channel that the first word drives."""
    words = {w.word: [torch.from_numpy(read_audio(w.path, RATE)[0])] for w in spoken_words()}
    pairs = draw_pairs(words, seconds=1.0, sample_rate=RATE, aligned=True)
    for _ in count():
        pair = next(pairs)
        if (channel := driven(sonifier, pair)) is not None:
            return pair, channel
    raise AssertionError


def main() -> None:
    """Draws the picture."""
    sonifier = Sonifier(demo(), sample_rate=RATE)
    pair, channel = first_pair(sonifier)
    x, window = pair.mixture, window_of(RATE)

    def titled(name: str, sound: Tensor) -> tuple[str, Tensor]:
        score = float(pointed(sound, *pair.stems, window=window)[0])
        return f"{name}: {score:.2f}", sound * (x.abs().max() / sound.abs().max())

    one, two = pair.names
    tracks = {
        f"mixture of “{one}” and “{two}”": x,
        f"“{one}” alone, which drives channel {channel}": pair.stems[0],
    }
    explanations = standard_explanations(sonifier)
    for name, title in SHOWN.items():
        sound = explanations[name](sonifier, x, LAYER, [channel])[0]
        tracks.update([titled(f"{LAYER}, channel {channel}, {title}", sound)])
    tracks.update([titled(f"the bins that are “{one}”", oracle(pair, window)[0])])
    save_figure(plot_spectrograms(tracks, RATE, columns=2), PICTURE)


if __name__ == "__main__":
    main()
