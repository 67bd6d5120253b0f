"""What a sonification is worth: peaks, silence, files, pictures."""

import warnings

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from deconv1d import FileError, InputError, SilenceWarning, Sonifier

RATE = 8000


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 4, 5, bias=False), nn.ReLU(), nn.Conv1d(4, 3, 3, bias=False), nn.ReLU()
    ).double()


@pytest.fixture
def model():
    return network()


@pytest.fixture
def x():
    return torch.randn(2, 1, 600, dtype=torch.float64, generator=torch.manual_seed(1))


@pytest.fixture
def sonify(model, x):
    """A sonification of the last block, with everything but the channel given."""

    def run(channel=2, x=x, sample_rate=RATE):
        return Sonifier(model, sample_rate=sample_rate).sonify(x, layer="2", channel=channel)

    return run


# --- from raw to waveform ------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-7, 123.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_peak_is_the_inputs_peak_exactly(sonify, x, scale, dtype):
    x = (x * scale).to(dtype)
    found = sonify([0, 2], x)
    assert torch.equal(found.waveform.abs().amax((2, 3)), x.abs().amax((1, 2)).expand(2, 2))
    torch.testing.assert_close(found.waveform, found.raw * found.gain[..., None, None])
    assert torch.equal(found.residual, x - found.waveform)


def test_half_precision_waveforms_do_not_depend_on_the_size_of_raw(model, sonify, x):
    expected = sonify(x=x.half().double()).waveform
    model[2].weight.data *= 1e-6
    torch.testing.assert_close(sonify(x=x.half()).waveform.double(), expected, rtol=2e-3, atol=1e-4)


# --- silence -------------------------------------------------------------------------------------


def silent_cases():
    dead, live = network(), network()
    dead[2].weight.data[2] = -1
    noise, silence = torch.randn(2, 1, 600).double(), torch.zeros(2, 1, 600)
    half = torch.cat([noise[:1], silence[:1]])
    yield pytest.param(live, silence, 2, [0, 1], "the input is silent", id="input")
    yield pytest.param(live, silence[0, 0], None, [...], "the input is silent", id="clip")
    yield pytest.param(dead, noise, 2, [0, 1], "the map is dead", id="map")
    one = r"1 of 2 .*channel 2, example 1: the input is silent"
    yield pytest.param(live, half, 2, [1], one, id="one example")


@pytest.mark.parametrize(("model", "x", "channel", "silent", "why"), list(silent_cases()))
def test_silence_is_exact_and_said_once(model, x, channel, silent, why):
    with pytest.warns(SilenceWarning, match=why) as caught:
        found = Sonifier(model).sonify(x, layer="2", channel=channel)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for example in silent:
        assert not found.waveform[example].any()
        assert not found.gain[example].any()
    heard = [e for e in range(len(x)) if x.dim() > 1 and e not in silent]
    assert all(found.gain[e] > 0 and found.waveform[e].any() for e in heard)
    assert all(torch.isfinite(part).all() for part in (found.waveform, found.raw, found.gain))


def test_many_silent_channels_warn_once(sonify, x):
    with pytest.warns(SilenceWarning) as caught:
        found = sonify("all", 0 * x)
    assert len(caught) == 1
    assert not found.gain.any()


def test_sounds_do_not_warn(sonify):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sonify()


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def quiet(x):
    """Below full scale: louder files warn."""
    return 0.9 * x / x.abs().amax((1, 2), keepdim=True)


@pytest.mark.parametrize(
    ("channel", "examples", "name", "files"),
    [
        (2, 0, "out.wav", {"out.wav": ()}),
        (2, 1, "out.wav", {"out.wav": (0, 0)}),
        (2, 2, "e{example}.wav", {"e0.wav": (0, 0), "e1.wav": (1, 0)}),
        (2, 1, "conv{channel}.wav", {"conv2.wav": (0, 0)}),
        ([0, 2], 0, "c{channel}.wav", {"c0.wav": (0,), "c2.wav": (1,)}),
        ([2], 0, "c.wav", {"c.wav": (0,)}),
        ("most_active", 2, "{example}.wav", {"0.wav": (0, 0), "1.wav": (1, 0)}),
        (
            [2, 0],
            2,
            "{channel:02d}/{example}.wav",
            {
                "02/0.wav": (0, 0, 0),
                "02/1.wav": (0, 1, 0),
                "00/0.wav": (1, 0, 0),
                "00/1.wav": (1, 1, 0),
            },
        ),
    ],
    ids=repr,
)
def test_save_writes_each_sound_to_its_own_file(
    sonify, quiet, tmp_path, channel, examples, name, files
):
    found = sonify(channel, quiet[:examples] if examples else quiet[0, 0])
    for path in files:
        (tmp_path / path).parent.mkdir(exist_ok=True)
    written = found.save(tmp_path / name)
    assert sorted(written) == sorted(tmp_path / path for path in files)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(written)
    for path, place in files.items():
        samples, rate = soundfile.read(tmp_path / path)
        assert rate == RATE
        np.testing.assert_array_equal(samples, found.waveform[place].float().numpy())


def test_save_keeps_stereo_together(tmp_path):
    model = nn.Sequential(nn.Conv1d(2, 3, 5)).double()
    x = torch.rand(1, 2, 600).double()
    found = Sonifier(model, sample_rate=RATE).sonify(x, layer="0", channel=1)
    found.save(tmp_path / "stereo.wav", subtype="DOUBLE")
    samples, _ = soundfile.read(tmp_path / "stereo.wav")
    np.testing.assert_array_equal(samples.T, found.waveform[0].numpy())


@pytest.mark.parametrize(
    ("channel", "examples", "name", "sounds", "places"),
    [(2, 2, "a.wav", 2, 1), ([0, 2], 2, "{channel}.wav", 4, 2), ("all", 1, "a.wav", 3, 1)],
)
def test_save_of_several_sounds_needs_a_name_for_each(
    sonify, quiet, tmp_path, channel, examples, name, sounds, places
):
    message = rf"{sounds} sounds cannot go into {places} file.* name for each\. Put {{channel}} or"
    with pytest.raises(InputError, match=message):
        sonify(channel, quiet[:examples]).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["{chanel}.wav", "{}.wav", "{0}.wav", "{.wav"])
def test_save_explains_a_path_that_it_cannot_fill_in(sonify, quiet, tmp_path, name):
    with pytest.raises(InputError, match=r"\{channel\}.*\{example\}"):
        sonify([0, 2], quiet[0, 0]).save(tmp_path / name)


def test_save_into_a_missing_folder_leaves_nothing(sonify, quiet, tmp_path):
    with pytest.raises(FileError, match=r"cannot be written: .* folder that exists"):
        sonify(2, quiet[0, 0]).save(tmp_path / "missing" / "out.wav")
    assert not list(tmp_path.iterdir())


# --- pictures ------------------------------------------------------------------------------------


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        ([2, 0], ["input", "2, channel 2", "2, channel 0"]),
        (None, ["input", "2"]),
    ],
)
def test_plot_shows_the_input_and_the_first_examples_sounds(sonify, channel, expected):
    assert titles(sonify(channel).plot()) == expected


@pytest.mark.parametrize(("channel", "players"), [(2, 2), ([0, 2], 3), ("most_active", 2)])
def test_notebooks_show_players_and_spectrograms(sonify, x, channel, players):
    page = sonify(channel)._repr_html_()
    assert page.count("<audio") == players
    assert page.count("<img") == players
    for fact in ("8000 Hz", "Sonification of 2", "flagged ops"):
        assert fact in page


def test_notebooks_show_a_few_of_many_channels(x):
    model = nn.Sequential(nn.Conv1d(1, 64, 5))
    page = Sonifier(model, sample_rate=RATE).sonify(x[0, 0], layer="0", channel="all")._repr_html_()
    assert 2 <= page.count("<audio") <= 8


def test_without_a_sample_rate_there_are_numbers_but_no_sounds(sonify, tmp_path):
    found = sonify(sample_rate=None)
    assert found.sample_rate is None
    assert found._repr_html_() is None
    needs = r"no sample rate for .*: expected a number in hertz, got None\. .*sample_rate=8000"
    for show in (found.plot, lambda: found.save(tmp_path / "out.wav")):
        with pytest.raises(InputError, match=needs):
            show()
    assert not list(tmp_path.iterdir())
