"""Words as a shell gives them, before argparse reads them, and messages as its users need them."""

from __future__ import annotations

import argparse
import difflib
import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from deconv1d.errors import InputError

OUTPUTS = ("-o", "--output", "--spectrogram", "--figure")
LISTS = ("--layers", "--methods", "--channel", "--levels")
"""Options that take a list with commas."""


# --- before argparse -----------------------------------------------------------------------------


def as_arguments(argv: Sequence[str]) -> list[str]:
    """Words that argparse reads as they are meant, where they begin with a dash.

    Args:
        argv: As the shell gives them.

    Raises:
        InputError: If a list has spaces where commas belong.
    """
    # argparse takes "-dash.ogg" for the options -d -a -s ...; "./-dash.ogg" is the same file. Of
    # numbers it takes "-20" for a value, but not "-20,0".
    check_lists(argv)
    words: list[str] = []
    for word in argv:
        last = words[-1] if words else ""
        if last in LISTS and _is_below_zero(word):
            words[-1] = f"{last}={word}"
        elif _is_dashed(word) and (last in OUTPUTS or Path(word).is_file()):
            words.append(f"./{word}")
        else:
            words.append(word)
    return words


def _is_below_zero(word: str) -> bool:
    return re.match(r"-[\d.]", word) is not None


def _is_dashed(word: str) -> bool:
    # A dot, as all names of sound files have one: "-o" and "-" stay what they are.
    return word.startswith("-") and not word.startswith("--") and "." in word


def check_lists(argv: Sequence[str]) -> None:
    """Raises InputError if a list has spaces where commas belong: --layers conv3 conv7.

    Args:
        argv: As the shell gives them.
    """
    for place, word in enumerate(argv):
        option, _, value = word.partition("=")
        if option not in LISTS:
            continue
        given = ([value] if value else []) + list(argv[place + 1 :])
        more = list(itertools.takewhile(_is_of_a_list, given[1:]))
        if more:
            words = [given[0], *more]
            written = ",".join(part for word in words for part in word.split(",") if part)
            raise InputError(
                f"{option} {' '.join(words)} is no list: expected one word with commas between its "
                f"parts, got {len(words)} words. "
                f"Give {option}{'=' if _is_below_zero(written) else ' '}{written}."
            )


def _is_of_a_list(word: str) -> bool:
    """Whether a word after a list seems to belong to it: it is no option and no recording."""
    # A recording may follow a list, so what has a suffix of letters is taken for a file.
    is_file = re.search(r"\.[a-z]\w*$", word.lower()) or Path(word).exists() or glob.has_magic(word)
    is_option = word.startswith("-") and not _is_below_zero(word)
    return not (is_file or is_option)


# --- after argparse ------------------------------------------------------------------------------


def refuse(unknown: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Raises InputError if argparse did not know what to do with some words.

    Args:
        unknown: What it left.
        parser: Of the command.
    """
    if not unknown:
        return
    first, shown = unknown[0], parser.format_help()
    if first.startswith("-"):
        known = sorted(set(re.findall(r"--[a-z][\w-]*", shown)))
        near = difflib.get_close_matches(first.partition("=")[0], known, n=1)
        expected = f"one such as {near[0]}" if near else "one that it lists"
        raise InputError(
            f"{first!r} is no option of {parser.prog}: expected {expected}, got another. "
            f"See {parser.prog} --help."
        )
    takes = "one recording" if re.search(r"^  AUDIO", shown, re.MULTILINE) else "what it lists"
    raise InputError(
        f"{first!r} is a word too many for {parser.prog}: expected {takes}, got also this. Put a "
        f"name that has spaces into quotes; see {parser.prog} --help."
    )


IN_THE_SHELL = {
    r"sonifier\.(\w+)\(x, ([^)]*)\)": r"deconv1d \1 --layer \2",
    r"sonifier\.(\w+)(\(x\))?": r"deconv1d \1",
    r"Sonifier\(model, sample_rate=(\d+)\)": r"--sample-rate \1",
    r"method=['\"](\w+)['\"]": r"--method \1",
    r"`(methods|layers|draws)`": r"--\1",
}
"""What messages advise in Python, as patterns, and what that is on the command line."""
OPTIONS = re.compile(
    r"\b(channel_axis|channel|budget|rivals|seed|low_cut|draws|seconds|sample_rate"
    r"|top|batch|shard_clips|threads|workers)="
)


def for_the_shell(message: str) -> str:
    """A message of the library with its advice in the words of the command line.

    Args:
        message: Of an error.
    """
    for python, shell in IN_THE_SHELL.items():
        message = re.sub(python, shell, message)
    return OPTIONS.sub(lambda found: f"--{found[1].replace('_', '-')} ", message)
