"""From a real recording to a sound file."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from reference_models.cnn12 import CNN12


@pytest.mark.recordings
def test_a_recording_becomes_a_sound_file(recordings: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    waveform, rate = read_audio(recordings / "fsdd" / "recordings" / "7_jackson_32.flac")
    s = Sonifier(CNN12(width=1 / 8), sample_rate=rate).sonify(
        waveform, layer="conv3", channel="most_active"
    )
    s.save(tmp_path / "conv3.wav")
    saved, saved_rate = soundfile.read(tmp_path / "conv3.wav", dtype="float32")
    assert saved_rate == rate == 8000
    np.testing.assert_array_equal(saved, s.waveform.numpy())
    assert abs(saved).max() == abs(waveform).max()


@pytest.mark.recordings
def test_what_is_silent_in_the_recording_stays_silent(recordings: Path) -> None:
    """Without biases nothing answers to silence, so nothing sounds there."""
    torch.manual_seed(0)
    waveform, _ = read_audio(recordings / "fsdd" / "recordings" / "7_jackson_32.flac")
    model = CNN12(width=1 / 8)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    padded = np.concatenate([np.zeros(8000, np.float32), waveform])
    s = Sonifier(model).sonify(padded, layer="conv8", channel=None)
    table = Sonifier(model).layers(padded)
    (reach,) = (row.receptive_field for row in table if row.name == "features.mp8")
    assert s.waveform[: 8000 - reach].abs().max() == 0
    assert s.waveform[8000:].abs().max() > 0
