"""The report that docs/listen.md shows: python -m benchmarks.example_report (a few minutes).

It mines the words network that ships over the 35 words of Speech Commands, said by eSpeak NG in
a voice that the network was not trained on, and writes docs/example/. Run it again when
the network changes. It needs `pip install -e ".[reference]"`.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.reporting import HERE
from deconv1d import Sonifier
from deconv1d.audio import write_audio
from deconv1d.mining.run import mine_into
from deconv1d.report.mined_report import write_report
from reference_models.cnn12 import demo
from reference_models.data.words import list_words, read_word

PAGE = HERE.parent / "docs" / "example"
VOICES, RATE = 24, 8000
LAYERS = ("conv2", "conv4", "conv6", "conv8")
CHANNELS = 4
"""Of each layer: what the repository holds stays small."""


def sonifier() -> Sonifier:
    """The network that tells 35 words apart."""
    return Sonifier(demo(), sample_rate=RATE)


def write_words(folder: Path) -> None:
    """Writes the words of the test voices, in a folder for each word."""
    for clip in (clip for clip in list_words(VOICES).clips if clip.split == "test"):
        word, voice = clip.id.split("/")
        path = folder / word / f"{voice}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        said = read_word(clip)
        write_audio(path, said / max(1, abs(said).max()), RATE)


def main() -> None:
    """Writes docs/example/."""
    with tempfile.TemporaryDirectory() as folder:
        words, out = Path(folder, "words"), Path(folder, "out")
        write_words(words)
        mine = partial(mine_into, out, [str(words)], sonifier, layers=LAYERS, name="cnn12:demo")
        print(mine(top=1, trust=True, mask=True, progress=True))
        network = sonifier()
        tuning = {f"encoder.features.{layer}": network.tuning(layer) for layer in LAYERS}
        print(write_report(out, folder=PAGE, tuning=tuning, most=CHANNELS))
    size = sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file())
    print(f"{size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
