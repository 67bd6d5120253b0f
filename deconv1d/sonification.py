"""What comes out: one layer's maps as sound, with what is needed to judge, plot and save them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.layers.axes import Layout


@dataclass(frozen=True)
class Sonification:
    """What one layer's map (or several) responds to, as sound.

    With several channels asked for, `waveform`, `raw` and `residual` have a leading axis for them.
    All tensors are on the input's device and in its dtype.

    Attributes:
        waveform: The sonification: `raw` scaled to the input's peak, per example; input's shape.
        raw: The deconvnet's output; with `contrast`, its part that is the channel's own.
        input: The waveform that was given.
        activation: The whole map at the tap.
        gain: What `raw` was multiplied by, (batch,) or (channels, batch); 0 where it is silent.
        layer: The layer's full name.
        channel: Channel number, list of them, tensor (one per example, for "most_active") or None.
        sample_rate: In hertz, if known.
        flagged: Share of ops on the way back for which only a gradient is known, 0 to 1.
        tap: Where the map was taken, as `Sonifier.sonify` was told.
        layout: Which axes of the map count examples and channels.
        contrast: What `raw` was contrasted with, as `Sonifier.sonify` was told; None: nothing.

    Source: paper, section 3.2 and figure B.2.
    """

    waveform: Tensor
    raw: Tensor
    input: Tensor
    activation: Tensor
    gain: Tensor
    layer: str
    channel: int | list[int] | Tensor | None
    sample_rate: int | None
    flagged: float
    layout: Layout
    tap: str = "block"
    contrast: str | None = None

    @property
    def residual(self) -> Tensor:
        """The input without the sonification (paper, section 4.1)."""
        return self.input - self.waveform

    def coherence(self, *, top_k: int = 5) -> Tensor:
        """Mean coherence of the `top_k` most coherent frequencies of input and sonification.

        Args:
            top_k: How many of the frequencies to average.

        Returns:
            Between 0 and 1, of the shape of `gain`; of several audio channels the mean.

        Raises:
            InputError: As for `deconv1d.measure.mean_top_coherence`.

        Source: paper, section 4.2.1, equation 3.
        """
        from deconv1d.measure import mean_top_coherence

        values = mean_top_coherence(self.input, self.waveform, top_k=top_k)
        return values.reshape(*self.gain.shape, -1).mean(-1)

    def _rate(self, purpose: str) -> int:
        if self.sample_rate is None:
            raise InputError(
                f"{purpose} needs a sample rate: expected a number in hertz, got None. "
                f"Give it once: Sonifier(model, sample_rate=8000)."
            )
        return self.sample_rate

    def sounds(self) -> dict[tuple[int | None, int], Tensor]:
        """Each sound alone, (time,) or (channels, time), by (map's channel, example).

        The channel is None where all maps sound at once.
        """
        several = isinstance(self.channel, list)
        groups = self.waveform if several else self.waveform[None]
        asked = self.channel if isinstance(self.channel, list) else [self.channel]
        found: dict[tuple[int | None, int], Tensor] = {}
        for channel, group in zip(asked, groups, strict=True):
            examples = group[None] if self.input.dim() == 1 else group
            for number, sound in enumerate(examples):
                own = int(channel[number]) if isinstance(channel, Tensor) else channel
                found[own, number] = sound.squeeze(0) if sound.dim() > 1 else sound
        return found

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

        rate, sounds = self._rate("Writing a sound file"), self.sounds()
        try:
            paths = [Path(str(path).format(channel=c, example=e)) for c, e in sounds]
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"The path {str(path)!r} cannot be filled in ({error}): expected {{channel}} and "
                f"{{example}} as its only names in braces. Write other braces twice."
            ) from error
        if len(set(paths)) < len(paths):
            raise InputError(
                f"{len(paths)} sounds cannot go into {len(set(paths))} file(s) at {str(path)!r}: "
                f"expected a name for each. Put {{channel}} or {{example}} into the path."
            )
        for target, sound in zip(paths, sounds.values(), strict=True):
            write_audio(target, sound, rate, **options)
        return paths

    def plot(self, *, dark: bool = False) -> Any:
        """A Matplotlib figure of the input's and the sonification's spectrograms.

        Raises:
            InputError: If the sample rate is unknown.
        """
        from deconv1d.render import plot_spectrograms

        return plot_spectrograms(self._tracks(), self._rate("A spectrogram"), dark=dark)

    def _tracks(self) -> dict[str, Tensor]:
        """The first example's input and its sonifications, by title."""
        first = self.input if self.input.dim() == 1 else self.input[0]
        tracks = {"input": first}
        for (channel, example), sound in self.sounds().items():
            if example == 0:
                title = self.layer if channel is None else f"{self.layer}, channel {channel}"
                tracks[title] = sound
        return tracks

    def _repr_html_(self) -> str | None:
        if self.sample_rate is None:
            return None
        from deconv1d.render import pair_html

        tracks = dict(list(self._tracks().items())[:4])
        facts = {
            "layer": self.layer,
            "channel": "all at once" if self.channel is None else self.channel,
            "sample rate": f"{self.sample_rate} Hz",
            "flagged ops": f"{self.flagged:.0%}",
            "contrasted with": "nothing" if self.contrast is None else f"other {self.contrast}",
        }
        return pair_html(
            tracks, self.sample_rate, title=f"Sonification of {self.layer}", facts=facts
        )


def rate_and_channel(found: Sonification, *, what: str) -> tuple[int, int]:
    """Sample rate and channel of a sonification of one channel in one clip that can be heard.

    Args:
        found: The sonification.
        what: What they are needed for, in the plural: "controls".

    Raises:
        InputError: If the sample rate is unknown, the sonification is of several clips or channels,
            or it is silent.
    """
    if found.sample_rate is None:
        raise InputError(
            f"{what.capitalize()} need a sample rate: expected a number in hertz, got None. Give "
            f"it once: Sonifier(model, sample_rate=8000)."
        )
    channel = found.channel
    if channel is None or isinstance(channel, list) or found.gain.numel() != 1:
        raise InputError(
            f"{what.capitalize()} are of one channel and one clip: got channel {channel} and a "
            f"waveform of shape {tuple(found.input.shape)}. Take them one by one."
        )
    if found.gain == 0:
        raise InputError(
            f"Silence has no {what}: expected a sonification of layer {found.layer!r}, channel "
            f"{int(channel)}, that can be heard, got a dead map or a silent input. Choose another."
        )
    return found.sample_rate, int(channel)
