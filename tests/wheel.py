"""Do the wheel and the source distribution stand alone? python -m tests.wheel WHEEL SDIST

Run in a clone. The wheel is unpacked into an empty folder, and the README's Python is run from
there with nothing of the clone in reach. Both must hold all files that git knows of.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

PROBE = """
import pathlib, sys
sys.path.insert(0, "site")
import deconv1d, reference_models
for package in (deconv1d, reference_models):
    assert "site" in pathlib.Path(package.__file__).parts, package.__file__
"""


def tracked(*folders: str) -> set[str]:
    """Files that git knows of."""
    done = subprocess.run(["git", "ls-files", *folders], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    """What an index would show; the payload is the README."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def check_wheel(path: Path) -> None:
    """Runs the README's Python with what the wheel holds."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
        packages = tracked("deconv1d", "reference_models")
        assert packages <= set(wheel.namelist()), packages - set(wheel.namelist())
        outside = {name.split("/")[0] for name in wheel.namelist()}
        assert {name for name in outside if not name.endswith(".dist-info")} == {
            "deconv1d",
            "reference_models",
        }
        metadata = metadata_of(wheel)
        assert metadata["Author"] == "The deconv1d authors", metadata.items()
        assert metadata["License-Expression"] == "MIT", metadata.items()
        example = metadata.get_payload().split("```python\n")[1].split("```")[0]
        wheel.extractall(Path(folder) / "site")
        bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-P", "-c", PROBE + example]
        subprocess.run(command, cwd=folder, env=bare, check=True, stdout=subprocess.DEVNULL)


def check_source(path: Path) -> None:
    """Looks for all files."""
    with tarfile.open(path) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert tracked() <= names, tracked() - names


if __name__ == "__main__":
    check_wheel(Path(sys.argv[1]))
    check_source(Path(sys.argv[2]))
    print("The wheel runs the README by itself; the source distribution is whole.")
