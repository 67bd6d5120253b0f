"""The sonifier that a command line names: a factory, weights, a sample rate, a device."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deconv1d.cli.models import find_factory, load_model
from deconv1d.errors import InputError

if TYPE_CHECKING:
    from deconv1d.audio import Samples
    from deconv1d.sonify import Sonifier


def sonifier_of(arguments: argparse.Namespace) -> Sonifier:
    """The sonifier of the model that a command names; the arguments get its sample rate.

    Args:
        arguments: As `deconv1d.cli.options.model_alone` reads them.

    Raises:
        InputError, ModelError, FileError: As for `load_sonifier`.
    """
    sonifier = load_sonifier(
        arguments.model,
        arguments.weights,
        arguments.sample_rate,
        arguments.device,
        key=arguments.key,
    )
    arguments.sample_rate = sonifier.sample_rate
    return sonifier


def load_sonifier(
    factory: str,
    weights: str | None,
    rate: int | None,
    device: str = "cpu",
    *,
    key: str | None = None,
) -> Sonifier:
    """The sonifier of a model from the command line; a worker calls it where it runs.

    Args:
        factory: As for `load_model`; or a class of transformers, if the weights are a folder.
        weights: As for `load_model`; or a folder of Hugging Face.
        rate: In hertz; None: what the folder says.
        device: By torch's name.
        key: As for `load_model`.

    Raises:
        InputError: If the rate is not known or another than the folder's, or there is no such
            device.
        ModelError, FileError: As for `load_model`.
    """
    from deconv1d.sonify import Sonifier

    in_folder = weights is not None and Path(weights).is_dir()
    make = find_factory(factory) if in_folder else None
    if weights is not None and hasattr(make, "from_pretrained"):
        if key is not None:
            raise InputError(
                f"--key {key} does not fit the folder {weights!r}: expected a checkpoint in one "
                f"file, got a model of Hugging Face. Leave it out."
            )
        sonifier = Sonifier.from_huggingface(weights, model_class=make)
        print(f"deconv1d: {sonifier.about}", file=sys.stderr)
        if None not in (rate, sonifier.sample_rate) and rate != sonifier.sample_rate:
            raise InputError(
                f"--sample-rate {rate} does not fit the model in {weights!r}: expected its "
                f"processor's, {sonifier.sample_rate} Hz, got {rate}. Leave it out."
            )
        sonifier.sample_rate = sonifier.sample_rate or rate
    else:
        sonifier = Sonifier(load_model(factory, weights, key=key), sample_rate=rate)
    if sonifier.sample_rate is None:
        raise InputError(
            "--sample-rate is missing: expected what the model was trained at, in hertz, got none. "
            "Give for example --sample-rate 16000; at a wrong rate every answer is wrong."
        )
    try:
        sonifier.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The model cannot be moved to {device!r}: expected a device of this machine. "
            f"torch says: {str(error).rstrip('.')}. Give --device cpu."
        ) from error
    return sonifier


def as_the_model_takes_it(sonifier: Sonifier, channels: Samples) -> Samples:
    """The mean of a recording's channels, or (1, channels, time) if the model needs all.

    Args:
        sonifier: Of the model.
        channels: (channels, time).
    """
    mixed: Samples = channels.mean(0)
    # Most models take one audio channel. A stereo model fails on (1, 1, time), so both are tried.
    several = len(channels) > 1 and not _runs(sonifier, mixed) and _runs(sonifier, channels[None])
    return channels[None] if several else mixed


def _runs(sonifier: Sonifier, x: Samples) -> bool:
    try:
        sonifier.layers(x)
    except Exception:
        return False
    return True
