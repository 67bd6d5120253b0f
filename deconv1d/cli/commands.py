"""The command `deconv1d`: what `Sonifier` does, from a sound file to sound files."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import deconv1d
from deconv1d.audio import Samples, write_audio, write_whole
from deconv1d.cli import options
from deconv1d.cli.answer import Answer
from deconv1d.cli.demo import demo_options, run_demo
from deconv1d.cli.explore import explore_options, run_explore
from deconv1d.cli.files import (
    MARK,
    check_inputs,
    check_outputs,
    each,
    read_direction,
    read_recording,
)
from deconv1d.cli.mine import mine_clips, mine_options
from deconv1d.cli.models import blaming
from deconv1d.cli.report import report_options, run_report
from deconv1d.cli.shell import as_arguments, for_the_shell, refuse
from deconv1d.cli.sonifiers import as_the_model_takes_it, sonifier_of
from deconv1d.cli.streaming import sonify_in_tiles, streams
from deconv1d.cli.tuning import run_tuning, tuning_options
from deconv1d.errors import Deconv1dError, InputError, SilenceWarning
from deconv1d.progress import bar
from deconv1d.render import plot_spectrograms, save_figure
from deconv1d.report import render_card, render_document
from deconv1d.sonification import Sonification
from deconv1d.sonify import Sonifier

CHANNELS_AT_ONCE = 16
"""So many sounds are made before they are written and the progress bar moves."""
INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended."""
PIPE_CLOSED = 141
"""Exit code of a program whose reader has gone."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; None: those of this process.

    Returns:
        Exit code: 0; 2 after an error of the user's, which one line on stderr explains; 130 after
        Ctrl-C.
    """
    try:
        # Only the answer goes to stdout, so that `--json` can be piped into a program: what the
        # model itself prints is sent to stderr.
        words = as_arguments(sys.argv[1:] if argv is None else argv)
        arguments, unknown = _parser().parse_known_args(words)
        refuse(unknown, arguments.parser)
        check_inputs(arguments)
        check_outputs(arguments)
        with _warnings_in_one_line(), redirect_stdout(sys.stderr):  # a model may print
            answer = arguments.run(arguments)
    # A user's mistake is one line, not a traceback; anything else is a fault of ours and shows all.
    except Deconv1dError as error:
        _say(for_the_shell(str(error)))
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    return print_answer(json.dumps(answer.facts) if arguments.json else answer.text)


def print_answer(text: str) -> int:
    """Prints the answer; returns the exit code."""
    try:
        # A terminal that knows ASCII alone gets the rest as escapes, not an error.
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has read enough, as `head` does; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        _say(f"The answer cannot be printed: {error.strerror}. Send it to a disk that has space.")
        return 2
    return 0


# --- commands ------------------------------------------------------------------------------------


def _layers(arguments: argparse.Namespace) -> Answer:
    # `_opened` also wraps what follows: a model may fail only when it is run.
    with _opened(arguments) as (sonifier, x):
        table = sonifier.layers(x)
    return Answer(str(table), {"layers": [asdict(row) for row in table]})


def _plan(arguments: argparse.Namespace) -> Answer:
    with _opened(arguments) as (sonifier, x):
        table = sonifier.plan(x, arguments.layer, tap=arguments.tap, method=arguments.method)
    return Answer(str(table), {"plan": [asdict(row) for row in table]})


def _sonify(arguments: argparse.Namespace) -> Answer:

    # Before the model runs: an hour of work must not end in one file that was written 500 times.
    _check_names(arguments)
    recordings = list(each(arguments))
    sonifier = sonifier_of(arguments)
    facts: dict[str, Any] = {}
    sounds: list[dict[str, Any]] = []
    for one in recordings:
        one.sample_rate = arguments.sample_rate
        facts = sonify_in_tiles(one, sonifier) if streams(one) else _sonify_one(one, sonifier)
        sounds += [{"recording": one.audio, **sound} for sound in facts["sounds"]]
    text = "\n".join(f"{s['sound']}: {s['title']}" for s in sounds)
    return Answer(text, {**facts, "sounds": sounds})


def _sonify_one(arguments: argparse.Namespace, sonifier: Sonifier) -> dict[str, Any]:
    sounds: list[dict[str, Any]] = []
    options = _asked(arguments)
    with _heard(arguments, sonifier) as x:
        parts = _parts(sonifier, x, arguments)
        with warnings.catch_warnings():
            if len(parts) > 1:  # they are counted below, once for all parts
                warnings.simplefilter("ignore", SilenceWarning)
            for channel in bar(parts, desc="sonify", unit="batches", shown=len(parts) > 1):
                sonification = sonifier.sonify(
                    x,
                    layer=arguments.layer,
                    channel=channel,
                    tap=arguments.tap,
                    seed=arguments.seed,
                    method=arguments.method,
                    low_cut=arguments.low_cut,
                    budget=arguments.budget,
                    rivals=arguments.rivals,
                    **options,
                )
                sounds += _write(sonification, arguments)
    silent = [sound["channel"] for sound in sounds if sound["gain"] == 0]
    if silent and len(parts) > 1:
        warnings.warn(
            f"{len(silent)} of {len(sounds)} sonifications of layer {sonification.layer!r} are "
            f"silent, the first that of channel {silent[0]}.",
            SilenceWarning,
            stacklevel=2,
        )
    names = ("layer", "flagged", "method", "budget")
    shared = {name: getattr(sonification, name) for name in names}
    return {**shared, "sounds": sounds}


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options that are numbers or files on the command line and something else in Python."""
    asked: dict[str, Any] = {"channel_axis": arguments.channel_axis}
    if arguments.direction is not None:
        asked["direction"] = read_direction(arguments.direction)
    if arguments.method == "mask":
        asked["generator"] = torch.Generator().manual_seed(arguments.random_state)
    return asked


def _card(arguments: argparse.Namespace) -> Answer:
    with _opened(arguments) as (sonifier, x):
        other = None if arguments.other is None else _like(x, arguments)
        card = sonifier.control_card(
            x,
            layer=arguments.layer,
            channel=options.one_channel(arguments.channel),
            tap=arguments.tap,
            other=other,
            full=arguments.full,
            quick=arguments.quick,
            draws=arguments.draws,
            progress=True,
        )
    _write_page(arguments.output, card.title, render_card(card, level=1))
    return Answer(str(card), card.to_dict())


def _compare(arguments: argparse.Namespace) -> Answer:
    from deconv1d.compare import METHODS, compare

    methods = arguments.methods or METHODS
    channel = options.one_channel(arguments.channel)
    with _opened(arguments) as (sonifier, x):
        comparison = compare(
            sonifier,
            x,
            arguments.layer,
            channel,
            methods=methods,
            tap=arguments.tap,
            draws=arguments.draws,
            progress=True,
        )
    _write_page(arguments.output, comparison.title, comparison.html(level=1))
    return Answer(str(comparison), comparison.to_dict())


def _benchmark_trust(arguments: argparse.Namespace) -> Answer:
    from deconv1d.evaluation.recordings import read_recordings
    from deconv1d.evaluation.trust import benchmark_trust, facts_of, spread_layers, summary_of
    from deconv1d.templates import rendered

    sonifier = sonifier_of(arguments)
    recordings = read_recordings(arguments.data, arguments.sample_rate)
    with blaming(f"The model on mixtures from {arguments.data!r}", "Give it what it takes."):
        layers = (
            spread_layers(sonifier, arguments.seconds)
            if arguments.layers is None
            else arguments.layers
        )
        table = benchmark_trust(
            sonifier,
            layers,
            recordings,
            count=arguments.count,
            seconds=arguments.seconds,
            progress=True,
        )
    lines = summary_of(table)
    page = {"title": table.title, "lines": lines, "table": table._repr_html_()}
    _write_page(arguments.output, table.title, rendered("trust.html", **page))
    return Answer("\n".join([str(table), *lines]), facts_of(table, sonifier.model))


def _mine(arguments: argparse.Namespace) -> Answer:
    return Answer(*mine_clips(arguments))


# --- from a file to a waveform -------------------------------------------------------------------


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[tuple[Sonifier, Samples]]:
    """Gives the sonifier of the model and the waveform; blames the model for its failures."""
    sonifier = sonifier_of(arguments)
    with _heard(arguments, sonifier) as x:
        yield sonifier, x


@contextmanager
def _heard(arguments: argparse.Namespace, sonifier: Sonifier) -> Iterator[Samples]:
    """Gives the waveform of one recording; blames the model for its failures."""
    channels = read_recording(arguments.audio, arguments.sample_rate)
    with blaming(f"The model on {arguments.audio!r}", "Give it what it takes."):
        yield as_the_model_takes_it(sonifier, channels)


# --- from channels to files ----------------------------------------------------------------------


def _parts(sonifier: Sonifier, x: Samples, arguments: argparse.Namespace) -> list[Any]:
    """Splits the channels asked for: so progress shows, and few sounds are held at once.

    How many of these are carried back at once is decided in `deconv1d.channels`.
    """
    wanted = arguments.channel
    # "all" is turned into numbers here, so that the channels can be split into parts.
    if wanted == "all":
        maps = sonifier.maps(x, layer=arguments.layer, tap=arguments.tap)
        wanted = list(range(maps.shape[1]))
    if not isinstance(wanted, list):
        return [wanted]
    starts = range(0, len(wanted), CHANNELS_AT_ONCE)
    return [wanted[start : start + CHANNELS_AT_ONCE] for start in starts]


def _write(sonification: Sonification, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes each sound, and its picture if one is wanted; returns what was written."""
    channels, sounds = _channels(sonification), sonification.sounds().values()
    given = sonification.input if sonification.input.dim() == 1 else sonification.input[0]
    written = []
    for channel, gain, sound in zip(
        channels, sonification.gain.flatten().tolist(), sounds, strict=True
    ):
        word = _word(channel)
        title, path = f"{sonification.layer}, channel {word}", arguments.output.replace(MARK, word)
        write_audio(path, sound, arguments.sample_rate, subtype=arguments.subtype)
        written.append({"channel": channel, "title": title, "gain": gain, "sound": path})
        if arguments.spectrogram is not None:
            picture = arguments.spectrogram.replace(MARK, word)
            tracks = {"input": given, title: sound}
            figure = plot_spectrograms(tracks, arguments.sample_rate, dark=arguments.dark)
            save_figure(figure, picture)
            written[-1]["spectrogram"] = picture
    return written


def _channels(sonification: Sonification) -> list[Any]:
    """Lists what each sound is of: a channel, None (all at once) or one for each example."""
    # "most_active": one number for each example; a file has several examples only if it has frames.
    channel = sonification.channel
    return channel if sonification.several and isinstance(channel, list) else [channel]


def _like(x: Samples, arguments: argparse.Namespace) -> Samples:
    """Reads the other recording, cut or padded with zeros to the length of the first."""
    other = read_recording(arguments.other, arguments.sample_rate, mono=x.ndim == 1)
    fitted = np.zeros_like(x)
    # The control needs a waveform of the same shape, whatever the recordings' lengths.
    samples = min(x.shape[-1], other.shape[-1])
    fitted[..., :samples] = other[..., :samples]
    return fitted


def _write_page(name: str | None, title: str, part: str) -> None:
    if name is not None:
        write_whole(name, render_document(title, part).encode("utf-8", "replace"))


def _word(channel: int | list[int] | None) -> str:
    """Writes a channel for titles and file names."""
    if isinstance(channel, list):
        return "most_active"
    return "all" if channel is None else str(channel)


def _check_names(arguments: argparse.Namespace) -> None:
    """Raises InputError if several channels would be written to one file."""
    wanted = arguments.channel
    if wanted == "all" or (isinstance(wanted, list) and len(wanted) > 1):
        for name in (arguments.output, arguments.spectrogram):
            if name is not None and MARK not in name:
                raise InputError(
                    f"{name!r} is one name for several channels: expected {MARK} in it, got none. "
                    f"Give one such as {Path(name).stem}-{MARK}{Path(name).suffix}."
                )


# --- the command line ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One command: what it does, its options, and the function that does it."""

    about: str
    options: tuple[Callable[[argparse.ArgumentParser], None], ...]
    run: Callable[[argparse.Namespace], Answer]


COMMANDS = {
    "layers": Command("list the layers that can be sonified", (options.model_options,), _layers),
    "plan": Command(
        "list each op between a layer and the waveform",
        (options.model_options, options.layer_options, options.method_options),
        _plan,
    ),
    "sonify": Command(
        "write what a layer's maps respond to as sound",
        (
            options.models_options,
            options.layer_options,
            options.listening_options,
            options.sound_options,
        ),
        _sonify,
    ),
    "card": Command(
        "say how far to trust a sonification, by its controls",
        (
            options.model_options,
            options.layer_options,
            options.judging_options,
            options.card_options,
        ),
        _card,
    ),
    "compare": Command(
        "set methods of ours and Captum's side by side",
        (
            options.model_options,
            options.layer_options,
            options.judging_options,
            options.compare_options,
        ),
        _compare,
    ),
    "benchmark-trust": Command(
        "put explanations and controls to a test with a known answer",
        (options.trust_options,),
        _benchmark_trust,
    ),
    "tuning": Command(
        "say what a layer's channels are tuned to",
        (options.model_alone, options.layer_options, tuning_options),
        run_tuning,
    ),
    "explore": Command(
        "serve a live page to drop clips on", (options.model_alone, explore_options), run_explore
    ),
    "report": Command(
        "write a page to listen on, from what was mined", (report_options,), run_report
    ),
    "mine": Command("find the clips that each channel responds to most", (mine_options,), _mine),
    "demo": Command(
        "write a page to listen on, of your model or of two that ship",
        (demo_options,),
        run_demo,
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(prog="deconv1d", description=deconv1d.__doc__)
    parser.add_argument("--version", action="version", version=deconv1d.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.about, description=command.about)
        for add_options in command.options:
            add_options(subparser)
        subparser.add_argument("--json", action="store_true", help="answer in one line of JSON")
        subparser.set_defaults(run=command.run, command=name, parser=subparser)
    _complete(parser)
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell if it asks for completions, and argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ:
        try:
            import argcomplete
        except ImportError:
            return
        argcomplete.autocomplete(parser)


# --- lines on stderr -----------------------------------------------------------------------------


def _say(message: object) -> None:
    """Prints one line to stderr, above a progress bar if there is one."""
    from tqdm import tqdm

    line = f"deconv1d: {' '.join(str(message).split())}"
    encoding = sys.stderr.encoding or "utf-8"
    tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_where: Any, **_more: Any) -> None:
        _say(message)

    # Python would print the line of our code that warns, which says nothing to the user.
    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
