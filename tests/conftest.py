"""What every test shares: where real recordings lie."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors: more threads only wait for each other

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def recordings() -> Path:
    path = Path(os.environ.get("DECONV1D_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}; set DECONV1D_DATA to their folder")
    return path
