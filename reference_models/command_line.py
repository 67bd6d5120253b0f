"""The command line that both training programs share: an option for every setting."""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field, fields, replace
from typing import Any

import torch

from reference_models.checkpoint import export_weights
from reference_models.data import open_cache
from reference_models.distributed import processes, rank


def setting(default: Any, help: str, *, choices: Sequence[str] | None = None) -> Any:
    """A field of a settings dataclass that `--help` explains."""
    return field(default=default, metadata={"help": help, "choices": choices})


def run_program(
    train: Callable[..., dict[str, Any]], presets: Mapping[str, Any], *, program: str, about: str
) -> None:
    """Reads the command line and trains; a user's error ends in one line and exit code 2.

    Args:
        train: Called with clips, settings, folder and `device=`.
        presets: Settings by name.
        program: The program's module.
        about: The first lines of its help.
    """
    parser = _parser(presets, f"python -m {program}", about)
    given = parser.parse_args()
    preset = presets[given.preset]
    chosen = {f.name: getattr(given, f.name) for f in fields(preset) if f.name in given}
    settings = replace(preset, **{k: tuple(v) if type(v) is list else v for k, v in chosen.items()})
    try:
        with processes(given.device) as device:
            result = train(open_cache(given.cache), settings, given.out, device=device)
            if given.export and rank() == 0:
                result["command"] = shlex.join([*parser.prog.split(), *sys.argv[1:]])
                last = f"{given.out}/epoch-{settings.epochs:03d}.safetensors"
                export_weights(last, given.export, result)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _parser(presets: Mapping[str, Any], program: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cache", help="folder that `python -m reference_models.data` made")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--preset",
        required=True,
        choices=presets,
        metavar="NAME",
        help=f"settings to start from: {', '.join(presets)}",
    )
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument(
        "--device", default=devices[0], choices=devices, help=f"where to train: {devices[0]}"
    )
    parser.add_argument("--export", metavar="FILE", help="also write the last weights, as float16")
    group = parser.add_argument_group("settings, in place of the preset's")
    for item in fields(next(iter(presets.values()))):
        option = f"--{item.name.replace('_', '-')}"
        group.add_argument(
            option, default=argparse.SUPPRESS, help=item.metadata["help"], **_reading(item)
        )
    return parser


def _reading(item: Field) -> dict[str, Any]:
    """How argparse reads a setting: by the type of its default."""
    if isinstance(item.default, bool):
        return {"action": argparse.BooleanOptionalAction}
    if isinstance(item.default, tuple):
        return {"nargs": "*", "choices": item.metadata["choices"], "metavar": "NAME"}
    if item.metadata["choices"]:
        return {"choices": item.metadata["choices"]}
    return {"type": type(item.default), "metavar": type(item.default).__name__.upper()}
