"""Models in the folders of Hugging Face's transformers, with what their processors do to sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconv1d.errors import DependencyError, FileError, ModelError, warn

PROCESSOR = "preprocessor_config.json"
NORMALISED = "to mean 0 and variance 1"
STEADY = 1e-7
"""Added to the variance, as the processors of transformers do."""


@dataclass(frozen=True)
class Pretrained:
    """A model, and how sound is given to it.

    Attributes:
        model: In eval mode.
        sample_rate: In hertz; None: the folder does not say.
        normalised: Whether each waveform is brought to mean 0 and variance 1 first.
        forward: As for `Sonifier`.
    """

    model: nn.Module
    sample_rate: int | None
    normalised: bool
    forward: Callable[[Any, Tensor], Any] | None

    def __str__(self) -> str:
        rate = "rate unknown" if self.sample_rate is None else f"{self.sample_rate} Hz"
        scaled = f"normalised {NORMALISED}" if self.normalised else "not normalised"
        return f"{type(self.model).__name__}: {rate}, waveforms {scaled}"


def load_pretrained(folder: str | Path, model_class: Any = None) -> Pretrained:
    """Reads a model and its processor from a folder; nothing is downloaded.

    Args:
        folder: With a config.json and .safetensors, as `save_pretrained` writes it.
        model_class: Of transformers, such as `AutoModelForAudioClassification`; None: `AutoModel`.

    Raises:
        FileError: If the folder cannot be read.
        ModelError: If the model takes something else than waveforms.
        DependencyError: If transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise DependencyError(
            "Models of Hugging Face need the package transformers, which is not installed. "
            "Install it: pip install 'deconv1d[models]'"
        ) from error
    if not (Path(folder) / "config.json").is_file():
        raise FileError(
            f"{str(folder)!r} holds no model of Hugging Face: expected a folder with config.json "
            f"and .safetensors, got no config.json. Write it with model.save_pretrained(folder)."
        )
    # Nothing is downloaded, and a pickle, which can run any code, is not read.
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        model, info = (model_class or transformers.AutoModel).from_pretrained(
            str(folder), **options
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise FileError(
            f"The model in {str(folder)!r} cannot be read: expected config.json and .safetensors "
            f"that fit it, got {type(error).__name__}: {str(error).rstrip('.')}. "
            f"Save it again with save_pretrained."
        ) from error
    if missing := sorted(info["missing_keys"]):
        warn(
            f"{len(missing)} weights of {type(model).__name__} are not in {str(folder)!r} and have "
            f"random values: {', '.join(missing[:3])}. Name the class that was saved.",
        )
    rate, normalised = _processor(Path(folder))
    rate = rate or getattr(model.config, "sampling_rate", None)
    return Pretrained(model.eval(), rate, normalised, _normalised_call if normalised else None)


def _processor(folder: Path) -> tuple[int | None, bool]:
    """The rate of the folder's processor, and whether it normalises."""
    if not (folder / PROCESSOR).is_file():
        return None, False
    from transformers import AutoFeatureExtractor

    read: Any = AutoFeatureExtractor.from_pretrained
    processor = read(str(folder), local_files_only=True)
    # What it does is seen from what it returns: noise, the same at mean 0 and variance 1, or
    # something else, such as a spectrogram.
    noise = np.random.default_rng(0).normal(0.1, 0.2, processor.sampling_rate).astype(np.float32)
    given = processor(noise, sampling_rate=processor.sampling_rate, return_tensors="np")
    made = np.asarray(given[processor.model_input_names[0]])
    if made.size == noise.size:
        for normalised, expected in ((False, noise), (True, _normalised(torch.tensor(noise)))):
            if np.allclose(made.ravel(), expected, atol=1e-4):
                return int(processor.sampling_rate), normalised
    raise ModelError(
        f"The model in {str(folder)!r} takes no waveform: expected a processor that gives the "
        f"samples themselves, got {type(processor).__name__}, which makes shape {made.shape} of "
        f"{noise.size} samples. Give a model on waveforms, or write the step as forward=."
    )


def _normalised(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + STEADY).sqrt()


def _normalised_call(model: Any, x: Tensor) -> Any:
    return model(_normalised(x))
