"""`deconv1d report`: a page to listen on, from what `deconv1d mine` found."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from deconv1d.cli.answer import Answer
from deconv1d.cli.models import blaming
from deconv1d.cli.options import model_alone
from deconv1d.cli.sonifiers import sonifier_of
from deconv1d.errors import InputError
from deconv1d.progress import bar

if TYPE_CHECKING:
    from deconv1d.evaluation.tuning import Tuning


def report_options(parser: argparse.ArgumentParser) -> None:
    """Adds what was mined, the model for tuning curves, and where the page goes."""
    parser.add_argument("mined", metavar="MINED", help="folder that `deconv1d mine` wrote")
    parser.add_argument(
        "other", metavar="OTHER", nargs="?", help="another one, of another model, to show beside it"
    )
    given = parser.add_argument_group("tuning curves of all channels, from the mined model")
    model_alone(given, required=False)
    given.add_argument("--other-model", metavar="FACTORY", help="the model of OTHER")
    given.add_argument("--other-weights", metavar="FILE", help="its weights")
    parser.add_argument(
        "--most",
        type=int,
        metavar="N",
        help="only the N channels of each layer that respond most (default: all)",
    )
    parser.add_argument(
        "-o",
        "--output",
        default="deconv1d-report",
        metavar="FOLDER",
        help="folder to write, which opens from disk (default: %(default)s)",
    )


def run_report(arguments: argparse.Namespace) -> Answer:
    """Writes the report.

    Args:
        arguments: As `report_options` reads them.
    """
    from deconv1d.report.mined_report import write_report

    page = write_report(
        arguments.mined,
        arguments.other,
        folder=arguments.output,
        tuning=_tuning(arguments.mined, arguments),
        other_tuning=_other_tuning(arguments),
        most=arguments.most,
        progress=True,
    )
    return Answer(f"Open {page} in a browser.", {"page": str(page)})


def _other_tuning(arguments: argparse.Namespace) -> dict[str, Tuning] | None:
    if arguments.other_model is not None and arguments.other is None:
        raise InputError(
            "There is nothing that --other-model is the model of: expected a second folder, got "
            "one. Give deconv1d report MINED OTHER, or --model."
        )
    of_other = {"model": arguments.other_model, "weights": arguments.other_weights, "key": None}
    return _tuning(arguments.other, argparse.Namespace(**vars(arguments) | of_other))


def _tuning(mined: str, arguments: argparse.Namespace) -> dict[str, Tuning] | None:
    """Tuning curves of the mined layers, if a model is given."""
    from deconv1d.report.mined_folder import read_mined_folder

    if arguments.model is None:
        return None
    source = read_mined_folder(mined)
    arguments.sample_rate = arguments.sample_rate or source.sample_rate
    sonifier = sonifier_of(arguments)
    layers = bar([layer.name for layer in source.layers], desc="tuning", unit="layers")
    with blaming(f"The model {arguments.model!r} on tones", "Give the model that was mined."):
        return {name: sonifier.tuning(name) for name in layers}
