"""Waveforms as people have them: a path, (time,), (channels, time), arrays, lists."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from deconv1d import InputError, SilenceWarning, Sonifier

RATE = 500
LAYER = {"layer": "0", "channel": 2}


def network(channels, norm=True):
    torch.manual_seed(0)
    layers = [nn.Conv1d(channels, 4, 5), nn.BatchNorm1d(4), nn.ReLU()]
    layers = layers if norm else [layers[0], layers[2]]
    return nn.Sequential(*layers).double().eval()


class Summed(nn.Module):
    """Takes any number of audio channels: the model does not say how an array is meant."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 5).double()

    def forward(self, x):
        return self.conv(x.sum(1, keepdim=True))


class Rows(nn.Module):
    """Takes (batch, time), as wav2vec 2.0 does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 5).double()

    def forward(self, x):
        return self.conv(x[:, None])


def samples(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("as_given", [lambda x: x, lambda x: x.numpy(), lambda x: x.tolist()])
def test_one_clip_with_an_axis_for_its_channel(norm, as_given):
    x, sonifier = samples(1, 61), Sonifier(network(1, norm))
    plain = sonifier.sonify(x[0], **LAYER)
    found = sonifier.sonify(as_given(x), **LAYER)
    assert found.waveform.shape == (1, 61)
    torch.testing.assert_close(found.waveform[0], plain.waveform)
    assert len(found.sounds()) == 1
    assert [row.channel_axis for row in sonifier.layers(as_given(x))] == [1] * (2 + norm)


@pytest.mark.parametrize("norm", [True, False])
def test_several_channels_are_one_clip_where_the_model_takes_so_many(norm):
    x, sonifier = samples(12, 61), Sonifier(network(12, norm), sample_rate=RATE)
    found, plain = sonifier.sonify(x, **LAYER), sonifier.sonify(x[None], **LAYER)
    assert found.waveform.shape == (1, 12, 61)
    assert torch.equal(found.waveform, plain.waveform)
    assert torch.equal(found.gain, plain.gain)
    assert [len(sound) for sound in found.sounds().values()] == [12]
    assert str(sonifier.layers(x)) == str(sonifier.layers(x[None]))
    assert torch.equal(sonifier.maps(x, layer="0"), sonifier.maps(x[None], layer="0"))
    program = sonifier.prepare(x, layer="0")
    assert torch.equal(program(x, channel=2).waveform, program(x[None], channel=2).waveform)


@pytest.mark.parametrize("norm", [True, False])
def test_several_clips_where_the_model_takes_one_channel(norm):
    """Or both sides of a stereo recording: so a warning says how it was read."""
    x, sonifier = samples(3, 61), Sonifier(network(1, norm))
    said = r"read as 3 clips of one channel.* x\.mean\(0\) if .* x\.reshape\(3, 1, 61\)"
    with pytest.warns(UserWarning, match=said) as caught:
        found = sonifier.sonify(x, **LAYER)
    assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = sonifier.sonify(x.reshape(3, 1, 61), **LAYER)
        assert sonifier.sonify(x.mean(0), **LAYER).waveform.shape == (61,)
    assert found.waveform.shape == (3, 61)
    torch.testing.assert_close(found.waveform[:, None], plain.waveform)
    assert found.gain.shape == (3,)


def test_a_model_that_takes_rows_is_given_rows():
    x, sonifier = samples(3, 61), Sonifier(Rows())
    assert sonifier.sonify(x, layer="conv", channel=2).gain.shape == (3,)
    assert sonifier.layers(x)[0].channels == 4


def test_where_the_model_does_not_decide_the_reshape_is_printed():
    message = (
        r"shape \(2, 61\) can be read in two ways, .*"
        r"x\.reshape\(1, 2, 61\).* x\.reshape\(2, 1, 61\)"
    )
    for look in (lambda s, x: s.layers(x), lambda s, x: s.sonify(x, layer="conv", channel=0)):
        with pytest.raises(InputError, match=message):
            look(Sonifier(Summed()), samples(2, 61))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("norm", [True, False])
def test_time_first_is_not_read_as_many_short_clips(channels, norm):
    with pytest.raises(InputError, match=r"shape \(61, 2\).*\(time, channels\).*x\.T"):
        Sonifier(network(channels, norm)).layers(samples(61, 2))


def test_more_channels_than_samples_are_time_first_even_where_the_model_would_run():
    """61 clips of 8 samples are long enough for this kernel: the model does not refuse them."""
    with pytest.raises(InputError, match=r"shape \(61, 8\).*\(time, channels\).*x\.T"):
        Sonifier(network(1)).layers(samples(61, 8))


@pytest.mark.parametrize("shape", [(200, 3), (1, 200, 3), (1, 80, 1)])
def test_time_before_channels_is_refused_whatever_the_model_does(shape):
    """A model that takes (batch, time, channels) runs on it; its sounds would have 3 samples."""

    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(shape[-1], 4, batch_first=True).double()

        def forward(self, x):
            return self.rnn(x)[0]

    turned = r"x\.T" if len(shape) == 2 else r"x\.swapaxes\(1, 2\)"
    with pytest.raises(InputError, match=rf"time last, .*Give {turned}\."):
        Sonifier(TimeFirst()).layers(samples(*shape))
    # What the message advises works.
    for x in (samples(shape[-1], 200), samples(1, shape[-1], 200)):
        with pytest.raises(InputError, match=r"features .* recurrent .*model\(x\.swapaxes\(1, 2\)"):
            Sonifier(TimeFirst()).layers(x)
        sonifier = Sonifier(TimeFirst(), forward=lambda model, x: model(x.swapaxes(1, 2)))
        assert sonifier.layers(x)[0].channels == 4
        assert sonifier.sonify(x, "rnn", channel=0).waveform.shape[-1] == 200


def test_an_array_of_306_sensors_and_few_samples_has_each_reading_printed():
    """More rows than columns: a window of a magnetoencephalogram, or time first."""
    x, sonifier = samples(306, 200), Sonifier(network(306))
    with pytest.raises(InputError, match=r"x\.T; or x\.reshape\(1, 306, 200\) .*\(306, 1, 200\)"):
        sonifier.layers(x)
    assert sonifier.layers(x.reshape(1, 306, 200))[0].channels == 4


@pytest.mark.parametrize("norm", [True, False])
def test_a_2d_convolution_that_adds_a_batch_itself_is_not_taken_at_its_word(norm):
    """As in EEGNet: the map of (1, 22, 100) would count electrodes for channels."""
    layers = [nn.Conv2d(1, 4, (1, 5)), nn.Conv2d(4, 6, (22, 1)), nn.BatchNorm2d(6)]
    sonifier = Sonifier(nn.Sequential(*layers[: 2 + norm]).double())
    for x in (samples(22, 100), samples(1, 22, 100)):
        with pytest.raises(InputError, match=r"Give x\.reshape\(1, 1, 22, 100\)\."):
            sonifier.layers(x)
    assert sonifier.layers(x.reshape(1, 1, 22, 100))[0].channels == 4


@pytest.mark.parametrize(
    ("model", "shape", "reshaped"),
    [(network(1), (1, 1, 1, 61), (1, 1, 61)), (Rows(), (1, 1, 61), (1, 61))],
)
def test_too_many_axes_have_their_reshape_printed(model, shape, reshaped):
    with pytest.raises(InputError, match=re.escape(f"Give x.reshape{reshaped}.")):
        Sonifier(model).layers(samples(*shape))
    assert Sonifier(model).layers(samples(*reshaped))


def test_a_model_that_turns_the_axes_is_told_from_one_of_other_channels():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 5).double()

        def forward(self, x):
            return self.conv(x.transpose(1, 2))

    with pytest.raises(InputError, match=r"forward=lambda model, x: model\(x\.swapaxes\(1, 2\)"):
        Sonifier(Turned()).layers(samples(2, 61))


@pytest.mark.parametrize("shape", [(2, 61), (1, 3), (3, 61), (1, 5, 61)])
def test_no_error_of_torch_is_left(shape):
    """Neither of the number of channels nor of a clip that is too short."""
    with pytest.raises(InputError, match=r"number of channels does not fit|too short") as caught:
        Sonifier(network(1 if shape == (1, 3) else 12)).sonify(samples(*shape), **LAYER)
    assert "running_mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "advice"),
    [
        (lambda x: (x, RATE), "Give x[0]"),  # torchaudio.load, librosa.load, soundfile.read
        (lambda x: (x.numpy(), RATE), "Give x[0]"),
        (lambda x: [RATE, x.numpy()], "Give x[1]"),  # scipy.io.wavfile.read
        (lambda x: {"array": x.numpy(), "sampling_rate": RATE}, "Give x['array']"),  # datasets
        (lambda x: {"path": "a.wav"}, "an array of numbers"),
        (lambda x: None, "an array of numbers"),
    ],
)
def test_what_loaders_return_is_not_a_waveform_yet(made, advice):
    with pytest.raises(InputError, match=re.escape(advice)) as caught:
        Sonifier(network(1), sample_rate=RATE).sonify(made(samples(61)), **LAYER)
    assert "object array" not in str(caught.value)


def test_the_byte_order_of_a_file_is_no_matter():
    """Seismograms and FITS files are read with their bytes in the other order."""
    x, sonifier = samples(61).numpy(), Sonifier(network(1))
    found = sonifier.sonify(x.astype(x.dtype.newbyteorder("S")), **LAYER)
    assert found.waveform.dtype == torch.float64
    torch.testing.assert_close(found.waveform, sonifier.sonify(x, **LAYER).waveform)


def test_several_channels_where_the_model_takes_one_have_their_line_to_type():
    with pytest.raises(InputError, match=r"x\.reshape\(12, 1, 61\).*x\.mean\(1, keepdims=True\)"):
        Sonifier(network(1)).sonify(samples(1, 12, 61), **LAYER)
    lines = samples(1, 12, 61).reshape(12, 1, 61), samples(1, 12, 61).mean(1, keepdims=True)
    for given in lines:
        Sonifier(network(1)).sonify(given, **LAYER)


def test_a_path_is_read_at_the_models_rate(tmp_path):
    x = samples(1000, 1).numpy() / 10
    soundfile.write(tmp_path / "a.wav", x, 2 * RATE, subtype="DOUBLE")
    sonifier = Sonifier(network(1), sample_rate=RATE)
    for path in (tmp_path / "a.wav", str(tmp_path / "a.wav")):
        assert sonifier.sonify(path, **LAYER).waveform.shape == (500,)
        assert len(sonifier.layers(path)) == 3
        assert sonifier.prepare(path, layer="0")(path).waveform.shape == (500,)
    with pytest.raises(InputError, match=r"sample rate.*Sonifier\(model, sample_rate="):
        Sonifier(network(1)).layers(tmp_path / "a.wav")


def test_the_channels_of_a_file_are_mixed_or_not_as_the_model_takes_them(tmp_path, recwarn):
    x = samples(300, 2).numpy() / 10
    soundfile.write(tmp_path / "a.wav", x, RATE, subtype="DOUBLE")
    mono = Sonifier(network(1), sample_rate=RATE).sonify(tmp_path / "a.wav", **LAYER)
    assert mono.waveform.shape == (300,)
    np.testing.assert_allclose(mono.input, x.mean(1), atol=1e-7)
    stereo = Sonifier(network(2), sample_rate=RATE).sonify(tmp_path / "a.wav", **LAYER)
    assert stereo.waveform.shape == (1, 2, 300)
    assert not recwarn.list  # a file has no clips that might be channels


def test_every_door_reads_an_array_in_the_same_way():
    """The mask, the card, the comparison and the ablation, on the ECG of 12 leads."""
    from deconv1d.compare import compare

    x, sonifier = samples(12, 900), Sonifier(network(12, norm=False), sample_rate=RATE)
    plain, options = x[None], {"layer": "0", "channel": 2}
    masks = [sonifier.sonify(y, method="mask", **options).waveform for y in (x, plain)]
    assert torch.equal(*masks)
    cards = [sonifier.control_card(y, draws=1, **options).to_dict() for y in (x, plain)]
    assert cards[0] == cards[1]
    kept = [sonifier.ablate(y, "0", 2).output for y in (x, plain)]
    assert torch.equal(*kept)
    found = [compare(sonifier, y, "0", 2, methods=["NeuronGradient"]) for y in (x, plain)]
    assert torch.equal(*(comparison.sounds["NeuronGradient"] for comparison in found))


# --- one form for what is asked and answered ------------------------------------------------------


def test_the_layer_is_given_by_its_place_or_by_its_name():
    x, sonifier = samples(61), Sonifier(network(1), sample_rate=RATE)
    by_place, by_name = sonifier.sonify(x, "0"), sonifier.sonify(x, layer="0")
    assert torch.equal(by_place.waveform, by_name.waveform)
    assert str(sonifier.plan(x, "0")) == str(sonifier.plan(x, layer="0"))
    assert torch.equal(sonifier.maps(x, "0"), sonifier.maps(x, layer="0"))
    assert torch.equal(sonifier.prepare(x, "0")(x).waveform, by_name.waveform)
    assert torch.equal(
        sonifier.ablate(x, "0").output, sonifier.ablate(x, "0", by_name.channel).output
    )


def test_a_part_of_a_table_is_a_table():
    table = Sonifier(network(1)).plan(samples(61), "2")
    title, head, *rows = str(table[1:]).splitlines()
    assert title == str(table).splitlines()[0]
    assert head.split() == str(table).splitlines()[1].split()
    assert len(rows) == len(table) - 1 == len(table[1:])
    assert table[1:][0] == table[1]


@pytest.mark.parametrize("method", ["deconvnet", "mask"])
def test_the_channel_is_a_number_or_a_list_of_them(method):
    x, sonifier = samples(2, 1, 900), Sonifier(network(1), sample_rate=RATE)

    def channel(x, channel):
        found = sonifier.sonify(x, "0", channel=channel, method=method)
        return found.channel, found.several, len(found.sounds())

    active = sonifier.maps(x, "0").mean(-1).argmax(1).tolist()
    assert channel(x, "most_active") == (active, False, 2)
    assert channel(x[0], "most_active") == (active[0], False, 1)
    assert channel(x[:1], "most_active") == (active[0], False, 1)
    assert channel(x[0], [3, 1]) == ([3, 1], True, 2)
    assert channel(x[0], [3]) == ([3], True, 1)
    assert channel(x, torch.tensor([3, 1])) == ([3, 1], True, 4)
    assert channel(x, 3) == (3, False, 2)
    assert channel(x, None)[:2] == (None, False)


def test_editors_know_the_words():
    from typing import get_args, get_type_hints

    from deconv1d.forward import TAPS, Tap
    from deconv1d.masks.options import LISTENING, Listening
    from deconv1d.rules.table import METHODS, Method
    from deconv1d.seeds import SEEDS, SeedName

    words = {Tap: TAPS, Method: METHODS, SeedName: SEEDS}
    assert {name: get_args(name) for name in words} == words
    assert sum(map(get_args, get_args(Listening)), ()) == LISTENING
    hints = get_type_hints(Sonifier.sonify, localns={"Listening": Listening})
    asked = {"tap": Tap, "method": Listening, "seed": SeedName}
    for argument, expected in asked.items():
        assert hints[argument] | expected == hints[argument]


# --- short answers --------------------------------------------------------------------------------


def half_dead():
    model = network(1, norm=False)
    with torch.no_grad():
        model[0].bias[[0, 3]] = -100.0
    return model


def test_what_is_printed_is_one_short_line():
    sonifier = Sonifier(network(1), sample_rate=RATE)
    asked = (0, [1, 2], list(range(4)), None)
    shown = [repr(sonifier.sonify(samples(61), "0", channel=channel)) for channel in asked]
    shown += [str(sonifier.sonify(samples(3, 1, 61), "0")), repr(sonifier), str(sonifier)]
    assert all(len(line) < 160 and "\n" not in line and "tensor" not in line for line in shown)
    assert "layer '0', channel 0, shape (61,), 500 Hz" in shown[0]
    assert "channels 0, 1, 2 and 1 more" in shown[2]
    assert repr(sonifier) == "Sonifier(Sequential: 500 Hz)"


def test_records_with_arrays_are_one_short_line_as_well():
    from deconv1d.mining import mine

    sonifier, x = Sonifier(network(1).float(), sample_rate=RATE), samples(3000).float()
    mined = mine(sonifier, [("a", x), ("b", 2 * x)], layers=["0", "2"])
    tuning = sonifier.tuning("0")
    shown = (
        (mined, "Mined(top 3 of 2 clips by peak, 8 channels of 2 layers)"),
        (mined.rankings["0"], "Ranking(2 places of 4 channels)"),
        (tuning, "Tuning(layer '0', channels 0, 1, 2 and 1 more, tones, "),
        (sonifier.all_maps(x, layers=["2"])[0], "LayerMaps(layer '2', shape (1, 4, "),
        (sonifier.ablate(x, "0", 2), "Ablated(layer '0', channel 2, change "),
        (sonifier.prepare(x, layer="2"), "Program(layer '2', shape (3000,), deconvnet)"),
        (sonifier.programs, "Programs(Sonifier(Sequential: 500 Hz), 0 prepared, 0 refused)"),
    )
    for record, start in shown:
        assert repr(record).startswith(start)
        assert len(repr(record)) < 160
        assert "\n" not in repr(record)
    assert "<table>" in tuning._repr_html_()


def test_dead_channels_are_counted_once(recwarn):
    Sonifier(half_dead(), sample_rate=RATE).sonify(samples(61), "0", channel="all")
    assert [str(w.message) for w in recwarn] == [
        "2 of 4 sonifications of layer '0' are silent, the first that of channel 0: the map is "
        "dead."
    ]


def test_a_notebook_shows_the_most_active_and_folds_the_dead():
    with pytest.warns(SilenceWarning):
        found = Sonifier(half_dead(), sample_rate=RATE).sonify(samples(900), "0", channel="all")
    page = found._repr_html_()
    best = found.activation[0].mean(-1).argsort(descending=True).tolist()
    assert page.index(f"channel {best[0]}") < page.index(f"channel {best[1]}")
    assert "2 of 4, by activation; 2 are silent" in page
    assert "0, channel 3" not in page


def test_a_notebook_draws_a_figure_once():
    formatters = pytest.importorskip("IPython.core.formatters")
    figure = Sonifier(network(1), sample_rate=RATE).sonify(samples(900), "0").plot()
    shown, _ = formatters.DisplayFormatter().format(figure)
    assert shown["image/png"].startswith(b"\x89PNG")
    assert set(shown) == {"image/png", "text/plain"}


def test_a_notebook_that_draws_figures_itself_holds_one_picture(monkeypatch):
    """After `%matplotlib inline` with JPEG there is no second picture in PNG."""
    IPython = pytest.importorskip("IPython")
    from matplotlib.figure import Figure

    formatter = IPython.core.formatters.DisplayFormatter()
    shell = SimpleNamespace(display_formatter=formatter)
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    figure = Sonifier(network(1), sample_rate=RATE).sonify(samples(900), "0").plot()
    assert set(formatter.format(figure)[0]) == {"image/png", "text/plain"}
    formatter.formatters["image/jpeg"].for_type(Figure, lambda _: b"drawn by the notebook")
    assert set(formatter.format(figure)[0]) == {"image/jpeg", "text/plain"}


def test_after_a_group_norm_the_local_field_is_shown_and_marked():
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 4)
    layers = [nn.Conv1d(1, 4, 10, 5), norm, nn.GELU(), nn.Conv1d(4, 4, 3, 2), nn.Flatten(1)]
    found = {row.name: row for row in Sonifier(nn.Sequential(*layers)).layers(torch.randn(500))}
    facts = {name: (row.hop, row.receptive_field, row.note) for name, row in found.items()}
    note = "statistics over the whole clip"
    assert facts["0"] == ("5", 10, "")
    assert facts["1"] == ("5", 10, note)
    assert facts["3"] == ("10", 20, note)
    # The samples that reach one value where mean and deviation are constants: autograd's.
    x = torch.randn(1, 1, 500, requires_grad=True)
    layers[3](layers[2](layers[0](x)))[0, 0, 7].backward()
    assert len(x.grad.nonzero()) == 20


class ByHand(nn.Module):
    """Normalises over the clip before it convolves; its gate is a statistic of the clip, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv1d(1, 4, 10, 5), nn.Conv1d(4, 4, 1)
        self.next, self.head = nn.Conv1d(4, 4, 3, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
        x = self.conv(x)
        x = self.next(x * torch.sigmoid(self.gate(x.mean(-1, keepdim=True))))
        return self.head(x.mean(-1))


def test_normalisations_and_gates_by_hand_have_local_fields_too():
    torch.manual_seed(0)
    rows = {row.name: row for row in Sonifier(ByHand()).layers(torch.randn(500))}
    facts = {name: (row.hop, row.receptive_field) for name, row in rows.items()}
    assert facts["conv"] == ("5", 10)
    assert facts["next"] == ("10", 20)
    assert facts["gate"] == facts["head"] == (None, None)  # one value for all of the clip
    assert rows["next"].note == "statistics over the whole clip"
