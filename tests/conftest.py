"""What tests share: real recordings, what rendering needs, and every architecture in turn."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.architectures import ARCHITECTURES, Architecture

torch.set_num_threads(1)  # small tensors: more threads only wait for each other

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def recordings() -> Path:
    path = Path(os.environ.get("DECONV1D_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}; set DECONV1D_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def soundfont() -> None:
    if not (find_spec("tinysoundfont") and find_spec("pretty_midi")):
        pytest.skip("no tinysoundfont, or no pretty_midi with its soundfont")


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    entry = ARCHITECTURES[request.param]
    if not entry.installed:
        pytest.skip(f"needs the package {entry.requires}")
    return entry


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for the soundfont can be chosen by its marker: `pytest -m rendered`."""
    # The longest file first: with several processes none of them then ends alone with it.
    items.sort(key=lambda item: item.path.name != "test_run_all.py")
    for item in items:
        if "soundfont" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.rendered)
