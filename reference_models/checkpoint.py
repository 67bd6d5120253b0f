"""Checkpoints: weights as safetensors that carry, as JSON, what they are."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from deconv1d.audio import write_whole
from reference_models.cnn12 import CNN12, classifier


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors and what they are, each file under a temporary name that is then renamed.

    Args:
        path: Ends in ".safetensors". The file holds `about` too, so that tensors and `about` are
            never of different steps; the ".json" beside it is for people.
        tensors: By name, on any device.
        about: Anything JSON can say.

    Raises:
        OSError: The file cannot be written (disk full); one that was there is still whole.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, safetensors.torch.save(held, metadata={"about": json.dumps(about)}))
    write_json(Path(path).with_suffix(".json"), about)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Writes a JSON file under a temporary name that is then renamed."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: str | Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, as after a full disk.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"cannot read '{path}': {error}; expected JSON as it was written; delete the file and "
            "start again, which goes on from what was saved"
        ) from error


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the `about` that `save_checkpoint` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or something else wrote it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"cannot load the checkpoint '{path}': there is no such file; expected one written by "
            "reference_models.supervised or reference_models.simclr; correct the path"
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            names, about = file.keys(), json.loads(file.metadata()["about"])
            return {name: file.get_tensor(name) for name in names}, about
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot load the checkpoint '{path}': {type(error).__name__}: {error}; expected a "
            "whole file written by reference_models; delete it, then use or train another"
        ) from error


def load_encoder(path: str | Path, *, width: float | None = None) -> CNN12:
    """Returns the encoder of a supervised or contrastive checkpoint, in eval mode.

    Args:
        path: The checkpoint.
        width: The width it must have; None admits any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, its weights are not CNN12's, or of another width.
    """
    tensors, about = load_checkpoint(path)
    held = about["settings"]["width"]
    if width not in (None, held):
        raise ValueError(
            f"the checkpoint '{path}' holds an encoder of width {held}, expected {width}; "
            f"set the width to {held} (`--width {held}`), or take another checkpoint"
        )
    return _fill(_encoder_of(about), part(tensors, "encoder."), path)


def load_classifier(path: str | Path, *, classes: Sequence[str] | None = None) -> nn.Sequential:
    """Returns the classifier of a supervised checkpoint, in eval mode.

    Args:
        path: The checkpoint.
        classes: The class list it must have been trained for; None admits any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds no classifier, or one for another class list.

    Example:
        >>> model = load_classifier("runs/words/epoch-020.safetensors")
        >>> model(torch.zeros(1, 1, 8000)).shape
        torch.Size([1, 35])
    """
    tensors, about = load_checkpoint(path)
    if classes is not None:
        check_classes(about["classes"], classes, path)
    return _fill(classifier(_encoder_of(about), classes=len(about["classes"])), tensors, path)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with `prefix`, under their names without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def check_classes(held: Sequence[str], wanted: Sequence[str], path: str | Path) -> None:
    """Raises ValueError unless a checkpoint's class list is the wanted one, in the same order."""
    for number, (one, other) in enumerate(zip_longest(held, wanted)):
        if one != other:
            raise ValueError(
                f"the checkpoint '{path}' is for another class list: {len(held)} classes, expected "
                f"{len(wanted)}; class {number} is {one!r}, expected {other!r}; train a head for "
                "these classes (`--encoder` takes the rest of the network from a checkpoint)"
            )


def export_weights(source: str | Path, target: str | Path, about: dict[str, Any]) -> None:
    """Writes the classifier or the encoder of a checkpoint as float16, to be published.

    Args:
        source: The checkpoint; its projection head is left out.
        target: Where to write; loading it gives float32 again.
        about: Added to what the checkpoint says of itself.

    Raises:
        OSError: The file cannot be written.
    """
    tensors, held = load_checkpoint(source)
    halves = {k: v.half() for k, v in tensors.items() if not k.startswith("projection.")}
    save_checkpoint(target, halves, held | about)


def _encoder_of(about: dict[str, Any]) -> CNN12:
    """An untrained encoder as the settings of a checkpoint say."""
    settings = about["settings"]
    return CNN12(width=settings["width"], pooling=settings.get("pooling", "max"))


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> Any:
    """The model with these weights, in eval mode."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the checkpoint '{path}' does not hold the weights of this network: {reason}; use "
            "one that the same program wrote (a contrastive checkpoint has no classifier)"
        ) from error
    return model.eval()
