"""What does not fit between a waveform and a model, and the line to type instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch.fx import Node

from deconv1d.errors import InputError, ModelError
from deconv1d.record.capture import Capture
from deconv1d.record.refusals import why_refused
from deconv1d.record.request import Failure
from deconv1d.record.waveform import Attempt, Waveform, WrongReading
from deconv1d.rules.op import shape_of
from deconv1d.rules.table import packet

TIME_SECOND = (
    "A model that takes (batch, time, channels) needs Sonifier(model, forward=lambda model, x: "
    "model(x.swapaxes(1, 2))), and waveforms with time last."
)


def explain(shape: tuple[int, ...], error: Exception) -> Exception:
    """Returns our error for a model that failed on a waveform, or the model's own unchanged.

    The recorder attaches the op that failed, if any did; an error of the model's own code has none.

    Args:
        shape: Of the waveform, as the model was given it.
        error: What was raised.
    """
    if isinstance(error, WrongReading):
        return InputError(str(error))
    failure: Failure | None = getattr(error, "failure", None)
    where = "" if failure is None else f"layer {failure.label!r} ({failure.source})"
    if (refused := why_refused(error, f" (in {where})" if where else "")) is not None:
        return refused
    if failure is None:
        return _explain_message(shape, error)
    # Shapes of a convolution: input (batch, channels, time), weight (out, in / groups, kernel).
    if "conv" in failure.op and len(failure.shapes) > 1:
        got, weight = failure.shapes[:2]
        if len(got) != len(weight):
            return InputError(
                f"The waveform's rank does not fit {where}: expected rank {len(weight)}, "
                f"got shape {tuple(got)} from the waveform {shape}. "
                f"{_reshape(shape, len(weight) - len(got))}"
            )
        if got[1] != weight[1]:
            # (batch, time, channels) models turn the axes themselves.
            turned = got[1] == shape[-1] and weight[1] in shape[:-1]
            advice = TIME_SECOND if turned else _of_channels(shape, weight[1])
            return InputError(
                f"The number of channels does not fit {where}: expected {weight[1]}, got {got[1]} "
                f"(waveform {shape}). {advice}"
            )
    return ModelError(
        f"The model failed on a waveform of shape {shape}: {failure.op} in {where} got shapes "
        f"{failure.shapes}: {error}. Give what the model takes, batch first, or forward=."
    )


def _explain_message(shape: tuple[int, ...], error: Exception) -> Exception:
    """As `explain`, for what modules of torch refuse before any op runs: by their message."""
    if found := re.search(r"expected (\d)D(?: or (\d)D)? input \(got (\d)D input\)", str(error)):
        wanted, got = int(found[2] or found[1]), int(found[3])
        return InputError(
            f"The waveform's rank does not fit: a normalisation expected rank {wanted}, got rank "
            f"{got} from the waveform {shape}. {_reshape(shape, wanted - got)}"
        )
    if found := re.search(r"equal to input_size. Expected (\d+), got (\d+)", str(error)):
        return InputError(
            f"The number of features does not fit a recurrent layer: expected {found[1]}, got "
            f"{found[2]} (waveform {shape}). {TIME_SECOND}"
        )
    return error


def _of_channels(shape: tuple[int, ...], wanted: int) -> str:
    """What to type where the waveform has another number of channels than the model takes."""
    if wanted == 1 and len(shape) == 3 and shape[1] > 1:
        batch, channels, time = shape
        return (
            f"Give x.reshape({batch * channels}, 1, {time}) for {batch * channels} clips, or "
            f"x.mean(1, keepdims=True) for the mean of the channels."
        )
    return f"Give (batch, {wanted}, time)."


def _reshape(shape: tuple[int, ...], more: int) -> str:
    """The reshape to type that gives a waveform so many more axes of size 1, or fewer."""
    axes = list(shape)
    if more > 0:
        axes[1:1] = [1] * more
    for _ in range(-more):
        if 1 not in axes[:-1]:
            return f"Give it in {len(shape) + more} axes, time last."
        axes.remove(1)
    return f"Give x.reshape{tuple(axes)}."


def to_explain(waveform: Waveform, refused: Sequence[Attempt]) -> Attempt:
    """Of the readings that the model refused, the one to explain.

    Args:
        waveform: As it was given.
        refused: In the order in which they were tried.

    Raises:
        InputError: If the axes seem to be in another order.
    """
    given = tuple(waveform.given.shape)
    if len(given) == 2 and waveform.mixed is None and given[0] > given[1]:
        raise InputError(
            f"The waveform of shape {given} has more channels than samples: expected time last, "
            f"got what looks like (time, channels). Give x.T; or x.reshape{(1, *given)} for one "
            f"clip of {given[0]} channels, x.reshape({given[0]}, 1, {given[1]}) for {given[0]} "
            f"clips of {given[1]} samples."
        )
    # Of (channels, time) convolutions make a batch of 1 themselves, and what comes next may fail
    # on that. So the second reading is explained, (1, channels, time), if a convolution takes it.
    failure: Failure | None = getattr(refused[-1].error, "failure", None)
    second = len(refused) > 1 and len(given) == 2 and failure is not None
    ranks = [len(shape) for shape in failure.shapes[:2]] if failure is not None else []
    if len(set(ranks)) < 2 and second and not isinstance(refused[0].error, WrongReading):
        return refused[1]
    return refused[0]


def check_batch(captured: Capture) -> None:
    """Raises WrongReading where a convolution took the axis of examples for that of channels.

    Args:
        captured: A forward pass.

    torch's convolutions accept one axis less than a batch has, (channels, time), and add a batch of
    1 themselves. The model then runs, but all examples end up as channels of one example:

        Conv1d of (2, 8000): 2 channels        Conv2d of (1, 22, 1000): 1 channel, and the map's
                                               axis 1 counts electrodes
    """
    x = shape_of(captured.x)
    if len(x) == 2 and any(map(_is_unbatched, captured.graph.nodes)):
        raise WrongReading(
            f"The waveform's rank does not fit: expected a batch first, got shape {x}, and the "
            f"model took the first axis for channels. Give (batch, channels, time), or one clip as "
            f"a 1-D array; for a model that takes (channels, time) give (1, channels, time) and "
            f"Sonifier(model, forward=lambda model, x: model(x[0]))."
        )
    if len(x) == 3 and any(map(_reads_unbatched, captured.graph.nodes)):
        raise WrongReading(
            f"The waveform's rank does not fit: expected a batch first, got shape {x}, and the "
            f"model's 2D convolution took the first axis for channels. {_reshape(x, 1)}"
        )


def _is_unbatched(node: Node) -> bool:
    """Tells whether a convolution took its input for (channels, time) and added a batch itself."""
    if packet(node) is not torch.ops.aten.convolution:
        return False
    source = node.args[0]
    assert isinstance(source, Node)
    return packet(source) is torch.ops.aten.unsqueeze and bool(source.args[1] == 0)


def _reads_unbatched(node: Node) -> bool:
    """The same, of a convolution of the waveform itself: a model may drop the batch later on."""
    return _is_unbatched(node) and node.args[0].args[0].op == "placeholder"  # type: ignore[union-attr]  # `_is_unbatched` has seen that it is a node
