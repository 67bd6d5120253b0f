"""Pictures read back from their axes, and what cannot be drawn."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from deconv1d.audio import read_audio
from deconv1d.errors import FileError, InputError
from deconv1d.render import (
    figure_png,
    plot_spectrograms,
    save_figure,
)

RATE = 8000
HOSTILE = "\"><script>alert(1)</script> & 'x' $\\frac$"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape)


def tone(hertz: float, samples: int = RATE, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz / rate * np.arange(samples)) / 2


def rows(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def loudest(figure: Figure, row: int = 0) -> tuple[float, float]:
    """Seconds of a spectrogram's loudest frame, mean hertz of the bands within 3 dB of the top."""
    image = rows(figure)[row].images[0]
    power = 10 ** (np.asarray(image.get_array()) / 10)
    left, right, bottom, top = image.get_extent()
    seconds = left + (power.max(0).argmax() + 0.5) * (right - left) / power.shape[1]
    bands = np.flatnonzero(power.mean(1) > power.mean(1).max() / 2)
    mels = bottom + (bands + 0.5) * (top - bottom) / power.shape[0]
    return seconds, (700 * (10 ** (mels / 2595) - 1)).mean()


@pytest.mark.parametrize("hertz", [78, 93.75, 440, 1000, 3500])
def test_a_tone_is_drawn_at_its_frequency(hertz):
    figure = plot_spectrograms({"tone": tone(hertz)}, RATE)
    assert loudest(figure)[1] == pytest.approx(hertz, rel=0.02, abs=5)
    marks = {tick.get_text(): tick for tick in rows(figure)[0].get_yticklabels()}
    assert float(marks["1000"].get_position()[1]) == pytest.approx(
        1000, abs=0.1
    )  # mel = hertz here


@pytest.mark.parametrize("seconds", [0.05, 1, 60])
@pytest.mark.parametrize("part", [0, 0.003, 0.31415, 0.9999])
def test_a_click_is_drawn_at_its_moment(seconds, part):
    samples = int(seconds * RATE)
    click = np.zeros(samples)
    click[int(part * samples)] = 1
    figure = plot_spectrograms({"click": click}, RATE)
    assert loudest(figure)[0] == pytest.approx(int(part * samples) / RATE, abs=seconds / 1000)
    assert rows(figure)[0].get_xlim() == (0, seconds)


def test_no_sample_of_a_long_sound_is_passed_over():
    clicks = np.zeros(60 * RATE)
    moments = np.random.default_rng(1).integers(0, len(clicks), 60)
    clicks[moments] = 1
    image = rows(plot_spectrograms({"clicks": clicks}, RATE))[0].images[0]
    levels = np.asarray(image.get_array()).max(0)
    left, right = image.get_extent()[:2]
    frames = (moments / RATE - left) / (right - left) * len(levels)
    assert levels[frames.astype(int)].min() > -20


def test_decibels_are_relative_to_the_input_on_one_scale():
    figure = plot_spectrograms(
        {"in": tone(1000), "quiet": tone(1000) / 10, "loud": tone(1000) * 4}, RATE
    )
    images = [axes.images[0] for axes in rows(figure)]
    peaks = [float(np.asarray(image.get_array()).max()) for image in images]
    assert peaks == pytest.approx([0, -20, 20 * np.log10(4)], abs=1e-6)
    assert {image.get_clim() for image in images} == {(peaks[2] - 80, peaks[2])}
    assert "dB re peak of in" in [axes.get_ylabel() for axes in figure.axes]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("sounds", "columns"), [(4, 2), (5, 3), (1, 4), (7, 6)])
def test_columns_are_filled_row_by_row(sounds, columns):
    waveforms = {f"{n}": tone(300 * (n + 1)) for n in range(sounds)}
    figure = plot_spectrograms(waveforms, RATE, columns=columns)
    figure_png(figure)
    assert [loudest(figure, n)[1] for n in range(sounds)] == pytest.approx(
        [300 * (n + 1) for n in range(sounds)], rel=0.05
    )
    boxes = [axes.get_position() for axes in rows(figure)]
    for number, (axes, box) in enumerate(zip(rows(figure), boxes, strict=True)):
        row, column = divmod(number, columns)
        assert box.x0 == pytest.approx(boxes[column].x0)
        assert box.y0 == pytest.approx(boxes[row * columns].y0)
        assert bool(axes.get_ylabel()) == (column == 0)
        assert bool(axes.get_xlabel()) == (number + columns >= sounds)
    texts = [text.get_window_extent() for text in drawn(figure)]
    assert all(figure.bbox.padded(1).containsx(b.x0) and figure.bbox.containsx(b.x1) for b in texts)


@pytest.mark.parametrize("columns", [0, -1, 1.5, True])
def test_columns_are_a_whole_number(columns):
    with pytest.raises(InputError, match="whole number above 0"):
        plot_spectrograms({"a": noise(9)}, RATE, columns=columns)


def test_a_silent_input_leaves_the_loudest_as_reference():
    images = [
        a.images[0] for a in rows(plot_spectrograms({"in": np.zeros(RATE), "b": noise(RATE)}, RATE))
    ]
    assert np.asarray(images[0].get_array()).max() == -80
    assert np.asarray(images[1].get_array()).max() == 0


@pytest.mark.parametrize(("rate", "samples"), [(44_100, 2205), (8000, 400), (1000, 5000), (10, 99)])
def test_no_mel_band_is_empty(rate, samples):
    level = rows(plot_spectrograms({"noise": noise(samples)}, rate))[0].images[0].get_array()
    assert np.asarray(level).max(1).min() > -60


def test_white_noise_is_equally_bright_at_all_frequencies():
    image = rows(plot_spectrograms({"noise": noise(80_000)}, RATE))[0].images[0]
    bands = 10 * np.log10((10 ** (np.asarray(image.get_array()) / 10)).mean(1))
    assert np.ptp(bands[2:-2]) < 2  # the ends hold 0 Hz and the Nyquist frequency


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("rate", "samples"), [(RATE, 1), (RATE, 400), (RATE, 80_000), (10, 50), (1, 5), (192_000, 9600)]
)
def test_every_text_is_readable_and_inside(rate, samples, dark):
    names = ["input", "conv8, channel 3", HOSTILE]
    figure = plot_spectrograms({name: noise(samples) for name in names}, rate, dark=dark)
    assert figure.get_figwidth() == 9
    assert [axes.get_title(loc="left") for axes in rows(figure)] == names
    figure_png(figure)
    assert (contrast(figure.get_facecolor(), "black") < 2) == dark
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(contrast(text.get_color(), figure.get_facecolor()) for text in texts) > 7
    boxes = [box for box in (text.get_window_extent() for text in drawn(figure)) if box.width]
    assert all(figure.bbox.padded(1).containsx(b.x0) and figure.bbox.containsx(b.x1) for b in boxes)
    assert all(figure.bbox.padded(1).containsy(b.y0) and figure.bbox.containsy(b.y1) for b in boxes)
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def drawn(figure: Figure) -> list[Text]:
    """The texts that the picture shows: titles, axis labels and the ticks within the limits."""
    shown = []
    for axes in figure.axes:
        shown += [axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = axis.get_major_ticks()
            shown += [
                label
                for tick, place in zip(ticks, axis.get_majorticklocs(), strict=False)
                for label in (tick.label1, tick.label2)
                if label.get_visible() and limits[0] <= place <= limits[1]
            ]
    return [text for text in shown if text.get_text()]


def contrast(colour: str, other: str) -> float:
    """WCAG 2 contrast ratio, 1 to 21."""

    def luminance(value: str) -> float:
        rgb = np.array(to_rgb(value))
        return np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92) @ (
            0.2126,
            0.7152,
            0.0722,
        )

    low, high = sorted((luminance(colour), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.filterwarnings("error")
def test_silence_is_drawn():
    assert figure_png(plot_spectrograms({"a": np.zeros(400), "b": np.zeros(400)}, RATE)).startswith(
        b"\x89PNG"
    )


def test_channels_are_drawn_as_their_mean_and_tensors_as_arrays():
    stereo = noise(2, 400)
    tensor = torch.tensor(stereo, requires_grad=True)
    assert figure_png(plot_spectrograms({"a": tensor}, RATE)) == figure_png(
        plot_spectrograms({"a": stereo.mean(0)}, RATE)
    )


def test_threads_draw_the_same_picture():
    sounds = [{"a": noise(400 + n)} for n in range(4)]
    alone = [figure_png(plot_spectrograms(sound, RATE)) for sound in sounds]
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(pool.map(lambda sound: figure_png(plot_spectrograms(sound, RATE)), sounds))
            == alone
        )


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(InputError, match="nothing to draw"):
        plot_spectrograms({}, RATE)
    with pytest.raises(InputError, match="NaN"):
        plot_spectrograms({"a": np.array([np.nan])}, RATE)
    with pytest.raises(InputError, match="whole number"):
        plot_spectrograms({"a": noise(9)}, 0)


def test_drawing_loads_matplotlib_late_and_pyplot_never():
    code = (
        "import sys, numpy as np, deconv1d.render as render\n"
        "assert not {'matplotlib', 'soundfile', 'soxr'} & set(sys.modules)\n"
        "render.figure_png(render.plot_spectrograms({'a': np.ones(9)}, 8000))\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("A.SVG", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_figures_are_saved_by_suffix(tmp_path, name, start):
    save_figure(plot_spectrograms({"a": noise(99)}, RATE), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 1


def test_figures_that_cannot_be_saved_are_errors(tmp_path):
    figure = plot_spectrograms({"a": noise(99)}, RATE)
    with pytest.raises(InputError, match=r"Choose one of .*\.png"):
        save_figure(figure, tmp_path / "a.doc")
    with pytest.raises(FileError, match="cannot be written"):
        save_figure(figure, tmp_path / "missing" / "a.png")


@pytest.mark.recordings
def test_a_real_recording_is_drawn(recordings):
    path = min(recordings.glob("esc10/*Rooster/*.ogg"))
    waveform, rate = read_audio(path, 8000)
    figure = plot_spectrograms({"input": waveform, "half": waveform / 2}, rate)
    assert loudest(figure) == pytest.approx(loudest(figure, 1))
    assert rows(figure)[1].get_xlim()[1] == pytest.approx(5, abs=0.1)
