"""`deconv1d tuning`: what channels are tuned to, as a table and a figure."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from deconv1d.audio import write_whole
from deconv1d.cli.answer import Answer
from deconv1d.cli.models import blaming
from deconv1d.cli.options import names_of
from deconv1d.cli.sonifiers import sonifier_of
from deconv1d.errors import InputError
from deconv1d.evaluation.tuning import STIMULI
from deconv1d.render import save_figure

LEVELS = "-40,-30,-20,-10,0"


def tuning_options(parser: argparse.ArgumentParser) -> None:
    """Adds the channels, what they are played, and files to write."""
    parser.add_argument(
        "--channel", default="all", help="number, list such as 0,3,17, or all (the default)"
    )
    parser.add_argument(
        "--stimuli",
        choices=STIMULI,
        default="tones",
        help="pure tones (the default), or noise: bands of a third of an octave",
    )
    parser.add_argument(
        "--levels",
        default=LEVELS,
        metavar="LIST",
        help="in decibels re a full-scale sine (default: %(default)s)",
    )
    parser.add_argument(
        "--per-octave", type=int, default=4, metavar="N", help="frequencies (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="of each (default: %(default)s)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="table to write, .csv")
    parser.add_argument(
        "--figure", metavar="FILE", help="curves of the first channel, such as .png or .svg"
    )


def run_tuning(arguments: argparse.Namespace) -> Answer:
    """Measures the tuning curves.

    Args:
        arguments: As `tuning_options` and the options of model and layer read them.
    """
    sonifier = sonifier_of(arguments)
    levels = _numbers("--levels", arguments.levels, "-20,0")
    with blaming("The model on tones", "Give more --seconds, or a model that takes one clip."):
        found = sonifier.tuning(
            arguments.layer,
            channel=_channels(arguments.channel),
            tap=arguments.tap,
            stimuli=arguments.stimuli,
            levels=levels,
            per_octave=arguments.per_octave,
            seconds=arguments.seconds,
        )
    if arguments.output is not None:
        write_whole(arguments.output, found.csv().encode())
    if arguments.figure is not None:
        save_figure(found.plot(), arguments.figure)
    return Answer(str(found), {"layer": found.layer, "tuning": [asdict(row) for row in found.rows]})


def _channels(text: str) -> list[int] | str:
    if text == "all":
        return text
    return [int(number) for number in _numbers("--channel", text, "0,3,17")]


def _numbers(option: str, text: str, example: str) -> list[float]:
    try:
        return [float(part) for part in names_of(text)]
    except (ValueError, argparse.ArgumentTypeError):
        raise InputError(
            f"{option} {text!r} cannot be read: expected numbers with commas between, got "
            f"something else. Give for example {option}={example}."
        ) from None
