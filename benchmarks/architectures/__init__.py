"""Small 1D audio networks of every kind the field uses: the evidence for "works on any 1D model".

`ARCHITECTURES` is the registry, by name. A network is added where its kind lives, in one place: its
class and its row in that file's own tuple.

Example:
    >>> import torch
    >>> from benchmarks.architectures import ARCHITECTURES
    >>> architecture = ARCHITECTURES["m5"]
    >>> model = architecture.build()
    >>> architecture.run(model, torch.randn(architecture.input_shape)).shape
    torch.Size([2, 1, 10])
"""

from . import (
    attention,
    biosignals,
    brains,
    codecs,
    convolutional,
    forecasting,
    frontends,
    geometry,
    huggingface,
    interfaces,
    packaged,
    pretrained,
    recurrent,
    scripts,
    separation,
    spectrograms,
    spelling,
    tokenizers,
)
from .architecture import Architecture, trained_like
from .spelling import RECTIFIERS

THEMES = (
    pretrained,
    convolutional,
    frontends,
    separation,
    codecs,
    recurrent,
    attention,
    biosignals,
    geometry,
    spelling,
    interfaces,
    scripts,
    huggingface,
    tokenizers,
    spectrograms,
    forecasting,
    packaged,
    brains,
)
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture for theme in THEMES for architecture in theme.ARCHITECTURES
}

__all__ = ["ARCHITECTURES", "RECTIFIERS", "Architecture", "trained_like"]
