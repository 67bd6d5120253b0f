"""Recordings as training data: one index, one cache, one class to draw batches from.

A data set becomes a `ClipIndex` (every clip it names, with a status), the index becomes a cache
(8 kHz mono int16, decoded once), and the cache becomes a `ClipSet` (waveforms and labels):

    from reference_models.data import build_cache, open_cache, speech_commands

    clips = build_cache(speech_commands("speech_commands_v0.02"), "cache/speech_commands")
    clips = open_cache("cache/speech_commands")  # later on: no decoding
    print(clips.index.summary())
    train = clips.subset("train")
    batch = train.crops(indices, 8000, generator=generator)  # (batch, 1, 8000)

Rendered data sets need nothing but pip and come out as the same thing:

    words = rendered_words("cache/words")  # plays Speech Commands
    events = rendered_events("cache/events-a", group="A")  # plays AudioSet; "B" plays FSD50K
"""

from reference_models.data.cache import build_cache, open_cache
from reference_models.data.clips import ClipSet
from reference_models.data.events import rendered_events
from reference_models.data.index import SAMPLE_RATE, Clip, ClipIndex
from reference_models.data.layouts import (
    WORDS,
    arabic_commands,
    audioset,
    fsd50k,
    speech_commands,
)
from reference_models.data.words import rendered_words

__all__ = [
    "SAMPLE_RATE",
    "WORDS",
    "Clip",
    "ClipIndex",
    "ClipSet",
    "arabic_commands",
    "audioset",
    "build_cache",
    "fsd50k",
    "open_cache",
    "rendered_events",
    "rendered_words",
    "speech_commands",
]
