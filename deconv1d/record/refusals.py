"""Models that cannot be recorded, by name and with what to do, before torch says something else."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from deconv1d.errors import ModelError

HINTS = {
    "does not require grad and does not have a grad_fn": (
        "differentiates in its forward pass (torch.autograd.grad): expected ops alone, since no "
        "derivative is built while a model is recorded. Write the derivative by hand or by "
        "torch.func.grad, or choose a layer before it"
    ),
    "SparseTensorImpl": (
        "computes with sparse tensors: expected dense ones, whose memory can be followed. Give it "
        "dense weights (weight.to_dense())"
    ),
    "Sparse CS": (
        "computes with sparse tensors: expected dense ones, whose memory can be followed. Give it "
        "dense weights (weight.to_dense())"
    ),
    "NestedTensorImpl": (
        "computes with nested tensors: expected plain ones. Give clips of one length, or pad them"
    ),
    "BatchedTensorImpl": (
        "shows torch.vmap's tensors to an op that cannot take them: expected plain ones. Call the "
        "layer on the whole batch"
    ),
}
"""What of torch's message tells the kind of model, and what is said instead."""


def check_ready(model: nn.Module) -> None:
    """Raises ModelError if parameters have no values yet."""
    for name, tensor in _tensors(model):
        if is_lazy(tensor):
            raise ModelError(
                f"The parameter {name!r} has no shape yet: expected a model that has run, got a "
                f"lazy layer. Run the model once on a waveform, then give it."
            )
        if tensor.is_meta:
            raise ModelError(
                f"The parameter {name!r} has no values: expected a tensor on a device, got one on "
                f"'meta'. Load the weights first: model.to_empty(device='cpu'), load_state_dict."
            )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def why_refused(error: Exception, where: str) -> ModelError | None:
    """A model of a kind that cannot be recorded; None for any other failure.

    Args:
        error: What torch raised.
        where: In which layer.
    """
    what = next((hint for mark, hint in HINTS.items() if mark in str(error)), None)
    return None if what is None else ModelError(f"The model {what}{where}. torch says: {error}")
