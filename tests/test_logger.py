"""Sonifications logged during training: what arrives, and that the training does not notice."""

import io

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from untouched import untouched

from deconv1d import InputError, Sonifier, logger
from deconv1d.logger import SonificationLogger

RATE = 8000


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = nn.Conv1d(1, 3, 9), nn.ReLU(), nn.Conv1d(3, 4, 5), nn.ReLU(), nn.Dropout(0.5)
    return nn.Sequential(*convolutions)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.sin(0.3 * torch.arange(2000.0))


def test_tensorboard_gets_the_sound_and_its_picture(clip, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = small_model()
    sonifier = Sonifier(model, sample_rate=RATE)
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        maps = {"0": 1, "2": "most_active"}
        logger = SonificationLogger(sonifier, clip, maps=maps, writer=writer)
        logger.log(3)
        expected = sonifier.sonify(clip, layer="0", channel=1).waveform.numpy()
        with torch.no_grad():
            model[0].weight.mul_(-1)
        logger.log(4)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = ["sonification/0", "sonification/2"]
    assert sorted(events.Tags()["audio"]) == sorted(events.Tags()["images"]) == tags
    first, second = events.Audio(tags[0])
    assert (first.step, second.step) == (3, 4)
    sound, rate = soundfile.read(io.BytesIO(first.encoded_audio_string))
    assert rate == RATE
    np.testing.assert_allclose(sound, expected, atol=2 / 2**15)
    assert first.encoded_audio_string != second.encoded_audio_string


def test_weights_and_biases_gets_them_too(clip, tmp_path):
    wandb = pytest.importorskip("wandb")
    with wandb.init(mode="offline", dir=tmp_path, project="deconv1d") as run:
        logged = {}
        keep = run.log
        run.log = lambda values, step: (logged.update(values), keep(values, step=step))
        sonifier = Sonifier(small_model(), sample_rate=RATE)
        SonificationLogger(sonifier, clip[None, None], maps={"2": 0}, writer=run).log(1)
    assert logged.keys() == {"sonification/2", "spectrogram/2"}
    assert len(list(tmp_path.rglob("*.wav"))) == 1


class Silent:
    """A writer that keeps the names."""

    def __init__(self):
        self.names = []

    def add_audio(self, name, sound, step, sample_rate):
        self.names.append(name)

    def add_image(self, name, picture, step, dataformats):
        self.names.append(name)


def test_a_low_rate_is_logged_as_browsers_play_it_and_the_picture_says_so(clip, monkeypatch):
    drawn, heard = [], []

    class Kept(Silent):
        def add_audio(self, name, sound, step, sample_rate):
            heard.append((len(sound), sample_rate))

    monkeypatch.setattr(
        logger, "plot_spectrograms", lambda sounds, rate: drawn.append((list(sounds), rate))
    )
    monkeypatch.setattr(logger, "figure_png", lambda _: b"")
    monkeypatch.setattr(logger, "_pixels", lambda _: None)
    sonifier = Sonifier(small_model(), sample_rate=500)
    SonificationLogger(sonifier, clip, maps={"2": 0}, writer=Kept()).log(0)
    assert heard == [(len(clip), 8000)]
    assert drawn == [(["input", "2, channel 0, played 16 x faster"], 500)]


def test_a_model_in_training_is_left_as_it_is(clip):
    model = small_model().train()
    model[1].eval()
    writer = Silent()
    sonifier = Sonifier(model, sample_rate=RATE)
    with untouched(model):
        SonificationLogger(sonifier, clip, maps={"2": 0}, writer=writer).log(0)
    assert writer.names == ["sonification/2"] * 2


def test_what_cannot_be_logged_is_said_at_once(clip):
    with pytest.raises(InputError, match="sample rate"):
        SonificationLogger(Sonifier(small_model()), clip, maps={"2": 0}, writer=Silent())
    sonifier = Sonifier(small_model(), sample_rate=RATE)
    with pytest.raises(InputError, match="logged to a list: expected a TensorBoard"):
        SonificationLogger(sonifier, clip, maps={"2": 0}, writer=[])
