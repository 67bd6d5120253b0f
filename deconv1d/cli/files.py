"""Files of the command: the recordings that are named, and outputs that can be written."""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deconv1d.audio import (
    FORMATS,
    Samples,
    check_audio,
    check_subtype,
    decode_audio,
    format_of,
    read_audio,
)
from deconv1d.errors import FileError, InputError

STDIN = "-"
"""What stands for a recording from a pipe."""
NAME = "{name}"
"""What stands for the recording in the name of a file."""
MARK = "{channel}"
"""What stands for the channel in the name of a file."""
SUFFIXES = (*FORMATS, ".mp3", ".aif", ".aiff", ".au", ".opus", ".caf", ".w64")
"""Of what is a recording in a folder."""


def recordings(given: Sequence[str]) -> list[str]:
    """The sound files that are named: by themselves, by their folder, or with wildcards.

    Args:
        given: "-" is the standard input.

    Raises:
        FileError: If one names none.
    """
    return [path for name in given for path in _named(name)]


def _named(name: str) -> list[str]:
    # A file whose name has a "*" in it is that file; only what is none is taken for a pattern.
    if name == STDIN or Path(name).is_file():
        return [name]
    if Path(name).is_dir():
        found = [str(p) for p in sorted(Path(name).iterdir()) if p.suffix.lower() in SUFFIXES]
    else:
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
    if not found:
        raise FileError(
            f"{name!r} names no recording: expected one sound file or more, got none. Give files, "
            f"a folder that has some, or - for the standard input."
        )
    return found


def check_inputs(arguments: argparse.Namespace) -> None:
    """Raises FileError if a file that is named cannot be read; before any work is done.

    Args:
        arguments: Of any command.
    """
    asked = vars(arguments)
    given = asked.get("audio") or []
    names = recordings(given) if isinstance(given, list) else [given]
    if arguments.command == "card" and arguments.other is not None:
        names.append(arguments.other)
    for name in names:
        _check_there(name)
        if name != STDIN:
            check_audio(name)
    if asked.get("direction") is not None:
        _check_there(arguments.direction)


def _check_there(name: str) -> None:
    if name != STDIN and not Path(name).exists():
        raise FileError(
            f"{name!r} cannot be read: No such file. Give the path of a sound file, or - for the "
            f"standard input."
        )


def read_direction(name: str) -> npt.NDArray[Any]:
    """A number for each channel, from a file.

    Args:
        name: Of the file.

    Raises:
        FileError: If it cannot be read.
    """
    try:
        direction: npt.NDArray[Any] = np.load(name, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(
            f"The direction {name!r} cannot be read: expected an array of numbers, got "
            f"{str(error).rstrip('.')}. Give a file that numpy.save wrote."
        ) from error
    return direction


def read_recording(name: str, rate: int | None, *, mono: bool = False) -> Samples:
    """A recording, (channels, time) or (time,), from a file or the standard input.

    Args:
        name: Of a file; or "-".
        rate: In hertz.
        mono: Whether the channels are mixed.

    Raises:
        FileError: If it cannot be read.
    """
    if name == STDIN:
        # A pipe cannot be read twice, and decoders seek: so all of it is read first.
        return decode_audio(sys.stdin.buffer.read(), "the standard input", rate, mono=mono)[0]
    return read_audio(name, rate, mono=mono)[0]


def each(arguments: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """The arguments for each recording: its name is filled in.

    Args:
        arguments: Of `deconv1d sonify`.

    Raises:
        InputError: If two recordings would be written to one file.
        FileError: As for `recordings`.
    """
    # All names first: that two outputs are one is said before the first recording is heard.
    names = recordings(arguments.audio)
    filled = [
        argparse.Namespace(
            **{
                **vars(arguments),
                "audio": name,
                "output": _filled(arguments.output, name),
                "spectrogram": _filled(arguments.spectrogram, name),
            }
        )
        for name in names
    ]
    for option in ("output", "spectrogram"):
        outputs = [vars(one)[option] for one in filled if vars(one)[option] is not None]
        _check_kept(names, outputs, arguments.channel)
        twice = next((out for out in outputs if outputs.count(out) > 1), None)
        if twice is not None:
            raise InputError(
                f"{twice!r} is one name for {outputs.count(twice)} recordings: expected a name for "
                f"each, got the same. Put {NAME} into it, which stands for the recording's."
            )
    return iter(filled)


def _check_kept(names: Sequence[str], outputs: Sequence[str], channel: Any) -> None:
    """Raises InputError if a sound would be written over one of the recordings."""
    kept = {os.path.realpath(name) for name in names if name != STDIN}
    # Of "all" and "most_active" the numbers are not known yet: any number will do.
    words = channel if isinstance(channel, list) else [r"(\d+|all|most_active)"]
    for output in outputs:
        for word in words:
            place = re.escape(os.path.realpath(output)).replace(re.escape(MARK), str(word))
            if over := next((name for name in kept if re.fullmatch(place, name)), None):
                raise InputError(
                    f"{output!r} is a recording, {over!r}: expected a name for the sound, got one "
                    f"that would replace what is listened to. Give another name or folder."
                )


def _filled(output: str | None, name: str) -> str | None:
    stem = "stdin" if name == STDIN else Path(name).stem
    return None if output is None else output.replace(NAME, stem)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raises unless all that a command writes can be written; before any work is done.

    Args:
        arguments: Of any command.

    Raises:
        InputError: If a suffix names no format, or the sample format is none of it.
        FileError: If a file cannot be written there.
    """
    # Hours of work must not end in a name that cannot be written.
    for option, check in _CHECKS.get(arguments.command, {}).items():
        name = getattr(arguments, option, None)
        if name is not None:
            check(name)
    if getattr(arguments, "subtype", None) is not None:
        check_subtype(format_of(arguments.output)[0], arguments.subtype.upper())


def check_writable(path: str | Path, *, kind: str = "file") -> None:
    """Raises FileError unless a file, or a folder, can be written at a path.

    Args:
        path: Of the file or the folder.
        kind: "file" or "folder".
    """
    place, folder = Path(path), Path(path).parent
    reason = ""
    if kind == "file" and place.is_dir():
        reason = "it is a folder"
    elif kind == "folder" and place.exists() and not place.is_dir():
        reason = "it is a file"
    elif not folder.is_dir():
        reason = f"there is no folder {str(folder)!r}"
    # A file that is there is replaced, so it is asked for itself; a new one is put into its folder.
    elif not os.access(place if place.exists() else folder, os.W_OK):
        reason = "it may not be written to"
    if reason:
        raise FileError(
            f"{str(path)!r} cannot be written: {reason}. Give the path of a {kind} in a folder "
            f"that exists and may be written to."
        )


def _sound(name: str) -> None:
    format_of(name)
    check_writable(name)


def _picture(name: str) -> None:
    from deconv1d.render import check_picture

    check_picture(name)
    check_writable(name)


def _page(name: str) -> None:
    _suffixed(name, (".html", ".htm"), "a page")


def _table(name: str) -> None:
    _suffixed(name, (".csv",), "a table")


def _suffixed(name: str, suffixes: Sequence[str], what: str) -> None:
    if Path(name).suffix.lower() not in suffixes:
        raise InputError(
            f"{name!r} cannot be written: expected the name of {what}, got the suffix "
            f"{Path(name).suffix!r}. Give one that ends in {suffixes[0]}."
        )
    check_writable(name)


def _folder(name: str) -> None:
    check_writable(name, kind="folder")


_CHECKS: dict[str, dict[str, Callable[[str], None]]] = {
    "sonify": {"output": _sound, "spectrogram": _picture},
    "card": {"output": _page},
    "compare": {"output": _page},
    "benchmark-trust": {"output": _page},
    "tuning": {"output": _table, "figure": _picture},
    "demo": {"output": _folder},
    "report": {"output": _folder},
}
"""What each command writes, and what its name must be."""
