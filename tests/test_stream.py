"""Tiles give what the whole recording gives; files are whole or not there."""

import numpy as np
import pytest
import soundfile
import torch
from strided import NETWORKS, RATE, last_layer, padded, sonifier_of
from torch import nn

from deconv1d import FileError, InputError, ModelError, Sonifier
from deconv1d.audio import read_audio, write_audio
from deconv1d.prepared import stream
from deconv1d.prepared.stream import Tiling, raw_stretches, tiles, tiling_of


def in_blocks(x, size):
    return (x[start : start + size] for start in range(0, len(x), size))


def streamed(sonifier, x, *, tile_seconds, block=97, layer=None, **options):
    runs = raw_stretches(
        sonifier,
        sonifier._forward_pass,
        in_blocks(x, block),
        layer or last_layer(sonifier),
        2,
        tile_seconds,
        options,
    )
    recording, raw = zip(*runs, strict=True)
    return np.concatenate(recording), np.concatenate(raw)


@pytest.fixture
def noise():
    generator = torch.Generator().manual_seed(1)
    return lambda samples: torch.randn(samples, generator=generator, dtype=torch.float64).numpy()


# --- tiles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["deconvnet", "gradient"])
@pytest.mark.parametrize("samples", [1499, 1500, 1501, 1512])
def test_tiles_give_what_the_whole_gives(name, method, samples, noise):
    sonifier, x = sonifier_of(name), noise(samples)
    whole = sonifier.sonify(x, layer=last_layer(sonifier), channel=2, method=method)
    recording, raw = streamed(sonifier, x, tile_seconds=0.2, method=method)
    assert np.array_equal(recording, x)
    np.testing.assert_allclose(raw, whole.raw.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tap", ["block", "output"])
def test_a_layer_in_the_middle(tap, noise):
    sonifier, x = sonifier_of("unpadded"), noise(901)
    whole = sonifier.sonify(x, layer="4", channel=2, tap=tap)
    _, raw = streamed(sonifier, x, tile_seconds=0.1, layer="4", tap=tap)
    np.testing.assert_allclose(raw, whole.raw.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 300, 5000])
def test_blocks_of_any_length(block, noise):
    sonifier, x = sonifier_of("padded"), noise(700)
    whole = sonifier.sonify(x, layer="3", channel=2)
    _, raw = streamed(sonifier, x, tile_seconds=0.15, block=block)
    np.testing.assert_allclose(raw, whole.raw.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [40, 200])
def test_a_recording_shorter_than_a_tile(samples, noise):
    sonifier, x = sonifier_of("padded"), noise(samples)
    whole = sonifier.sonify(x, layer="3", channel=2)
    _, raw = streamed(sonifier, x, tile_seconds=10)
    np.testing.assert_allclose(raw, whole.raw.numpy(), rtol=0, atol=1e-12)


def test_a_halo_that_is_too_short_is_noticed(noise, monkeypatch):
    """The seams are where the check of the tiles has its chance to fail."""
    sonifier, x = sonifier_of("unpadded"), noise(1500)
    whole = sonifier.sonify(x, layer="7", channel=2)

    def short(captured, samples):
        right = tiling_of(captured, samples)
        field = captured.receptive_fields[captured.tap]
        halo = (int(field.stop - field.start) // right.stride - 1) * right.stride
        return Tiling(right.stride, halo, right.inner)

    monkeypatch.setattr(stream, "tiling_of", short)
    _, raw = streamed(sonifier, x, tile_seconds=0.1)
    assert np.abs(raw - whole.raw.numpy()).max() > 1e-3


@pytest.mark.parametrize("samples", range(1, 60))
def test_every_sample_is_kept_once_and_all_tiles_but_the_last_are_of_one_length(samples):
    x, tiling = np.arange(samples), Tiling(stride=2, halo=4, inner=6)
    found = list(tiles(in_blocks(x, 5), tiling))
    assert np.array_equal(np.concatenate([tile[kept] for tile, kept in found]), x)
    assert {len(tile) for tile, _ in found[:-1]} <= {tiling.length}
    assert all(tile[0] % tiling.stride == 0 for tile, _ in found)


# --- what cannot be streamed ---------------------------------------------------------------------


class Excited(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv1d(1, 4, 5), nn.Linear(4, 4)
        self.after = nn.Conv1d(4, 4, 3)

    def forward(self, x):
        h = self.conv(x).relu()
        return self.after(h * self.gate(h.mean(-1)).sigmoid()[..., None])


GLOBAL = {
    "instance_norm": (nn.Sequential(nn.Conv1d(1, 4, 5), nn.InstanceNorm1d(4), nn.ReLU()), "0"),
    "mean": (Excited(), "after"),
}


@pytest.mark.parametrize("op", GLOBAL)
def test_an_op_that_reads_all_of_time_is_named(op, noise):
    model, layer = GLOBAL[op]
    sonifier = Sonifier(model.double().eval(), sample_rate=RATE)
    with pytest.raises(ModelError, match=rf"cannot be streamed.*{op}.*reads all of it"):
        streamed(sonifier, noise(500), tile_seconds=0.2, layer=layer)


@pytest.mark.parametrize("channel", ["most_active", "all", [0, 1], None, True, 1.5])
def test_one_channel_is_asked_for_by_its_number(channel, tmp_path, noise):
    sonifier = sonifier_of("padded")
    with pytest.raises(InputError, match="Give a number"):
        sonifier.stream([noise(300)], out=tmp_path / "out.wav", layer="3", channel=channel)


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path, noise):
    x = noise(5000)
    write_audio(tmp_path / "in.wav", 0.5 * x / np.abs(x).max(), RATE, subtype="DOUBLE")
    return tmp_path / "in.wav"


def float32(name):
    sonifier = sonifier_of(name)
    sonifier.model.float()
    return sonifier


def test_a_file_is_what_sonify_gives_of_the_whole(recording, tmp_path):
    sonifier = float32("padded")
    x, _ = read_audio(recording)
    done = sonifier.stream(
        recording, out=tmp_path / "out.wav", layer="3", channel=2, tile_seconds=0.5
    )
    written, rate = read_audio(tmp_path / "out.wav")
    whole = sonifier.sonify(x, layer="3", channel=2)
    assert (rate, done.samples, done.sample_rate) == (RATE, len(x), RATE)
    np.testing.assert_allclose(written, whole.waveform.numpy(), atol=1e-5 * np.abs(x).max())
    assert done.gain == pytest.approx(float(whole.gain), rel=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_a_gain_can_be_given(recording, tmp_path):
    sonifier = float32("padded")
    x, _ = read_audio(recording)
    sonifier.stream(recording, out=tmp_path / "out.wav", layer="3", channel=2, gain=0.25)
    raw = sonifier.sonify(x, layer="3", channel=2).raw.numpy()
    np.testing.assert_allclose(read_audio(tmp_path / "out.wav")[0], raw / 4, atol=1e-6)


def test_a_file_at_another_rate_is_resampled(tmp_path):
    t = np.arange(3 * 44_100) / 44_100
    write_audio(tmp_path / "in.flac", 0.5 * np.sin(2 * np.pi * 50 * t), 44_100)
    done = float32("padded").stream(
        tmp_path / "in.flac", out=tmp_path / "out.flac", layer="3", channel=2, tile_seconds=0.5
    )
    assert abs(done.samples - 3 * RATE) <= 1
    assert soundfile.info(tmp_path / "out.flac").samplerate == RATE


def test_a_silent_recording_is_exact_silence(tmp_path):
    done = float32("padded").stream(
        [np.zeros(700, np.float32)], out=tmp_path / "out.wav", layer="3", channel=2
    )
    written, _ = read_audio(tmp_path / "out.wav")
    assert done.gain >= 0
    assert np.isfinite(written).all()


def truncated(path):
    path.write_bytes(path.read_bytes()[:9000])


def no_sound(path):
    path.write_bytes(b"no sound")


@pytest.mark.parametrize("damage", [truncated, no_sound])
def test_a_damaged_recording_leaves_no_file(recording, tmp_path, damage):
    damage(recording)
    with pytest.raises(FileError, match=r"in\.wav"):
        float32("padded").stream(recording, out=tmp_path / "out.wav", layer="3", channel=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_the_file_that_was_there(
    recording, tmp_path, monkeypatch, error
):
    (tmp_path / "out.wav").write_bytes(b"before")

    def fail(self, samples):
        raise error

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises((FileError, KeyboardInterrupt)):
        float32("padded").stream(recording, out=tmp_path / "out.wav", layer="3", channel=2)
    assert (tmp_path / "out.wav").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_wrong_output_and_missing_rate_are_said_before_any_work(recording, tmp_path):
    with pytest.raises(InputError, match="suffix"):
        float32("padded").stream(recording, out=tmp_path / "out.xyz", layer="3", channel=2)
    before = recording.read_bytes()
    with pytest.raises(InputError, match="is the recording itself"):
        float32("padded").stream(recording, out=recording, layer="3", channel=2)
    assert recording.read_bytes() == before
    unknown = Sonifier(padded().eval())
    with pytest.raises(InputError, match="sample rate"):
        unknown.stream(recording, out=tmp_path / "out.wav", layer="3", channel=2)


# --- layers of a long recording ----------------------------------------------------------------


def lengths_run(model) -> list[int]:
    seen = []
    next(model.children()).register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[-1]))
    return seen


def test_layers_of_a_long_file_come_from_its_first_tile(tmp_path, noise, monkeypatch):
    monkeypatch.setattr(stream, "LONG_SECONDS", 1.0)
    monkeypatch.setattr(stream, "TILE_SECONDS", 0.5)
    sonifier = sonifier_of("padded")
    path = tmp_path / "long.wav"
    write_audio(path, 0.1 * noise(3 * RATE), RATE)
    seen = lengths_run(sonifier.model)
    table = sonifier.layers(path)
    assert max(seen) < RATE
    assert str(table) == str(sonifier.layers(0.1 * noise(3 * RATE)))


class OfOneLength(nn.Module):
    """A network that takes recordings of three seconds and no others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 5, stride=4)
        self.linear = nn.Linear((3 * RATE - 5) // 4 + 1, 3)

    def forward(self, x):
        return self.linear(self.conv(x))


def test_a_network_of_one_length_is_run_on_the_whole_file(tmp_path, noise, monkeypatch):
    monkeypatch.setattr(stream, "LONG_SECONDS", 1.0)
    path = tmp_path / "long.wav"
    write_audio(path, 0.1 * noise(3 * RATE), RATE)
    table = Sonifier(OfOneLength(), sample_rate=RATE).layers(path)
    assert [row.name for row in table] == ["conv", "linear"]
