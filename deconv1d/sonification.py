"""What comes out: one layer's maps as sound, with what is needed to judge, plot and save them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deconv1d.channels import means
from deconv1d.errors import InputError
from deconv1d.layers.axes import Layout

if TYPE_CHECKING:
    from deconv1d.checks.verification import Verified

LISTED = 3
"""How many channels a line names."""


@dataclass(frozen=True, repr=False)
class Sonification:
    """What one layer's map (or several) responds to, as sound.

    With several channels asked for, `waveform`, `raw` and `residual` have a leading axis for them.
    All tensors are on the input's device and in its dtype.

    Attributes:
        waveform: The sonification: `raw` scaled to the input's peak, per example; input's shape.
        raw: The deconvnet's output (above `low_cut`, if that was given).
        input: The waveform that was given.
        activation: The whole map at the tap.
        gain: What `raw` was multiplied by, (batch,) or (channels, batch); 0 where it is silent.
        layer: The layer's full name.
        channel: Channel number; list of them, in the order of the leading axis, or, for
            "most_active" of several examples, one for each; None: all maps at once.
        sample_rate: In hertz, if known.
        flagged: Share of ops on the way back for which only a gradient is known, 0 to 1.
        tap: Where the map was taken, as `Sonifier.sonify` was told.
        layout: Which axes of the map count examples and channels.
        method: As `Sonifier.sonify` was told. With "mask", `waveform` and `raw` are the input heard
            through a mask, at its own level, and the residual is the masked-out part.
        mask: With "mask": the value of each cell, 0 to 1, `([channels,] [batch,] bands,
            columns)`, on the grid that `deconv1d.masks.grid.Grid` describes; else None.
        budget: With "mask": the share of the input's energy that the mask may keep; else None.
        verified: How far the capture is from the model itself; None: it was not to be verified.
        direction: With `direction=`: the directions, ([directions,] channels); `channel` then is
            their numbers, or None for a single one.

    Source: paper, section 3.2 and figure B.2.
    """

    waveform: Tensor
    raw: Tensor
    input: Tensor
    activation: Tensor
    gain: Tensor
    layer: str
    channel: int | list[int] | None
    sample_rate: int | None
    flagged: float
    layout: Layout
    tap: str = "block"
    method: str = "deconvnet"
    mask: Tensor | None = None
    budget: float | None = None
    verified: Verified | None = None
    direction: Tensor | None = None

    def __repr__(self) -> str:
        rate = "rate unknown" if self.sample_rate is None else f"{self.sample_rate} Hz"
        return (
            f"Sonification(layer {self.layer!r}, {channels_in_words(self.channel)}, "
            f"shape {tuple(self.waveform.shape)}, {rate}, {self.method})"
        )

    @property
    def several(self) -> bool:
        """Whether the sounds have a leading axis, for several channels that were asked for."""
        return self.raw.dim() > self.input.dim()

    @property
    def residual(self) -> Tensor:
        """The input without the sonification (paper, section 4.1)."""
        return self.input - self.waveform

    def coherence(self, *, top_k: int = 5) -> Tensor:
        """Measures the mean coherence of input and sonification at their `top_k` best frequencies.

        Args:
            top_k: How many of the frequencies to average.

        Returns:
            Between 0 and 1, of the shape of `gain`; of several audio channels the mean.

        Raises:
            InputError: As for `deconv1d.measure.mean_top_coherence`.

        Source: paper, section 4.2.1, equation 3.
        """
        from deconv1d.measure import mean_top_coherence

        # Broadcasting: the input has no axis for the channels that were asked for.
        values = mean_top_coherence(self.input, self.waveform, top_k=top_k)
        return values.reshape(*self.gain.shape, -1).mean(-1)

    def sounds(self) -> dict[tuple[int | None, int], Tensor]:
        """Returns each sound alone, (time,) or (channels, time), by (map's channel, example).

        The channel is None where all maps sound at once.
        """
        # Axes of `waveform`, each only if it is there: (channels asked for, examples, audio, time).
        groups = self.waveform if self.several else self.waveform[None]
        asked = self.channel if self.several and isinstance(self.channel, list) else [self.channel]
        sounds: dict[tuple[int | None, int], Tensor] = {}
        channel: int | list[int] | None
        for channel, group in zip(asked, groups, strict=True):
            examples = group[None] if self.input.dim() == 1 else group
            for number, sound in enumerate(examples):
                map_number = channel[number] if isinstance(channel, list) else channel
                sounds[map_number, number] = sound.squeeze(0) if sound.dim() > 1 else sound
        return sounds

    def save(self, path: str | Path, **options: Any) -> list[Path]:
        """Writes the sonification as a sound file; returns the paths written.

        Args:
            path: File name; its suffix names the format. With several sounds it must contain
                `{channel}` or `{example}` (or both), filled in for each.
            options: As for `deconv1d.audio.write_audio`.

        Raises:
            InputError: If the sample rate is unknown or several sounds would get one name.
            FileError: If a file cannot be written.
        """
        from deconv1d.audio import write_audio

        rate, sounds = needed_rate(self.sample_rate, "a sound file"), self.sounds()
        # `{channel}` and `{example}` are filled in by str.format; other names in braces raise.
        try:
            paths = [Path(str(path).format(channel=c, example=e)) for c, e in sounds]
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"The path {str(path)!r} cannot be filled in ({error}): expected {{channel}} and "
                f"{{example}} as its only names in braces. Write other braces twice."
            ) from error
        # Checked before the first file is written: half of the files would be worse than none.
        if len(set(paths)) < len(paths):
            raise InputError(
                f"{len(paths)} sounds cannot go into {len(set(paths))} file(s) at {str(path)!r}: "
                f"expected a name for each. Put {{channel}} or {{example}} into the path."
            )
        for target, sound in zip(paths, sounds.values(), strict=True):
            write_audio(target, sound, rate, **options)
        return paths

    def plot(self, *, dark: bool = False) -> Any:
        """Draws the input's and the sonification's spectrograms as a Matplotlib figure.

        Raises:
            InputError: If the sample rate is unknown.
        """
        from deconv1d.render import plot_spectrograms

        return plot_spectrograms(
            self._tracks(), needed_rate(self.sample_rate, "a spectrogram"), dark=dark
        )

    def _best(self, count: int) -> tuple[Sonification, str]:
        """The most active of several channels that can be heard, and how many these are."""
        if not (self.several and isinstance(self.channel, list)):
            return self, ""
        heard = self.gain.reshape(len(self.channel), -1)[:, 0] != 0
        activity = means(self.layout.sorted(self.activation))[0].to(heard.device)
        alive = [n for n in range(len(self.channel)) if heard[n]]
        if self.direction is None:
            alive.sort(key=lambda n: -float(activity[self.channel[n]]))  # type: ignore[index]  # a list, as above
        shown = alive[:count]
        silent = len(self.channel) - len(alive)
        words = f"{len(shown)} of {len(self.channel)}, by activation"
        some = replace(
            self,
            waveform=self.waveform[shown],
            raw=self.raw[shown],
            gain=self.gain[shown],
            channel=[self.channel[n] for n in shown],
        )
        return some, words + (f"; {silent} are silent" if silent else "")

    def _tracks(self) -> dict[str, Tensor]:
        """Returns the first example's input and its sonifications, by title."""
        first = self.input if self.input.dim() == 1 else self.input[0]
        tracks = {"input": first}
        for (channel, example), sound in self.sounds().items():
            if example == 0:
                # A picture of all examples would be too long: the first one stands for them.
                title = self.layer if channel is None else f"{self.layer}, channel {channel}"
                tracks[title] = sound
        return tracks

    def _repr_html_(self) -> str | None:
        if self.sample_rate is None:
            return None
        from deconv1d.report.notebook import pair_html

        # Each player holds its whole sound: a notebook with hundreds of them cannot be opened.
        best, shown = self._best(3)
        tracks = dict(list(best._tracks().items())[:4])
        facts = {
            "layer": self.layer,
            "channel": "all at once" if self.channel is None else channels_in_words(self.channel),
            **({"shown": shown} if shown else {}),
            "sample rate": f"{self.sample_rate} Hz",
            "flagged ops": f"{self.flagged:.0%}",
            "difference (map, gradient)": "no" if self.verified is None else str(self.verified),
        }
        return pair_html(
            tracks, self.sample_rate, title=f"Sonification of {self.layer}", facts=facts
        )


def channels_in_words(channel: int | list[int] | None) -> str:
    """Channels in a few words: "channels 0, 1, 2 and 61 more".

    Args:
        channel: As `Sonification.channel`.
    """
    if channel is None:
        return "all channels at once"
    if isinstance(channel, int):
        return f"channel {channel}"
    more = f" and {len(channel) - LISTED} more" if len(channel) > LISTED else ""
    return (
        f"channel{'s' if len(channel) != 1 else ''} {', '.join(map(str, channel[:LISTED]))}{more}"
    )


def needed_rate(sample_rate: int | None, purpose: str) -> int:
    """Returns the sample rate, or raises where it is not known.

    Args:
        sample_rate: In hertz, or None.
        purpose: What it is needed for: "a spectrogram".

    Raises:
        InputError: If it is None.
    """
    if sample_rate is None:
        raise InputError(
            f"There is no sample rate for {purpose}: expected a number in hertz, got None. Give "
            f"it once: Sonifier(model, sample_rate=8000)."
        )
    return sample_rate


def rate_and_channel(sonification: Sonification, *, what: str) -> tuple[int, int]:
    """Returns rate and channel of a sonification of one channel in one clip that is not silent.

    Args:
        sonification: Of one channel.
        what: What they are needed for, in the plural: "controls".

    Raises:
        InputError: If the sample rate is unknown, the sonification is of several clips or channels,
            or it is silent.
    """
    rate = needed_rate(sonification.sample_rate, what)
    channel = sonification.channel
    if channel is None or isinstance(channel, list) or sonification.gain.numel() != 1:
        raise InputError(
            f"{what.capitalize()} are of one channel and one clip: got channel {channel} and a "
            f"waveform of shape {tuple(sonification.input.shape)}. Take them one by one."
        )
    if sonification.gain == 0:
        raise InputError(
            f"Silence has no {what}: expected a sonification of layer {sonification.layer!r}, "
            f"channel {channel}, that can be heard, got a dead map or a silent input. Choose "
            f"another."
        )
    return rate, channel
