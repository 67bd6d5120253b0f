"""Recordings by class, from a folder with one folder of sound files for each class."""

from __future__ import annotations

from pathlib import Path

import soundfile
import torch
from torch import Tensor

from deconv1d.audio import read_audio
from deconv1d.errors import FileError

PER_CLASS = 8
SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".oga"}


def read_recordings(
    folder: str | Path, sample_rate: int, *, per_class: int = PER_CLASS
) -> dict[str, list[Tensor]]:
    """The first recordings of every class, (time,) each, mixed down; by the class's name.

    Args:
        folder: Its folders are the classes, as those of Speech Commands; other files are left out.
        sample_rate: In hertz; files are resampled to it.
        per_class: How many of each class, in the order of their names.

    Raises:
        FileError: If there are no two folders with sound files, or one cannot be read.
    """
    root = Path(folder)
    inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    files = {path.name: _sounds(path)[:per_class] for path in inside}
    classes = {name: paths for name, paths in files.items() if paths}
    if len(classes) < 2:
        raise FileError(
            f"{str(root)!r} holds no classes to tell apart: expected 2 folders or more with sound "
            f"files, one for each class, got {len(classes)}. Name the folder above them."
        )
    return {
        name: [torch.from_numpy(read_audio(path, sample_rate)[0]) for path in paths]
        for name, paths in classes.items()
    }


def _sounds(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))
