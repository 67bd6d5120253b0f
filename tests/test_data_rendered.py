"""Rendered words and events: the same every time, apart by split, and heard where labelled."""

import re

import numpy as np
import pytest

from reference_models.data import WORDS, cache, events, rendered_events, rendered_words, words

pytest.importorskip("pyarrow")


@pytest.fixture
def espeak():
    return pytest.importorskip("espeakng_loader")


def audio(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("shards/*.int16")))


def test_words_are_35_by_every_voice_in_one_second(espeak, tmp_path):
    clips = rendered_words(tmp_path, voices=4)
    assert len(clips) == 4 * 35
    assert clips.classes == WORDS
    assert set(clips.frames.tolist()) == {8000}
    assert clips.labels().bincount().tolist() == [4] * 35
    for i in range(len(clips)):
        waveform = clips.waveform(i).numpy()
        heard = np.flatnonzero(np.abs(waveform) > 0.01)
        assert 800 < heard[-1] - heard[0] < 7000  # a word, and not cut off
        assert heard[0] > 300
        assert heard[-1] < 7700


def test_words_are_the_same_whatever_was_said_before(espeak, tmp_path, monkeypatch):
    rendered_words(tmp_path / "once", voices=3)
    words.speak.cache_clear()
    monkeypatch.setattr(cache, "SHARD_CLIPS", 7)
    clips = words.list_words(3).clips[::-1]
    backwards = [cache.read_clip(clip, words.read_word)[1] for clip in clips]
    assert b"".join(waveform.tobytes() for waveform in backwards[::-1]) == audio(tmp_path / "once")


def test_breathy_voices_draw_the_same_noise(espeak):
    first = words.speak("en-us+whisper")
    words.speak.cache_clear()
    assert all(map(np.array_equal, first, words.speak("en-us+whisper")))


def test_words_differ_between_voices_and_from_each_other(espeak):
    voices = {clip.path for clip in words.list_words(12).clips}
    spoken = {word.tobytes() for voice in voices for word in words.speak(voice)}
    assert len(spoken) == 12 * 35


def test_voices_of_val_and_test_are_heard_in_no_accent_before(espeak):
    index = words.list_words(832)
    families = {
        split: {re.search(r"\+(.*?)\d*$", clip.path)[1] for clip in index.select(split).clips}
        for split in ("train", "val", "test")
    }
    assert not families["train"] & families["val"]
    assert not families["train"] & families["test"]
    assert not families["val"] & families["test"]


def test_120_voices_are_split_into_all_three(espeak):
    index = words.list_words(120)
    assert len(index.clips) == 120 * 35
    counts = {split: len(index.select(split).clips) / 35 for split in ("train", "val", "test")}
    assert counts["val"] >= 10
    assert counts["test"] >= 10
    assert words.list_words(40).clips == index.clips[: 40 * 35]
    with pytest.raises(ValueError, match="voices=0, expected 1 to"):
        words.list_words(0)


def test_an_unknown_voice_is_named(espeak):
    with pytest.raises(RuntimeError, match="no voice 'en-gb'"):
        words.speak("en-gb")


@pytest.mark.parametrize("group", ["A", "B"])
def test_events_are_the_same_in_any_order(group, soundfont, tmp_path):
    rendered_events(tmp_path, group=group, clips=12)
    events.load_soundfont.cache_clear()
    listed = events.list_events(group, 12, random_state=0).clips[::-1]
    backwards = [cache.read_clip(clip, events.read_events)[1] for clip in listed]
    assert b"".join(waveform.tobytes() for waveform in backwards[::-1]) == audio(tmp_path)
    other = events.list_events(group, 12, random_state=1).clips
    assert [clip.labels for clip in other] != [clip.labels for clip in listed[::-1]]


def test_events_are_labelled_and_as_long_as_their_group(soundfont, tmp_path):
    a = rendered_events(tmp_path / "a", group="A", clips=10)
    b = rendered_events(tmp_path / "b", group="B", clips=30)
    assert set(a.frames.tolist()) == {80_000}
    assert 16_000 <= b.frames.min() < b.frames.max() <= 64_000
    assert a.multilabel
    assert set(b.labels().sum(dim=1).tolist()) == {1, 2, 3}
    assert b.index.summary()["splits"] == {"test": {"ok": 3}, "train": {"ok": 24}, "val": {"ok": 3}}


def test_the_groups_share_no_preset():
    a, b = (
        {preset for presets in events.GROUPS[group].values() for preset in presets}
        for group in ("A", "B")
    )
    assert not a & b


def test_val_and_test_have_presets_and_keys_of_their_own():
    for group, classes in events.GROUPS.items():
        heard = {"train": set(), "val": set(), "test": set()}
        keys = {"train": set(), "val": set(), "test": set()}
        large = {i for i, presets in enumerate(classes.values()) if len(presets) >= 4}
        for number in range(1000):
            score = events.draw_score(group, 0, number)
            for event in score.events:
                keys[score.split] |= set(event.keys)
                if event.label in large:
                    heard[score.split].add(event.preset)
                assert event.preset in list(classes.values())[event.label]
        for held in (heard, keys):
            assert not held["train"] & held["val"]
            assert not held["train"] & held["test"]
            assert not held["val"] & held["test"]
        assert len(heard["val"]) == len(heard["test"]) == len(large)


def test_every_preset_sounds_at_every_key(soundfont, monkeypatch):
    monkeypatch.setattr(events, "TAIL", 0.05)
    for presets in (p for classes in events.GROUPS.values() for p in classes.values()):
        for preset in presets:
            for key in events.KEYS:
                sound = events.play(events.Event(0, preset, (key,), 50, 0.25, 0.0, 1.0))
                assert np.abs(sound).max() > 5e-4, (preset, key)


def test_an_event_peaks_at_its_gain_over_the_noise(soundfont):
    clip = events.list_events("B", 1, random_state=0).clips[0]
    score = events.draw_score("B", 0, 0)
    mixture = events.read_events(clip)
    bed = score.noise_level * events.tilted_noise(len(mixture), score.noise_slope, score.noise_seed)
    loudest = max(event.gain for event in score.events)
    assert 0.9 * loudest < np.abs(mixture - bed).max() <= sum(e.gain for e in score.events) + 1e-6
    before = round(min(event.onset for event in score.events) * 8000)
    np.testing.assert_allclose(mixture[:before], bed[:before], atol=1e-6)


def test_an_unknown_group_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no group 'C'; expected one of \['A', 'B'\]"):
        rendered_events(tmp_path, group="C")
