"""`deconv1d report`: a page to listen on, from what `deconv1d mine` found."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from deconv1d.cli.answer import Answer
from deconv1d.cli.models import blaming, load_model
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
    parser.add_argument(
        "--model",
        metavar="FACTORY",
        help="the mined model, as for `deconv1d mine`: adds tuning curves of all channels",
    )
    parser.add_argument("--weights", metavar="FILE", help="its state dict")
    parser.add_argument("--other-model", metavar="FACTORY", help="the same for OTHER")
    parser.add_argument("--other-weights", metavar="FILE", help="the same for OTHER")
    parser.add_argument(
        "--sample-rate", type=int, metavar="HZ", help="what the model was trained at"
    )
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
        tuning=_tuning(arguments.mined, arguments.model, arguments.weights, arguments.sample_rate),
        other_tuning=_other_tuning(arguments),
        most=arguments.most,
        progress=True,
    )
    return Answer(f"Open {page} in a browser.", {"page": str(page)})


def _other_tuning(arguments: argparse.Namespace) -> dict[str, Tuning] | None:
    model, weights = arguments.other_model, arguments.other_weights
    if model is not None and arguments.other is None:
        raise InputError(
            "There is nothing that --other-model is the model of: expected a second folder, got "
            "one. Give deconv1d report MINED OTHER, or --model."
        )
    return _tuning(arguments.other, model, weights, arguments.sample_rate)


def _tuning(
    mined: str, model: str | None, weights: str | None, sample_rate: int | None
) -> dict[str, Tuning] | None:
    """Tuning curves of the mined layers, if a model is given."""
    from deconv1d.report.mined_folder import read_mined_folder
    from deconv1d.sonify import Sonifier

    if model is None:
        return None
    source = read_mined_folder(mined)
    rate = sample_rate or source.sample_rate
    if rate is None:
        raise InputError(
            "Tuning curves need a sample rate: expected one in hertz, got none, and the mined "
            "folder has none. Give --sample-rate 8000."
        )
    sonifier = Sonifier(load_model(model, weights), sample_rate=rate)
    layers = bar([layer.name for layer in source.layers], desc="tuning", unit="layers")
    with blaming(f"The model {model!r} on tones", "Give the model that was mined."):
        return {name: sonifier.tuning(name) for name in layers}
