"""The demo: a page on what layers respond to, of two networks that ship or of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from deconv1d.audio import read_audio
from deconv1d.cli.answer import Answer
from deconv1d.cli.files import STDIN, read_recording, recordings
from deconv1d.cli.models import blaming
from deconv1d.cli.options import channel_of, model_alone, names_of, one_channel
from deconv1d.cli.sonifiers import as_the_model_takes_it, sonifier_of
from deconv1d.errors import InputError
from deconv1d.report.listening import Shown, Subject, write_listening_page
from deconv1d.sonify import Sonifier

if TYPE_CHECKING:
    from reference_models.clips import SpokenWord

Regime = Literal["supervised", "contrastive"]
WORDS = ("marvin", "seven", "happy")
REGIMES: tuple[Regime, ...] = ("supervised", "contrastive")
SAMPLE_RATE = 8000

TITLE = "What a network hears in a word"
SUMMARY = (
    "CNN12 reads raw waveforms; these two, an eighth as wide as the paper’s, were trained in "
    "different ways. The supervised one learned to tell 35 spoken English words apart, from "
    "synthetic speech. The contrastive one learned from recordings of Arabic words, without their "
    "labels, to tell which two excerpts are of one recording. For each of their convolutions this "
    "page takes the one map, or channel, that is most active on a recording and carries it back to "
    "the waveform: its sonification is what reaches that map. The residual is the input without "
    "the sonification."
)
OWN_SUMMARY = (
    "For each layer of the network {model} this page takes one map, or channel, {channel}, and "
    "carries it back to the waveform: its sonification is what of the recording reaches that map. "
    "The residual is the input without the sonification. Layers stand from low to high."
)
MASKED = (
    "There are two ways to listen here. The sonification is the paper’s deconvnet: it is made from "
    "the map, and need not be in the recording. Masked is the recording itself, heard through the "
    "cells of its spectrogram that keep this channel active and its rivals less so. Beside each "
    "layer stands the channel’s place among all of its layer when the network hears the one or "
    "the other."
)
POINTING = (
    "In a test with a known answer, mixtures of two recordings, the masked recording lies mostly "
    "where the one is that drives the channel; in these networks’ middle and late layers the "
    "deconvnet’s sonification does so hardly more than that of a network with shuffled weights."
)
LISTENING = (
    "The hop is the time from one value of the map to the next; each value reads the given "
    "stretch of the recording. The differences are those of the recorded forward pass from the "
    "plain model’s, and of the gradient from autograd’s, as shares of their peaks. Every "
    "sonification is scaled to its input’s peak, and the files have half that level, so that no "
    "residual is clipped; the player makes the sounds of a layer equally loud until you tell it "
    "not to. Pictures show frequency (mel) upwards over the waveform, in decibels re the loudest "
    "point of the recording."
)
CAUTION = (
    "A sonification that resembles its input need not say much about its channel: compare channels "
    "and layers before you conclude, and make a control card of what you want to rely on "
    "(deconv1d card)."
)
SPOKEN = (
    "The words are synthetic speech (eSpeak NG), in voices that neither network was trained on."
)


def demo_options(parser: argparse.ArgumentParser) -> None:
    """Adds one's own recordings and model, and where the page goes."""
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        nargs="*",
        help="your recordings, with --model; without any: three spoken words that ship",
    )
    model_alone(parser, required=False)
    parser.add_argument(
        "--layers",
        type=names_of,
        metavar="LIST",
        help="of your model, such as conv5,conv9 (default: up to 12, from low to high)",
    )
    parser.add_argument(
        "--channel", type=channel_of, default="most_active", help="number, or most_active (default)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="without masks, which take most of the time"
    )
    parser.add_argument(
        "-o", "--output", default="deconv1d-demo", metavar="FOLDER", help="default: %(default)s"
    )


def run_demo(arguments: argparse.Namespace) -> Answer:
    """Writes the page.

    Args:
        arguments: As `demo_options` reads them.

    Raises:
        InputError: If recordings are given without a model, or a model without recordings.
        Deconv1dError: As the model on the recordings.
    """
    if bool(arguments.audio) != (arguments.model is not None):
        missing = "recordings" if arguments.model else "--model"
        raise InputError(
            f"A page on a model of yours needs the model and recordings: expected both, got no "
            f"{missing}. Give for example deconv1d demo --model mine.py:factory recording.wav."
        )
    page = (
        _own(arguments) if arguments.audio else write_demo(arguments.output, quick=arguments.quick)
    )
    return Answer(f"Open {page} in a browser.", {"page": str(page)})


def write_demo(folder: str | Path, *, quick: bool = False) -> Path:
    """Writes a page about the networks that ship with the package, and its sounds and pictures.

    Args:
        folder: Where; an older demo there is replaced.
        quick: Whether to leave out the masks.

    Returns:
        The page.

    Raises:
        FileError: If the folder cannot be written or holds something else.
    """
    from reference_models.clips import spoken_words
    from reference_models.cnn12 import demo

    # One sonifier for each network: what is verified of a layer once holds for all three words.
    networks = {r: Sonifier(demo(regime=r), sample_rate=SAMPLE_RATE) for r in REGIMES}
    spoken = [spoken for spoken in spoken_words() if spoken.word in WORDS]
    subjects = [_word(networks[r], r, word) for word in spoken for r in REGIMES]
    # The page explains masks only where it has some.
    masks = () if quick else (MASKED, POINTING)
    paragraphs = (SUMMARY, *masks, LISTENING, CAUTION, SPOKEN)
    return write_listening_page(folder, TITLE, paragraphs, subjects, Shown(masks=not quick))


def _word(sonifier: Sonifier, regime: Regime, spoken: SpokenWord) -> Subject:
    waveform = torch.from_numpy(read_audio(spoken.path, SAMPLE_RATE)[0])
    # The contrastive encoder has no classes, so it has nothing to say of a word.
    known = _recognised(sonifier, waveform) if regime == "supervised" else "It knows no words."
    return Subject(
        title=f"{spoken.word}, {regime}",
        about=f"Voice {spoken.voice}. {known}",
        folder=f"{spoken.word}-{regime}",
        sonifier=sonifier,
        waveform=waveform,
    )


def _recognised(sonifier: Sonifier, waveform: Tensor) -> str:
    from reference_models.data.layouts import WORDS as classes

    with torch.inference_mode():
        probabilities = sonifier.model(waveform[None, None]).softmax(-1)[0]
    best = int(probabilities.argmax())
    return f"The network takes it for “{classes[best]}” ({probabilities[best]:.0%})."


# --- a model of one's own ------------------------------------------------------------------------


def _own(arguments: argparse.Namespace) -> Path:
    """Writes the page about the user's model and recordings."""
    names = recordings(arguments.audio)
    sonifier = sonifier_of(arguments)
    channel = one_channel(arguments.channel)
    model, masks = arguments.model.rpartition(":")[2], not arguments.quick
    about = "the most active on a recording" if channel == "most_active" else f"number {channel}"
    paragraphs = (
        OWN_SUMMARY.format(model=model, channel=about),
        *((MASKED,) if masks else ()),
        LISTENING,
        CAUTION,
    )
    # What is raised below comes from the user's model on these recordings, not from the command.
    with blaming(f"The model on {', '.join(map(repr, names[:3]))}", "Give it what it takes."):
        return write_listening_page(
            arguments.output,
            f"What {model} hears",
            paragraphs,
            [_recorded(sonifier, name, f"recording-{n + 1}") for n, name in enumerate(names)],
            Shown(layers=arguments.layers, channel=channel, masks=masks),
        )


def _recorded(sonifier: Sonifier, name: str, folder: str) -> Subject:
    # The folder has a number, not the recording's name: two folders may hold files of one name.
    rate = sonifier.sample_rate
    waveform = as_the_model_takes_it(sonifier, read_recording(name, rate))
    channels = 1 if waveform.ndim == 1 else waveform.shape[-2]
    heard = f"{waveform.shape[-1] / (rate or 1):.3g} s at {rate} Hz"
    several = f"; {channels} channels, of which the page plays the mean" if channels > 1 else ""
    title = "the standard input" if name == STDIN else Path(name).name
    return Subject(
        title=title,
        about=f"{heard}{several}.",
        folder=folder,
        sonifier=sonifier,
        waveform=torch.from_numpy(waveform),
    )
