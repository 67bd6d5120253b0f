"""The share of ops on the way that carry their gradient for want of a rule, for each architecture.

By the version of the library that Python finds, so that two can be compared:

    git worktree add ../before 5d7ccf5
    PYTHONPATH=../before python benchmarks/flagged.py 5d7ccf5 benchmarks/flagged_before.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch

FOLDER = Path(__file__).resolve().parent / "architectures"


def architectures() -> ModuleType:
    """The networks beside this file, whichever version of the library is used."""
    name = "architectures_of_today"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def share(architecture: object) -> float | str:
    """The share at the last layer, from 0 to 1; the name of the error if there is one."""
    from deconv1d import Sonifier

    torch.manual_seed(0)
    model = architecture.build()
    x = torch.randn(architecture.input_shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    try:
        # Versions differ in how their checks are switched off; they change no share.
        sonifier = Sonifier(model, forward=architecture.forward)
        heard = sonifier.sonify(x, layer=architecture.layers[-1], channel=None, tap="output")
        return float(heard.flagged)
    except Exception as error:
        return type(error).__name__


def main() -> None:
    """Writes the shares as JSON, after each network, so that a run can be stopped and go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="of the library, such as a commit: it is written down")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = json.loads(options.file.read_text()) if options.file.exists() else {"shares": {}}
    found["version"] = options.version
    for name, architecture in architectures().ARCHITECTURES.items():
        if name not in found["shares"] and architecture.installed:
            found["shares"][name] = share(architecture)
            print(name, found["shares"][name], flush=True)
            options.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
