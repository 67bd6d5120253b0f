"""Rendered events: multi-label clips played on the sampled instruments and effects of a soundfont.

Preset group A stands in for AudioSet, group B for FSD50K; they share no preset. This is rendered
audio: it shows that training and transfer work, not how well a model knows the world's sounds.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import soxr

from reference_models.data.cache import build_cache
from reference_models.data.clips import ClipSet
from reference_models.data.index import SAMPLE_RATE, Clip, ClipIndex

Presets = tuple[tuple[int, int], ...]
DRUMS = 128  # the soundfont's bank of drum kits; everything else is in bank 0


def _presets(*numbers: int, bank: int = 0) -> Presets:
    return tuple((bank, number) for number in numbers)


# Classes of each group, with the presets (bank, number) that play them.
GROUPS = {
    "A": {
        "Piano": _presets(*range(8)),
        "Organ": _presets(*range(16, 24)),
        "Guitar": _presets(*range(24, 32)),
        "Bowed strings": _presets(*range(40, 45)),
        "Brass": _presets(*range(56, 64)),
        "Reed": _presets(64, *range(66, 72)),  # 65 lacks a note
        "Synth lead": _presets(*range(80, 88)),
        "Percussion": _presets(*range(112, 119)),
        "Drum kit": _presets(0, 8, 16, 24, 25, 32, 40, 48, bank=DRUMS),
        "Seashore": _presets(122),
        "Telephone": _presets(124),
        "Helicopter": _presets(125),
    },
    "B": {
        "Mallets": _presets(*range(8, 16)),
        "Bass": _presets(*range(32, 40)),
        "Plucked strings": _presets(45, 46, *range(104, 108)),
        "String ensemble": _presets(*range(48, 52)),
        "Voices": _presets(*range(52, 55)),
        "Pipe": _presets(*range(72, 80)),
        "Synth pad": _presets(*range(88, 96)),
        "Breath": _presets(121),
        "Bird": _presets(123),
        "Applause": _presets(126),
        "Gunshot": _presets(127),
    },
}
KEYS = range(45, 79)  # MIDI keys at which every preset sounds
SPLITS = ("test", "val", *["train"] * 8)  # of clips 0..9, and so on
RENDER_RATE = 32_000  # hertz; the synthesizer has no filter against aliasing
TAIL = 2.0  # seconds a last note may ring

_playing = Lock()  # the synthesizer is one for all threads


class Event(NamedTuple):
    """One sound of a clip: a preset that plays a few notes.

    Attributes:
        label: Class number.
        preset: Bank and number.
        keys: MIDI keys of the notes, one after the other.
        velocity: 1..127, of every note.
        step: Seconds from note to note.
        onset: Seconds from the start of the clip.
        gain: Peak of the event in the mixture.
    """

    label: int
    preset: tuple[int, int]
    keys: tuple[int, ...]
    velocity: int
    step: float
    onset: float
    gain: float


class Score(NamedTuple):
    """All that is drawn for a clip.

    Attributes:
        seconds: Length of the clip.
        split: "train", "val" or "test".
        events: One to three, of different classes.
        noise_level: RMS of the noise bed.
        noise_slope: The power of the noise falls as frequency ** -noise_slope.
        noise_seed: Of its samples.
    """

    seconds: float
    split: str
    events: tuple[Event, ...]
    noise_level: float
    noise_slope: float
    noise_seed: int


def rendered_events(
    folder: str | Path,
    *,
    group: str,
    clips: int = 2000,
    random_state: int = 0,
    lasting: bool = False,
) -> ClipSet:
    """Clips of one to three events over a bed of noise, labelled with the events' classes.

    Clips last 10 s in group A and 2-8 s in group B; 80 % are train, 10 % val, 10 % test. Val and
    test each have MIDI keys of their own, and of every class with four presets or more a preset
    of their own: neither is heard in train.

    Args:
        folder: Where the cache is, or goes.
        group: "A" (stands in for AudioSet) or "B" (FSD50K).
        clips: Number of clips; more clips contain those of fewer.
        random_state: Of everything that is drawn.
        lasting: Events begin in the first second and go on to the end, over noise 20 dB softer.
            Two crops of a clip then share their events: else they may share their noise alone, and
            contrastive learning takes that for the clip.

    Raises:
        ImportError: If `tinysoundfont` or the soundfont in `pretty_midi` is not installed.
        ValueError: If there is no such group.
    """
    return build_cache(list_events(group, clips, random_state, lasting), folder, read=read_events)


def list_events(group: str, clips: int, random_state: int, lasting: bool = False) -> ClipIndex:
    """The index of `rendered_events`; the path of a clip is what it is rendered from."""
    if group not in GROUPS:
        raise ValueError(f"rendered events: no group {group!r}; expected one of {sorted(GROUPS)}")
    listed = []
    for number in range(clips):
        score = draw_score(group, random_state, number, lasting)
        labels = tuple(sorted(event.label for event in score.events))
        kind = "-lasting" if lasting else ""
        id, path = (
            f"{group}{random_state}{kind}-{number:05d}",
            f"{group}:{random_state}:{number}{kind}",
        )
        listed.append(Clip(id, path, 0, 0, 0, labels, score.split, "unread"))
    name = f"rendered events {group}{', lasting' if lasting else ''}"
    return ClipIndex(name, tuple(GROUPS[group]), True, tuple(listed))


def draw_score(group: str, random_state: int, number: int, lasting: bool = False) -> Score:
    """What clip `number` of a group holds; it depends on the arguments alone."""
    rng = np.random.default_rng([random_state, number, *group.encode()])
    split = SPLITS[number % len(SPLITS)]
    seconds = 10.0 if group == "A" else float(rng.integers(4, 17)) / 2
    classes = list(GROUPS[group].values())
    labels = rng.choice(len(classes), size=rng.integers(1, 4), replace=False)
    events = tuple(_draw_event(rng, int(i), classes[i], split, seconds, lasting) for i in labels)
    decibels, slope = rng.uniform(-50, -20) - 20 * lasting, rng.uniform(0, 2)
    level = 10 ** (decibels / 20)
    return Score(seconds, split, events, level, slope, noise_seed=int(rng.integers(2**32)))


def read_events(clip: Clip) -> np.ndarray:
    """The mixture a clip names: float64, (samples,), 8 kHz."""
    name, _, lasting = clip.path.partition("-")
    group, random_state, number = name.split(":")
    score = draw_score(group, int(random_state), int(number), bool(lasting))
    samples = round(score.seconds * SAMPLE_RATE)
    mixture = score.noise_level * tilted_noise(samples, score.noise_slope, score.noise_seed)
    for event in score.events:
        start = round(event.onset * SAMPLE_RATE)
        sound = play(event)[: samples - start]
        mixture[start : start + len(sound)] += sound * (event.gain / np.abs(sound).max())
    return mixture


def _draw_event(
    rng: np.random.Generator,
    label: int,
    presets: Presets,
    split: str,
    seconds: float,
    lasting: bool,
) -> Event:
    choice = _choose_presets(presets, split)
    preset = choice[rng.integers(len(choice))]
    onset, step = rng.uniform(0, 1 if lasting else seconds / 2), rng.uniform(0.25, 1.5)
    notes = 1 + int((seconds - onset if lasting else rng.uniform(0, seconds - onset)) / step)
    keys = tuple(rng.choice(_choose_keys(split), size=notes).tolist())
    velocity, gain = int(rng.integers(50, 128)), 10 ** (rng.uniform(-12, 0) / 20)
    return Event(label, preset, keys, velocity, step, onset, gain)


def _choose_presets(presets: Presets, split: str) -> Presets:
    """One preset each for val and test, out of the middle of the family; the rest for train."""
    if len(presets) < 4:
        return presets
    middle = len(presets) // 2
    val, test = presets[middle - 1 : middle], presets[middle : middle + 1]
    return {"train": presets[: middle - 1] + presets[middle + 1 :], "val": val, "test": test}[split]


def _choose_keys(split: str) -> list[int]:
    """Of every five keys one for val, one for test and three for train."""
    fifths = {"train": (0, 1, 2), "val": (3,), "test": (4,)}[split]
    return [key for key in KEYS if key % 5 in fifths]


def tilted_noise(samples: int, slope: float, random_state: int) -> np.ndarray:
    """Noise of RMS 1 whose power falls as frequency ** -slope."""
    spectrum = np.fft.rfft(np.random.default_rng(random_state).standard_normal(samples))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))


def play(event: Event) -> np.ndarray:
    """The event alone: float32, (samples,), 8 kHz."""
    with _playing:
        synthesizer, soundfont = load_soundfont()
        synthesizer.sounds_off()
        synthesizer.generate(RENDER_RATE // 10)  # lets what rang before fade: then it is silent
        synthesizer.program_select(0, soundfont, *event.preset, event.preset[0] == DRUMS)
        parts = []
        for key in event.keys:
            synthesizer.noteon(0, key, event.velocity)
            parts.append(synthesizer.generate(round(event.step * RENDER_RATE)))
            synthesizer.noteoff(0, key)
        parts.append(synthesizer.generate(round(TAIL * RENDER_RATE)))
    stereo = np.frombuffer(b"".join(parts), dtype=np.float32).reshape(-1, 2)
    return soxr.resample(stereo.mean(axis=1), RENDER_RATE, SAMPLE_RATE)


@lru_cache(maxsize=1)
def load_soundfont() -> tuple[Any, int]:
    """A synthesizer and the number of the soundfont in it."""
    home = find_spec("pretty_midi")  # the soundfont lies in it; it need not be imported
    if home is None or find_spec("tinysoundfont") is None:
        raise ImportError(
            "rendered events need a synthesizer and the soundfont that comes with pretty_midi; "
            "pip install --no-deps tinysoundfont pretty_midi"
        )
    import tinysoundfont

    synthesizer = tinysoundfont.Synth(samplerate=RENDER_RATE)
    return synthesizer, synthesizer.sfload(str(Path(home.origin).with_name("TimGM6mb.sf2")))
