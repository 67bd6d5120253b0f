"""A logger for training: it writes the sonifications of one fixed clip as the model learns."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.render import figure_png, plot_spectrograms
from deconv1d.report.sounds import faster, playable
from deconv1d.sonification import Sonification, needed_rate
from deconv1d.sonify import Sonifier


class SonificationLogger:
    """Logs what chosen maps of a model respond to in one clip, as sounds and spectrograms.

    The model may be in the middle of its training: neither it nor the random state changes, so a
    run with a logger ends in the same weights as one without.

    Example:
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> sonifier = Sonifier(model, sample_rate=8000)
        >>> logger = SonificationLogger(
        ...     sonifier, clip, maps={"conv2": 3, "conv8": "most_active"}, writer=SummaryWriter()
        ... )
        >>> logger.log(step)

    Args:
        sonifier: Of the model that trains; it needs its sample rate.
        x: The clip, as for `Sonifier.sonify`; of a batch the first example is logged.
        maps: Channel to log of each layer: a number or "most_active". The second may be another
            channel at every step: the picture's title says which.
        writer: A TensorBoard `SummaryWriter`, or a Weights & Biases run.
        method: As for `Sonifier.sonify`.

    Raises:
        InputError: If the sonifier has no sample rate, or the writer is neither.
    """

    def __init__(
        self,
        sonifier: Sonifier,
        x: Any,
        *,
        maps: Mapping[str, int | str],
        writer: Any,
        method: str = "deconvnet",
    ) -> None:
        rate = needed_rate(sonifier.sample_rate, "sounds in a log")
        if not (hasattr(writer, "add_audio") or hasattr(writer, "log")):
            raise InputError(
                f"Sonifications cannot be logged to a {type(writer).__name__}: expected a "
                f"TensorBoard SummaryWriter or a Weights & Biases run. Give writer=SummaryWriter() "
                f"or writer=wandb.init()."
            )
        # The two writers are told apart by their methods: neither package needs to be installed.
        self._write = _to_tensorboard if hasattr(writer, "add_audio") else _to_wandb
        self._sonifier, self._x, self._maps = sonifier, x, dict(maps)
        self._rate, self._writer, self._method = rate, writer, method

    def log(self, step: int) -> None:
        """Sonifies the clip with the model as it is now, and logs it under `step`.

        Raises:
            InputError, LayerError, ChannelError, PathError: As for `Sonifier.sonify`.
        """
        for layer, channel in self._maps.items():
            # The same clip at every step: a program follows the weights as they are trained.
            sonification = self._sonifier.programs.sonify(
                self._x, layer=layer, channel=channel, method=self._method
            )
            sound = _first(sonification.waveform)
            # A browser plays no low rates: the sound is played faster, which the picture says.
            heard, rate, speed = playable(sound.numpy(), self._rate)
            title = ", ".join(filter(None, [_title(sonification), faster(speed)]))
            sounds = {"input": _first(sonification.input), title: sound}
            picture = figure_png(plot_spectrograms(sounds, self._rate))
            self._write(self._writer, layer, torch.from_numpy(heard), rate, picture, step)


def _first(sounds: Tensor) -> Tensor:
    """Returns the first example of (time,) or (batch, ..., time), mixed down, on the CPU."""
    first = sounds if sounds.dim() == 1 else sounds[0]
    return first.reshape(-1, first.shape[-1]).mean(0).float().cpu()


def _title(sonification: Sonification) -> str:
    channel = (
        sonification.channel[0] if isinstance(sonification.channel, list) else sonification.channel
    )
    return f"{sonification.layer}, channel {channel}"


def _to_tensorboard(
    writer: Any, layer: str, sound: Tensor, rate: int, picture: bytes, step: int
) -> None:
    # TensorBoard wants samples within [-1, 1]; it scales nothing itself.
    writer.add_audio(f"sonification/{layer}", sound.clamp(-1, 1), step, sample_rate=rate)
    writer.add_image(f"sonification/{layer}", _pixels(picture), step, dataformats="HWC")


def _to_wandb(run: Any, layer: str, sound: Tensor, rate: int, picture: bytes, step: int) -> None:
    import wandb

    samples = sound.clamp(-1, 1).numpy()
    sounds = {f"sonification/{layer}": wandb.Audio(samples, sample_rate=rate)}
    pictures = {f"spectrogram/{layer}": wandb.Image(_pixels(picture))}
    run.log(sounds | pictures, step=step)


def _pixels(picture: bytes) -> Any:
    """Reads PNG bytes as (height, width, 3), 0 to 255."""
    from matplotlib.image import imread

    return (255 * imread(io.BytesIO(picture))[..., :3]).astype(np.uint8)
