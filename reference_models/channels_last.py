"""CNN12 as it is trained on a CPU: the same numbers, in the order that is quick to compute.

torch keeps waveforms as (batch, channels, time). Its 1D pooling searches such maps one window at a
time, and its convolutions copy them into another order and back. In the order (batch, time,
channels) neither is needed. At width 1/8 training takes half to three quarters of the time.
"""

import copy
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def quick(model: nn.Module) -> nn.Module:
    """Returns a twin of a model that has the same parameters and computes the same, sooner.

    Args:
        model: CNN12's blocks are in its modules named "features". On anything but a CPU, the model
            itself is returned.
    """
    if next(model.parameters()).device.type != "cpu":
        return model
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in list(twin.modules()):
        if isinstance(blocks := getattr(module, "features", None), nn.Sequential):
            module.features = ChannelsLast(blocks)
    return twin


class ChannelsLast(nn.Module):
    """Convolutions, each with its ReLU and pooling, over maps in the order (batch, time, channels).

    Args:
        blocks: As `CNN12.features`; its modules are used, not copied.
    """

    def __init__(self, blocks: nn.Sequential):
        super().__init__()
        self.blocks = nn.ModuleList()
        for module in blocks:
            # Pooling what a ReLU gives is the ReLU of what is pooled, which is half the work.
            place = len(self.blocks) - isinstance(module, nn.MaxPool1d)
            self.blocks.insert(place, module)

    def forward(self, waveform: Tensor) -> Tensor:
        """Returns the maps, (batch, channels, time), of waveforms (batch, 1, time)."""
        maps = waveform.transpose(1, 2)
        for module in self.blocks:
            match module:
                case nn.Conv1d():
                    maps = _convolved(maps, module)
                case nn.MaxPool1d(kernel_size=2):
                    maps = _LargerOfTwo.apply(maps)
                case nn.ReLU():
                    maps = module(maps)
                case _:
                    raise TypeError(f"cannot compute {module} channels last: CNN12 has none")
        return maps.transpose(1, 2)


def _convolved(maps: Tensor, conv: nn.Conv1d) -> Tensor:
    """The convolution of maps, (batch, time, channels)."""
    if conv.in_channels == 1:  # a product of windows and filters; convolution is slow at it
        windows = maps.squeeze(2).unfold(1, *conv.kernel_size, *conv.stride)
        return F.linear(windows.contiguous(), conv.weight.squeeze(1), conv.bias)
    weight = conv.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    images = maps.transpose(1, 2).unsqueeze(2)
    return F.conv2d(images, weight, conv.bias, (1, *conv.stride)).squeeze(2).transpose(1, 2)


class _LargerOfTwo(torch.autograd.Function):
    """Max pooling by two; of two equal neighbours the first has the gradient, as in torch."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.time, half = maps.shape[1], maps.shape[1] // 2
        first, second = maps[:, : 2 * half].unflatten(1, (half, 2)).unbind(2)
        ctx.save_for_backward(second > first)
        return torch.maximum(first, second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,), (is_second,) = gradients, ctx.saved_tensors
        batch, half, channels = gradient.shape
        spread = gradient.new_empty(batch, ctx.time, channels)
        spread[:, 2 * half :] = 0  # of an odd number of moments pooling leaves the last one out
        first, second = spread[:, : 2 * half].unflatten(1, (half, 2)).unbind(2)
        torch.mul(gradient, is_second, out=second)
        torch.sub(gradient, second, out=first)
        return spread
