"""The picture in the README: one word, and what maps of three layers respond to in it.

python benchmarks/readme_picture.py
"""

from pathlib import Path

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.render import plot_spectrograms, save_figure
from reference_models.clips import spoken_words
from reference_models.cnn12 import demo

LAYERS = ("conv2", "conv5", "conv8")
PICTURE = Path(__file__).parents[1] / "docs" / "sonification.png"


def main() -> None:
    """Draws the picture."""
    word = spoken_words()[0]
    waveform, rate = read_audio(word.path, 8000)
    sonifier = Sonifier(demo(), sample_rate=rate)
    tracks = {f"input: “{word.word}”": waveform}
    for layer in LAYERS:
        found = sonifier.sonify(waveform, layer=layer, channel="most_active")
        tracks[f"{layer}, channel {int(found.channel)}"] = found.waveform
    save_figure(plot_spectrograms(tracks, rate), PICTURE)


if __name__ == "__main__":
    main()
