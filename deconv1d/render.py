"""Sounds to look at: arrays and a sample rate in, figures with axes out.

A waveform here is a NumPy array or torch tensor of shape (time,) or (channels, time). Figures are
made without pyplot: no window, no global state, safe in threads.
"""

from __future__ import annotations

import base64
import io
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deconv1d.audio import Samples, Waveform, as_samples, whole_rate, write_whole
from deconv1d.errors import InputError
from deconv1d.mel import hertz_to_mel, mel_to_hertz, triangles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

DYNAMIC_RANGE = 80  # dB
MEL_BANDS = 96
ROW_HEIGHT = 1.7  # inches
FRAMES = 1000  # in a spectrogram: about a picture's width in pixels


@dataclass(frozen=True)
class Theme:
    """Colours of paper and text."""

    paper: str
    ink: str


LIGHT = Theme(paper="#ffffff", ink="#24292f")
DARK = Theme(paper="#14171c", ink="#e4e7eb")


def plot_spectrograms(
    waveforms: Mapping[str, Waveform], sample_rate: int, *, dark: bool = False, columns: int = 1
) -> Figure:
    """Draws mel spectrograms one below the other, on the same seconds, hertz and decibels.

    Decibels are relative to the loudest point of the first waveform, the input. The colours span
    the 80 dB below the loudest point of all.

    Args:
        waveforms: Title to waveform, the input first; several channels are drawn as their mean.
        sample_rate: Samples per second.
        dark: Light on dark instead of dark on light.
        columns: How many stand side by side, row by row.

    Returns:
        A Matplotlib figure, 9 inches wide, or 3 a column if that is more.

    Raises:
        InputError: If there is no waveform, or one of them, the rate or `columns` cannot be used.
    """
    rate, tracks, theme = whole_rate(sample_rate), _tracks(waveforms), DARK if dark else LIGHT
    figure, rows = _rows(tracks, rate, theme, columns)
    spectrograms = [mel_spectrogram(samples, rate) for samples in tracks.values()]
    # One scale for all pictures: a quiet residual looks quiet.
    levels = _decibels([power for power, _ in spectrograms])
    top = max(0.0, *(level.max() for level in levels))
    for axes, level, (_, hop) in zip(rows, levels, spectrograms, strict=True):
        image = axes.imshow(
            level,
            extent=(
                -hop / 2 / rate,
                (level.shape[1] - 0.5) * hop / rate,
                0,
                float(hertz_to_mel(rate / 2)),
            ),
            vmin=top - DYNAMIC_RANGE,
            vmax=top,
            cmap="magma",
            origin="lower",
            aspect="auto",
        )
        ticks = _mel_ticks(rate / 2)
        axes.set_yticks(hertz_to_mel(np.array(ticks)), [f"{hertz:g}" for hertz in ticks])
    _add_colour_bar(figure, rows, image, f"dB re peak of {next(iter(tracks))}", theme)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG picture.

    Args:
        figure: A Matplotlib figure.
    """
    return _picture(figure, "png")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure to a picture file, replacing the file if there is one.

    Args:
        figure: A Matplotlib figure.
        path: Where to write; the suffix chooses the format: `.png`, `.svg`, `.pdf`, ...

    Raises:
        InputError: If Matplotlib knows no format of that suffix.
        FileError: If the file cannot be written.
    """
    write_whole(path, _picture(figure, check_picture(path)))


def check_picture(path: str | Path) -> str:
    """The format of a picture to write.

    Args:
        path: Its suffix decides.

    Raises:
        InputError: If Matplotlib knows no format of that suffix.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    # Checked here: Matplotlib's own error on a suffix that it does not know names no remedy.
    suffix = Path(path).suffix.lower()
    known = [f".{name}" for name in sorted(FigureCanvasBase.get_supported_filetypes())]
    if suffix not in known:
        raise InputError(
            f"{str(path)!r} cannot be written: expected a suffix that names a picture format, got "
            f"{suffix!r}. Choose one of {', '.join(known)}."
        )
    return suffix[1:]


def data_uri(kind: str, content: bytes) -> str:
    """The address that holds a file's content itself.

    Args:
        kind: Its media type, such as "image/png".
        content: The file.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _picture(figure: Figure, file_format: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=file_format, facecolor="auto")
    return content.getvalue()


def _tracks(waveforms: Mapping[str, Waveform]) -> dict[str, Samples]:
    """Returns each waveform's mean over its channels, in float64."""
    if not waveforms:
        raise InputError(
            "There is nothing to draw: expected waveforms, got none. Give one or more."
        )
    return {name: as_samples(sound).mean(0, dtype=np.float64) for name, sound in waveforms.items()}


def _rows(
    tracks: Mapping[str, Samples], rate: int, theme: Theme, columns: int
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with an empty titled place for each sound, row by row."""
    rows = math.ceil(len(tracks) / _checked_columns(columns))
    size = (max(9, 3 * columns), 0.5 + ROW_HEIGHT * rows)
    figure = figure_class()(figsize=size, dpi=110, facecolor=theme.paper, layout="constrained")
    # The picture is filled row by row; places that are left over at the end are removed.
    places = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
    for spare in places[len(tracks) :]:
        spare.remove()
    places = places[: len(tracks)]
    for number, (axes, title) in enumerate(zip(places, tracks, strict=True)):
        # Titles hold names of layers and files: a dollar sign in them is no formula.
        axes.set_title(title, loc="left", fontsize=10, color=theme.ink, parse_math=False)
        axes.set_facecolor(theme.paper)
        lowest, first = number + columns >= len(tracks), number % columns == 0
        axes.tick_params(colors=theme.ink, labelsize=8, bottom=lowest, labelbottom=lowest)
        axes.tick_params(left=first, labelleft=first)
        axes.set_ylabel("Hz" if first else "", color=theme.ink)
        axes.set_xlabel("seconds" if lowest else "", color=theme.ink)
        axes.spines[:].set_visible(False)
    places[-1].set_xlim(0, max(len(samples) for samples in tracks.values()) / rate)
    return figure, places


@cache
def figure_class() -> type[Figure]:
    """Figures that a notebook shows without `%matplotlib inline`, and with it no second time."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes | None:
            return None if _drawn_by_notebook(Figure) else figure_png(self)

    return NotebookFigure


def _drawn_by_notebook(kind: type[Figure]) -> bool:
    """Whether the notebook draws figures by itself: after `%matplotlib inline`, as PNG or JPEG."""
    # A figure with a picture in each of two formats is shown once, but the file holds both.
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None else None
    if shell is None:
        return False
    formatters = shell.display_formatter.formatters
    pictures = [formatter for mime, formatter in formatters.items() if mime.startswith("image/")]
    return any(kind in formatter.type_printers for formatter in pictures)


def _checked_columns(columns: int) -> int:
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise InputError(
            f"columns={columns!r} cannot be drawn: expected a whole number above 0. Give how many "
            f"pictures stand side by side."
        )
    return columns


def _add_colour_bar(
    figure: Figure, rows: list[Axes], image: AxesImage, label: str, theme: Theme
) -> None:
    bar = figure.colorbar(image, ax=rows, pad=0.01, fraction=0.05, aspect=12 * len(rows))
    bar.set_label(label, color=theme.ink, parse_math=False)
    bar.ax.tick_params(colors=theme.ink, labelsize=8)
    bar.outline.set_visible(False)


def _decibels(powers: list[Samples]) -> list[Samples]:
    """Powers in dB re the first's peak, or re the highest of all if the first is silent."""
    peaks = [power.max() for power in powers]
    # Decibels are of the input if it is not silent: the sonification is judged beside it.
    reference = peaks[0] or max(peaks) or 1.0
    floor = 10 ** (-DYNAMIC_RANGE / 10)
    return [10 * np.log10(np.maximum(power / reference, floor)) for power in powers]


def mel_spectrogram(samples: Samples, rate: int, *, frames: int = FRAMES) -> tuple[Samples, int]:
    """Returns power, (mel band, frame), and the hop in samples; frame i is centred on i * hop.

    Windows are 30 ms or more, and longer for long sounds: every sample is in two at least.

    Args:
        samples: (time,).
        rate: In hertz.
        frames: About how many there are.
    """
    # A longer sound has longer windows and hops: the picture has as many pixels either way.
    window = 2 ** max(6, math.ceil(math.log2(max(0.03 * rate, 2 * len(samples) / frames))))
    hop = max(1, len(samples) // frames)
    padded = np.pad(samples, window // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(window + 1)[:-1])) ** 2
    return _mel_filters(rate, window) @ power.T, hop


@cache
def _mel_filters(rate: int, window: int) -> Samples:
    """Triangles on the mel axis, shape (mel band, frequency), each adding up to 1.

    Band i is centred in the picture's row i. A side narrower than the spacing of the frequencies
    is widened to it, so that no band is empty.
    """
    spacing = rate / window
    # Row i of the picture spans [i, i + 1] on an axis of MEL_BANDS rows from 0 to the highest mel;
    # its centre is at i + 1/2. One corner more on each side closes the first and the last triangle.
    mels = (np.arange(-1, MEL_BANDS + 1) + 0.5) * hertz_to_mel(rate / 2) / MEL_BANDS
    frequencies = np.arange(window // 2 + 1) * spacing
    bands = triangles(frequencies, mel_to_hertz(mels), narrowest=spacing)
    weights: Samples = bands / bands.sum(1, keepdims=True)
    return weights


def _mel_ticks(highest: float) -> list[float]:
    """Chooses 0 Hz and frequencies 1, 2 or 5 times a power of ten, a ninth of the axis apart."""
    top = math.ceil(math.log10(highest))
    ticks = [0.0]
    # 1, 2, 5, 10, 20, 50, ...: a tick is kept if it is far enough from the one before.
    for hertz in (digit * 10.0**power for power in range(top - 4, top + 1) for digit in (1, 2, 5)):
        if (
            hertz <= highest
            and hertz_to_mel(hertz) - hertz_to_mel(ticks[-1]) > hertz_to_mel(highest) / 9
        ):
            ticks.append(hertz)
    return ticks
