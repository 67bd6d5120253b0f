"""Spoken words to try a model on: eight files of one second, 8 kHz, peak 1.

eSpeak NG said them, each in a voice of the test split of `rendered_words`, which no network of
this package was trained on. `python -m reference_models.clips` renders them again.
"""

from pathlib import Path
from typing import NamedTuple

VOICES = {
    "marvin": "en-gb-x-gbclan+edward",
    "sheila": "en-gb-scotland+aunty",
    "seven": "en-029+paul",
    "happy": "en-gb-scotland+Jacky",
    "visual": "en-us-nyc+edward2",
    "backward": "en-gb-x-rp+john",
    "yes": "en-gb-x-rp+miguel",
    "zero": "en-us+croak",
}


class SpokenWord(NamedTuple):
    """A word, the eSpeak NG voice that said it, and its sound file."""

    word: str
    voice: str
    path: Path


def spoken_words() -> list[SpokenWord]:
    """The words that ship with the package."""
    folder = Path(__file__).parent
    return [SpokenWord(word, voice, folder / f"{word}.flac") for word, voice in VOICES.items()]
