"""`deconv1d explore`: a live page to drop clips on."""

from __future__ import annotations

import argparse

from deconv1d.cli.answer import Answer
from deconv1d.cli.sonifiers import sonifier_of


def explore_options(parser: argparse.ArgumentParser) -> None:
    """Adds a clip to begin with, and where the page is served."""
    parser.add_argument("--audio", metavar="AUDIO", help="sound file to begin with")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen (default: this machine alone); 0.0.0.0 lets other machines in",
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")


def run_explore(arguments: argparse.Namespace) -> Answer:
    """Serves the live page until Ctrl-C.

    Args:
        arguments: As `explore_options` and the options of the model read them.
    """
    from deconv1d.explore import Studio, serve

    studio = Studio(sonifier_of(arguments))
    start = None if arguments.audio is None else studio.take_file(arguments.audio)
    serve(studio, host=arguments.host, port=arguments.port, start=start)
    return Answer("The live page has ended.", {})
