"""Which line of the model's code runs an op."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import FrameType

import torch

OURS_AND_TORCH = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def source_line() -> str:
    """The innermost line that is neither ours nor torch's."""
    # The frames' files alone are looked at: `inspect` would read source files at each op.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours_or_torchs(frame.f_code.co_filename):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


@cache
def _is_ours_or_torchs(filename: str) -> bool:
    return filename.startswith(OURS_AND_TORCH)
