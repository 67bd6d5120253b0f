"""Hear what one feature map of a raw-waveform network responds to."""

from deconv1d.errors import (
    ChannelError,
    Deconv1dError,
    DependencyError,
    FileError,
    InputError,
    LayerError,
    ModelError,
    PathError,
    SilenceWarning,
)
from deconv1d.mirror import Deconvnet
from deconv1d.rules.op import Op
from deconv1d.rules.reach import Reach
from deconv1d.rules.table import RULES, Rule
from deconv1d.sonification import Sonification
from deconv1d.sonify import Sonifier

__version__ = "0.1.0"

__all__ = [
    "RULES",
    "ChannelError",
    "Deconv1dError",
    "Deconvnet",
    "DependencyError",
    "FileError",
    "InputError",
    "LayerError",
    "ModelError",
    "Op",
    "PathError",
    "Reach",
    "Rule",
    "SilenceWarning",
    "Sonification",
    "Sonifier",
]
