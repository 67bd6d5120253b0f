"""Renders the words that ship with the package: `python -m reference_models.clips`."""

import numpy as np

from deconv1d.audio import write_audio
from reference_models.clips import spoken_words
from reference_models.data.index import SAMPLE_RATE
from reference_models.data.words import list_words, read_word


def main() -> None:
    """Replaces the sound files of `spoken_words`."""
    clips = {clip.id: clip for clip in list_words(240).clips if clip.split == "test"}
    for word, voice, path in spoken_words():
        waveform = read_word(clips[f"{word}/{voice}"])
        write_audio(path, waveform / np.abs(waveform).max(), SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
