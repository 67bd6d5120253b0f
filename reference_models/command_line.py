"""The command line that both training programs share: an option for every setting."""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal

import torch

from reference_models.checkpoint import export_weights
from reference_models.data import open_cache
from reference_models.distributed import processes, rank

DEVICES = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)


def run_program(
    train: Callable[..., dict[str, Any]], presets: Mapping[str, Any], *, program: str, about: str
) -> None:
    """Reads the command line and trains; a user's error ends in one line and exit code 2.

    Args:
        train: Called with clips, settings, folder and `device=`.
        presets: Settings by name: dataclasses whose fields have a docstring each, which `--help`
            shows.
        program: The program's module.
        about: The first lines of its help.
    """
    shown = {"prog": f"python -m {program}", "description": about}
    # The preset is looked up first: its settings are the defaults of what is read then.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    preset = first.parse_known_args()[0].preset
    given = _read(presets, preset if preset in presets else next(iter(presets)), **shown)
    try:
        with processes(given.device) as device:
            result = train(open_cache(given.cache), given.settings, given.out, device=device)
            if given.export and rank() == 0:
                result["command"] = shlex.join([*shown["prog"].split(), *sys.argv[1:]])
                last = f"{given.out}/epoch-{given.settings.epochs:03d}.safetensors"
                export_weights(last, given.export, result)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        print(f"{shown['prog']}: {error}", file=sys.stderr)
        sys.exit(2)


def _read(presets: Mapping[str, Any], preset: str, **shown: str) -> SimpleNamespace:
    """What the command line asks for, with a preset's settings where it names no other."""
    try:
        import tyro
    except ImportError as error:
        raise SystemExit(
            f"{shown['prog']} needs the package tyro, which is not installed; "
            'run: pip install "deconv1d[reference]"'
        ) from error

    def command(
        cache: tyro.conf.Positional[str],
        *,
        out: str,
        preset: Literal[tuple(presets)],
        device: Literal[DEVICES] = DEVICES[0],
        export: str | None = None,
        settings: tyro.conf.OmitArgPrefixes[type(presets[preset])] = presets[preset],
    ) -> SimpleNamespace:
        """Holds the options.

        Args:
            cache: Folder that `python -m reference_models.data` made.
            out: Folder of the run.
            preset: Settings to start from.
            device: Where to train.
            export: File for the last weights, as float16; none without it.
            settings: In place of the preset's.
        """
        return SimpleNamespace(**locals())

    return tyro.cli(command, **shown)
