"""Every code block of the README and of the pages is run as it stands: Python here, sh by bash.

The blocks of one page share their names and a folder, which is empty but for links to what the
repository holds. A block that cannot be run stands below

    <!-- skip: next "why" -->

which no page shows, and pytest prints the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

# Before NumPy is imported, and for commands that tests start: with a process for each core, threads
# of BLAS only wait for each other, in busy loops.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent
LINKED = ("reference_models", "examples", "benchmarks", "tests", "pyproject.toml")
"""What commands of the pages read in the repository; what they write goes elsewhere."""


def run_in_bash(example: Example) -> None:
    """Runs a block of commands; each has to succeed. `python` and `deconv1d` are this Python's."""
    here = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MPLBACKEND": "agg",
    }
    command = ["bash", "-euo", "pipefail", "-c", example.parsed]
    done = subprocess.run(command, env=os.environ | here, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def enter_folder(names: dict[str, Any]) -> None:
    """Goes into a new folder for one page."""
    names["_left"], names["_folder"] = Path.cwd(), tempfile.TemporaryDirectory()
    os.chdir(names["_folder"].name)
    for name in LINKED:
        Path(name).symlink_to(ROOT / name)


def leave_folder(names: dict[str, Any]) -> None:
    """Goes back, and removes the folder."""
    os.chdir(names["_left"])
    names["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[
        SkipParser(),
        PythonCodeBlockParser(),
        CodeBlockParser(language="sh", evaluator=run_in_bash),
    ],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/notebooks/*.md"],
    path=str(ROOT),
    setup=enter_folder,
    teardown=leave_folder,
).pytest()
