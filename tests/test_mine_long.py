"""Long clips are mined in tiles: the same winners as of the whole clips, from flat memory."""

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from deconv1d import Sonifier
from deconv1d.mining import long
from deconv1d.mining.findings import read_errors, read_winners
from deconv1d.mining.run import mine_into
from deconv1d.prepared.stream import Tiling

pytest.importorskip("pyarrow")
pytest.importorskip("filelock")

RATE = 1000
LENGTHS = (5003, 4217, 700, 9001)  # all but the third are long


class Strided(nn.Module):
    """Strides, padding, pooling, and a layer that goes back to a finer hop; a head of all time."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 4, 7, stride=3, padding=3)
        self.pool = nn.MaxPool1d(3, 2, padding=1)
        self.conv2 = nn.Conv1d(4, 5, 5, dilation=2, padding=4)
        self.up = nn.ConvTranspose1d(5, 3, 4, stride=2)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = torch.relu(self.conv2(self.pool(torch.relu(self.conv1(x)))))
        return self.head(torch.relu(self.up(x)).mean(-1))


LAYERS = ["conv1", "conv2", "up"]


def network():
    torch.manual_seed(0)
    return Sonifier(Strided().double(), sample_rate=RATE)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for number, length in enumerate(LENGTHS):
        noise = np.random.default_rng(number).uniform(-0.9, 0.9, length)
        # One is of another rate: it is resampled in blocks.
        rate = 2 * RATE if number == 1 else RATE
        soundfile.write(root / f"{number}.wav", noise, rate, subtype="FLOAT")
    return root


@pytest.fixture
def short(monkeypatch):
    """Clips of two seconds are long, and tiles short."""
    for name, value in {
        "LONG_SECONDS": 2.0, "WHOLE_SECONDS": 6.0, "TILE_SECONDS": 0.5, "STRETCH_SECONDS": 0.4,
        "SMALL": 0,
    }.items():  # fmt: skip
        monkeypatch.setattr(long, name, value)


def mined(out, clips, layers=LAYERS, **options):
    mine_into(out, [str(clips)], network, layers=layers, top=2, batch=1, **options)
    return read_winners(out).to_pylist()


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    return {
        score: mined(tmp_path_factory.mktemp("out") / score, clips, score=score)
        for score in ("peak", "mean")
    }


PLACE = ("clip", "layer", "channel", "rank", "position", "first_sample", "last_sample")


def differences(found, expected):
    same = [{name: row[name] for name in PLACE} for row in found]
    values = [abs(a["value"] - b["value"]) for a, b in zip(found, expected, strict=True)]
    return same != [{name: row[name] for name in PLACE} for row in expected], max(values)


@pytest.mark.parametrize("score", ["peak", "mean"])
def test_tiles_give_the_winners_of_the_whole(clips, whole, short, tmp_path, score):
    found = mined(tmp_path / "out", clips, score=score)
    other, value = differences(found, whole[score])
    assert not other
    assert value < 1e-6  # blocks are resampled in float32
    assert any(row["sounds_from"] > 0 for row in found)
    assert read_errors(tmp_path / "out").num_rows == 0


def test_a_halo_that_is_too_short_is_noticed(clips, whole, short, tmp_path, monkeypatch):
    """The planted fault: tiles that read no more than they keep have other values at seams."""
    right = long._tiling_of

    def planted(*arguments):
        tiling = right(*arguments)
        return Tiling(tiling.stride, tiling.stride, tiling.inner)

    monkeypatch.setattr(long, "_tiling_of", planted)
    other, value = differences(mined(tmp_path / "out", clips, score="mean"), whole["mean"])
    assert other or value > 1e-4


def test_a_moment_s_sonification_is_that_of_the_whole(clips, short, tmp_path):
    rows = mined(tmp_path / "out", clips)
    sonifier, checked = network(), 0
    for row in (row for row in rows if row["clip"] != "2.wav"):
        x = long.read_clip(long.Clip("", str(clips / row["clip"])), RATE)
        alone = sonifier.sonify(x, layer=row["layer"], channel=row["channel"])
        written, _ = soundfile.read(tmp_path / "out" / row["path"])
        first, last = (row[name] - row["sounds_from"] for name in ("first_sample", "last_sample"))
        assert 0 <= first <= last < len(written) < 1400
        moment = alone.raw[row["first_sample"] : row["last_sample"] + 1].numpy() * row["gain"]
        np.testing.assert_allclose(written[first : last + 1], moment, atol=2e-4)
        given, _ = soundfile.read(tmp_path / "out" / row["input_path"])
        here = x[row["sounds_from"] :][: len(given)]
        np.testing.assert_allclose(given, here, atol=2e-4)
        checked += 1
    assert checked > 5


def test_layers_that_read_all_of_time(clips, short, tmp_path):
    """Up to a length clips are run as a whole for them; longer ones are said to be left out."""
    rows = mined(tmp_path / "out", clips, layers=[*LAYERS, "head"])
    heads = {row["clip"] for row in rows if row["layer"] == "head"}
    assert heads == {"0.wav", "1.wav"} or heads <= {"0.wav", "1.wav", "2.wav"}
    assert any(row["clip"] == "3.wav" for row in rows if row["layer"] == "conv2")
    (error,) = read_errors(tmp_path / "out").to_pylist()
    assert error["clip"] == "3.wav"
    assert "Mined but for head: expected layers that read a stretch" in error["reason"]


def test_a_long_clip_that_is_cut_short_is_listed(clips, short, tmp_path):
    content = (clips / "3.wav").read_bytes()
    for name in ("0.wav", "2.wav"):
        (tmp_path / name).write_bytes((clips / name).read_bytes())
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    mined(tmp_path / "out", tmp_path)
    (error,) = read_errors(tmp_path / "out").to_pylist()
    assert error["clip"] == "cut.wav"
    assert "cut short" in error["reason"]
