"""The options of the command `deconv1d`, in the groups that its commands share."""

from __future__ import annotations

import argparse
from typing import NoReturn

from deconv1d.cli.files import MARK, NAME
from deconv1d.errors import InputError
from deconv1d.forward import TAPS
from deconv1d.masks.options import BUDGET, LISTENING, RIVALS
from deconv1d.rules.table import METHODS
from deconv1d.seeds import SEEDS


class Parser(argparse.ArgumentParser):
    """Raises its errors, which then end in one line as all others do."""

    # argparse exits by itself; `main` must see the error to end all errors in the same way.
    def error(self, message: str) -> NoReturn:
        """Raises the message of argparse."""
        raise InputError(f"{message}. See {self.prog} --help.")


def model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the recording and the model."""
    parser.add_argument(
        "audio", metavar="AUDIO", help="sound file of any kind libsndfile reads; - for a pipe"
    )
    model_alone(parser)


def models_options(parser: argparse.ArgumentParser) -> None:
    """Adds recordings and the model."""
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        nargs="+",
        help="sound files, folders of them, or names with wildcards; - for a pipe",
    )
    model_alone(parser)


def model_alone(parser: argparse._ActionsContainer, *, required: bool = True) -> None:
    """Adds the model, without a recording."""
    parser.add_argument(
        "--model",
        required=required,
        metavar="FACTORY",
        help="package.module:function or path.py:function that makes the model",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="its state dict or a trainer's checkpoint, .safetensors or what torch.save wrote; or, "
        "for a class of transformers, the folder of a model",
    )
    parser.add_argument(
        "--key", metavar="NAME", help="where in the checkpoint the state dict is (default: found)"
    )
    parser.add_argument(
        "--sample-rate",
        type=int,
        metavar="HZ",
        help="what the model was trained at, needed unless the model's folder says it; recordings "
        "are resampled to it",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="such as cuda (default: %(default)s)"
    )


def layer_options(parser: argparse.ArgumentParser) -> None:
    """Adds the layer, and where its map is taken."""
    parser.add_argument(
        "--layer", required=True, help="a name that `deconv1d layers` lists, or its unique ending"
    )
    parser.add_argument(
        "--tap", choices=TAPS, default="block", help="take the layer's map where its block ends"
    )


def method_options(parser: argparse.ArgumentParser) -> None:
    """Adds how a map is carried back."""
    parser.add_argument("--method", choices=METHODS, default="deconvnet")


def listening_options(parser: argparse.ArgumentParser) -> None:
    """How a layer is listened to."""
    parser.add_argument(
        "--method",
        choices=LISTENING,
        default="deconvnet",
        help="mask: nothing is carried back, but the recording is heard through a mask",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=BUDGET,
        metavar="SHARE",
        help="of the recording's energy that a mask may keep (default: %(default)s)",
    )
    parser.add_argument(
        "--rivals",
        type=_rivals,
        default=RIVALS,
        metavar="N",
        help="contrast a mask with the N most active other channels, or none (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--random-state", type=int, default=0, metavar="N", help="of random masks (default: 0)"
    )


def sound_options(parser: argparse.ArgumentParser) -> None:
    """Adds channels, their seed, and the files to write."""
    parser.add_argument(
        "--channel",
        type=channel_of,
        default="most_active",
        help="number, list such as 0,3,17, all, most_active (the default), or none: every map at "
        "once",
    )
    parser.add_argument(
        "--channel-axis", type=int, metavar="N", help="of the map, if not the one `layers` shows"
    )
    parser.add_argument(
        "--direction",
        metavar="FILE",
        help=".npy with a number for each channel, in place of a channel",
    )
    parser.add_argument("--seed", choices=SEEDS, default="activation", help="what is carried back")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="in tiles, in memory that does not grow; chosen by itself for long recordings",
    )
    parser.add_argument(
        "--low-cut", type=float, metavar="HZ", help="leave out what lies below, for listening"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help=f"sound file to write, .wav, .flac or .ogg; {MARK} in it stands for the channel, "
        f"{NAME} for the recording",
    )
    parser.add_argument("--subtype", help="its sample format, such as PCM_16 (default: float)")
    parser.add_argument("--spectrogram", metavar="FILE", help="picture to write, such as .png")
    parser.add_argument("--dark", action="store_true", help="light on dark in the picture")


def judging_options(parser: argparse.ArgumentParser) -> None:
    """Adds the one channel to judge, and a page to write."""
    parser.add_argument(
        "--channel", type=channel_of, default="most_active", help="number, or most_active (default)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="page to write, with the sounds")


def card_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the controls."""
    parser.add_argument(
        "--other", metavar="AUDIO", help="another recording, for its switches, with --full"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="add cascading randomisation, sMPRT, eMPRT and trivial sounds: some 150 sonifications",
    )
    parser.add_argument(
        "--draws", type=int, default=3, metavar="N", help="of each random control (default: 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one draw of each control: a first look, in less time"
    )


def compare_options(parser: argparse.ArgumentParser) -> None:
    """Adds the methods and their control."""
    parser.add_argument(
        "--methods",
        type=names_of,
        metavar="LIST",
        help="such as deconvnet,guided,NeuronDeconvolution (default: all of ours and Captum's)",
    )
    parser.add_argument(
        "--draws", type=int, default=1, metavar="N", help="of the random seed (default: 1)"
    )


def trust_options(parser: argparse.ArgumentParser) -> None:
    """The model, the recordings of two classes or more, and how long to test."""
    model_alone(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="a folder with a folder of recordings for each of several classes",
    )
    parser.add_argument(
        "--layers",
        type=names_of,
        metavar="LIST",
        help="such as conv5,conv9 (default: four, from low to high)",
    )
    parser.add_argument(
        "--count", type=int, default=24, metavar="N", help="pairs in each layer (default: 24)"
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="length of a mixture (default: 2)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="page to write, with the table")


def names_of(text: str) -> list[str]:
    """The parts of a list from the command line, each once.

    Args:
        text: Such as "conv3,conv7"; spaces beside the commas are dropped.

    Raises:
        ArgumentTypeError: If it has no part.
    """
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise argparse.ArgumentTypeError(f"expected a list with commas between, got {text!r}")
    return parts


def _rivals(text: str) -> int | None:
    if text == "none" or text.isdecimal():
        return None if text == "none" else int(text)
    raise argparse.ArgumentTypeError(f"expected a number or none, got {text!r}")


def one_channel(channel: list[int] | str | None) -> int | str:
    """The one channel that was asked for.

    Args:
        channel: As from `channel_of`.

    Raises:
        InputError: If several were.
    """
    if channel == "most_active":
        return "most_active"
    if isinstance(channel, list) and len(channel) == 1:
        return channel[0]
    raise InputError(
        f"One channel is judged at a time: expected a number or most_active, got {channel}. "
        f"Give --channel 3."
    )


def channel_of(text: str) -> list[int] | str | None:
    """Channels from the command line: numbers, a word, or None for all at once.

    Args:
        text: Such as "3", "0,3,17", "all", "most_active" or "none".

    Raises:
        ArgumentTypeError: If it is neither.
    """
    # "none" is a word here; in Python it is `None`: all maps at once.
    if text in ("all", "most_active", "none"):
        return None if text == "none" else text
    # One number is a list of one: its file name may still contain the channel.
    try:
        # Each once: two sounds of one channel would be written to one file.
        return list(dict.fromkeys(map(int, names_of(text))))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"expected a number, a list such as 0,3,17, all, most_active or none, got {text!r}"
        ) from None
