"""Rendered words: the Speech Commands vocabulary, spoken by eSpeak NG in many voices.

This is synthetic speech: it shows that training works, not how well a model hears people.
"""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import ModuleType

import numpy as np
import soxr

from reference_models.data.cache import build_cache
from reference_models.data.clips import ClipSet
from reference_models.data.index import SAMPLE_RATE, Clip, ClipIndex, share
from reference_models.data.layouts import WORDS

ACCENTS = (
    "en",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us",
    "en-us-nyc",
)

_rendering = Lock()  # else two threads would both run the voice that their words share


def rendered_words(folder: str | Path, *, voices: int = 120) -> ClipSet:
    """The 35 words of Speech Commands, each spoken by every voice, in clips of one second.

    A voice is an English accent with a voice variant ("en-us+f2"). They are split by variant
    (a seventh of them for val and for test each), and variants that differ in a number alone
    ("steph", "steph2") go together: a test voice was heard in no accent before.

    Args:
        folder: Where the cache is, or goes.
        voices: Number of voices; more voices contain those of fewer.

    Raises:
        ImportError: If `espeakng-loader` is not installed.
        ValueError: If there are not so many voices.
    """
    return build_cache(list_words(voices), folder, read=read_word)


def list_words(voices: int) -> ClipIndex:
    """The index of `rendered_words`; the path of a clip is its voice."""
    data = Path(_espeak().get_data_path())
    variants = sorted((path.name for path in (data / "voices" / "!v").iterdir()), key=share)
    families = sorted({_family(variant) for variant in variants}, key=share)
    splits = dict.fromkeys(families, "train")
    splits |= dict.fromkeys(families[::7], "test") | dict.fromkeys(families[1::7], "val")
    # all variants in one accent each, then all in another accent, ...
    every = [
        (f"{ACCENTS[(turn + place) % len(ACCENTS)]}+{variant}", splits[_family(variant)])
        for turn in range(len(ACCENTS))
        for place, variant in enumerate(variants)
    ]
    if not 1 <= voices <= len(every):
        raise ValueError(f"rendered words: voices={voices}, expected 1 to {len(every)}")
    clips = tuple(
        Clip(f"{word}/{voice}", voice, 0, 0, 0, (number,), split, "unread")
        for voice, split in every[:voices]
        for number, word in enumerate(WORDS)
    )
    return ClipIndex("rendered words", WORDS, False, clips)


def read_word(clip: Clip) -> np.ndarray:
    """The word a clip names, in the middle of one second: float32, (8000,), 8 kHz."""
    with _rendering:
        word = speak(clip.path)[clip.labels[0]]
    before = max(SAMPLE_RATE - len(word), 0) // 2
    return np.pad(word, (before, SAMPLE_RATE))[:SAMPLE_RATE]


@lru_cache(maxsize=4)
def speak(voice: str) -> list[np.ndarray]:
    """All words by one voice, float32, (samples,) each, 8 kHz."""
    espeak = _espeak()
    program = str(Path(__file__).with_name("espeak.py"))
    where = (espeak.get_library_path(), espeak.get_data_path())
    # -I and -S: the program needs no installed package, and starts three times faster without
    command = [sys.executable, "-I", "-S", program, *where, voice, *WORDS]
    try:
        spoken = subprocess.run(command, check=True, capture_output=True).stdout
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"eSpeak NG failed: {error.stderr.decode().strip()}") from error
    rate = int.from_bytes(spoken[:4], "little")
    words, position = [], 4
    for _ in WORDS:
        count = int.from_bytes(spoken[position : position + 4], "little")
        samples = np.frombuffer(spoken, "<i2", count, position + 4).astype(np.float32)
        words.append(soxr.resample(samples / 2**15, rate, SAMPLE_RATE))
        position += 4 + 2 * count
    return words


def _family(variant: str) -> str:
    """A voice variant without its number: "steph" for "steph2"."""
    return variant.rstrip("0123456789")


def _espeak() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "rendered words need eSpeak NG and its voices; pip install espeakng-loader"
        ) from error
    return espeakng_loader
