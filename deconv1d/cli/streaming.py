"""`deconv1d sonify --stream`: recordings that do not fit into memory, in tiles."""

from __future__ import annotations

import argparse
import os
from typing import Any

from deconv1d.cli.files import MARK
from deconv1d.cli.models import blaming
from deconv1d.errors import InputError
from deconv1d.sonify import Sonifier

STREAMED_SECONDS = 600.0
"""Longer recordings are sonified in tiles without being asked, where the options allow it."""


def streams(arguments: argparse.Namespace) -> bool:
    """Whether the recording is to be sonified in tiles.

    Args:
        arguments: Of `deconv1d sonify`.

    Raises:
        InputError: If it is asked for with an option that needs the whole recording.
    """
    needs = [name for name, asked in _whole(arguments).items() if asked]
    if arguments.stream and needs:
        raise InputError(
            f"--stream cannot be used with {', '.join(needs)}: expected numbers of channels and "
            f"the plain sound, since these options need the whole recording. Leave one out."
        )
    return arguments.stream or (not needs and _seconds(arguments.audio) > STREAMED_SECONDS)


def _whole(arguments: argparse.Namespace) -> dict[str, bool]:
    """The options for which the whole recording must be in memory, and whether they are asked."""
    channel = arguments.channel
    return {
        f"--channel {channel or 'none'}": not isinstance(channel, list),
        f"--seed {arguments.seed}": arguments.seed != "activation",
        "--method mask": arguments.method == "mask",
        "--low-cut": arguments.low_cut is not None,
        "--spectrogram": arguments.spectrogram is not None,
        "--subtype": arguments.subtype is not None,
        "--direction": arguments.direction is not None,
        "--channel-axis": arguments.channel_axis is not None,
        "the standard input": arguments.audio == "-",
    }


def _seconds(path: str) -> float:
    import soundfile

    if not os.path.isfile(path):  # a pipe can be read once
        return 0.0
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError):
        return 0.0  # reading it will say what is wrong


def sonify_in_tiles(arguments: argparse.Namespace, sonifier: Sonifier) -> dict[str, Any]:
    """Writes each channel's sound; returns what was written.

    Args:
        arguments: Of `deconv1d sonify`, for one recording.
        sonifier: Of its model.

    Raises:
        Deconv1dError: As `Sonifier.stream`.
    """
    sounds = []
    with blaming(f"The model on {arguments.audio!r}", "Give it what it takes."):
        for channel in arguments.channel:
            streamed = sonifier.stream(
                arguments.audio,
                out=arguments.output.replace(MARK, str(channel)),
                layer=arguments.layer,
                channel=channel,
                tap=arguments.tap,
                method=arguments.method,
                progress=True,
            )
            title = f"{arguments.layer}, channel {channel}"
            sounds.append(
                {
                    "channel": channel,
                    "title": title,
                    "gain": streamed.gain,
                    "sound": streamed.path,
                }
            )
    return {"layer": arguments.layer, "method": arguments.method, "sounds": sounds}
