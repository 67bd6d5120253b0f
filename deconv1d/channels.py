"""Which channels are carried back (those asked for, the most active), and how many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconv1d.errors import ChannelError, InputError
from deconv1d.layers.axes import Layout, ordered
from deconv1d.rules.op import depends_on_input, shape_of

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture

Channel = int | Tensor
"""A number, or one for each example, (batch,)."""


CHUNK_BYTES = 2**25
"""Size of the largest value of one chunk of channels. Larger ones are slower on a CPU, where fresh
memory costs more than the convolutions gain."""


def check_channels(channel: Any, channels: int, layer: str) -> list[int] | str | None:
    """Checks the channels asked for: returns a list of numbers, "most_active" or None.

    Raises:
        ChannelError: If a number is out of range.
        InputError: If it is neither a number, a sequence of numbers nor a known word.
    """
    # These two depend on the map or on nothing at all; numbers are checked against the layer.
    if channel is None or channel == "most_active":
        return channel  # type: ignore[no-any-return]  # one of the two
    if channel == "all":
        return list(range(channels))
    numbers = channel if isinstance(channel, Sequence) else [channel]
    # A string is a sequence too: "12" must not become the channels 1 and 2.
    if isinstance(channel, str) or not numbers or not all(map(_is_whole, numbers)):
        raise InputError(
            f"Unknown channel {channel!r} for layer {layer!r}: expected a number from 0 to "
            f'{channels - 1}, a list of them, "all", "most_active" or None (all maps at once).'
        )
    for number in numbers:
        if not 0 <= int(number) < channels:
            raise ChannelError(
                f"Channel {int(number)} is out of range in layer {layer!r}: expected 0 to "
                f"{channels - 1}. sonifier.layers(x) lists how many each layer has."
            )
    return [int(number) for number in numbers]


def _is_whole(number: Any) -> bool:
    # True counts as 1 in Python, but a mask is never meant as a list of channel numbers.
    if isinstance(number, bool) or "bool" in str(getattr(number, "dtype", "")):
        return False
    try:
        index(number)
    except TypeError:
        return False
    return True


def means(maps: Tensor) -> Tensor:
    """Averages each map: (batch, channels, ...) to mean activations (batch, channels).

    Of complex maps it averages the magnitude.
    """
    return ordered(maps).reshape(*maps.shape[:2], -1).mean(-1)


def most_active(maps: Tensor) -> Tensor:
    """Returns for each example the channel with the largest mean activation, (batch,)."""
    return means(maps).argmax(1)


def one_form(numbers: Sequence[int]) -> int | list[int]:
    """The channel of one example, or a list of them, one for each example."""
    return numbers[0] if len(numbers) == 1 else list(numbers)


def ranked(maps: Tensor, count: int) -> Tensor:
    """Ranks channels by their means, best first, for each example: (up to count, batch)."""
    # Stable, so that among equal means the lower channel number comes first on every machine.
    return means(maps).argsort(dim=1, descending=True, stable=True)[:, :count].T


def only(values: Tensor, channel: Channel) -> Tensor:
    """Returns the seed with every channel set to zero but one."""
    kept = torch.zeros_like(values)
    if isinstance(channel, int):
        kept[:, channel] = values[:, channel]
        return kept
    # For "most_active" `channel` holds another number for each example: index pairs select
    # (example, channel of that example).
    examples = torch.arange(len(values), device=values.device)
    kept[examples, channel] = values[examples, channel]
    return kept


def carry_back(
    carry: Callable[[Tensor], Tensor],
    values: Tensor,
    layout: Layout,
    channels: Sequence[Channel],
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Carries single channels back, some at a time.

    Args:
        carry: A mirror: seeds to raw sonifications.
        values: Seed of every map, (batch, channels, ...).
        layout: The axes of the model's maps.
        channels: Which to carry.
        chunk: How many at a time.

    Returns:
        (channels, *waveform shape), and the levels that it has to be multiplied by, of its rank.
    """

    # The deconvnet takes several seeds along a leading axis and runs each op once for all of them;
    # a chunk is as many as fit into the memory that `chunk_of` allows.
    def together(some: Sequence[Channel]) -> tuple[Tensor, Tensor]:
        seeds = torch.stack([layout.unsorted(only(values, channel)) for channel in some])
        return carry_leveled(carry, seeds, layout)

    if len(channels) <= chunk:
        return together(channels)
    carried: Tensor | None = None
    levels: list[Tensor] = []
    for start in range(0, len(channels), chunk):
        raw, level = together(channels[start : start + chunk])
        # Small results that stay between large ones that go would scatter the heap: the raw ones
        # are kept together, and levels that repeat (all but those of half precision) once.
        if carried is None:
            carried = raw.new_empty(len(channels), *raw.shape[1:])
        carried[start : start + chunk] = raw
        repeats = bool(levels) and torch.equal(level, levels[-1])
        levels.append(levels[-1] if repeats else level)
    assert carried is not None
    width = max(level.shape[1] for level in levels)
    return carried, torch.cat([level.expand(-1, width, *level.shape[2:]) for level in levels])


HALF = (torch.float16, torch.bfloat16)
SPREAD = 2.0**4
"""How much louder one example's seed may be than another's before each gets a level of its own."""


def carry_leveled(
    carry: Callable[[Tensor], Tensor], seeds: Tensor, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Carries seeds back, in half precision each at a level at which it survives.

    float16 has about 5 decimal digits above 1e-7 and overflows at 65504. A mirror multiplies by
    many small weights, so a seed of 1e-3 ends as zeros. Every rule is positively homogeneous: each
    seed is scaled to a peak of 1 and its level given back. One level for several seeds would
    silence a quiet channel beside a loud one, and one for several examples a quiet example.

    Args:
        carry: Runs the mirror.
        seeds: (seeds, *map shape).
        layout: The axes of the model's maps.

    Returns:
        (seeds, *waveform shape), and what it has to be multiplied by, of its rank.
    """
    if seeds.dtype not in HALF:
        raw = _carry_all(carry, seeds)
        return raw, raw.new_ones(len(raw), *[1] * (raw.dim() - 1))
    if layout.batch is None:
        whole = seeds.reshape(len(seeds), -1).abs().float().amax(1)
        levels, scale = whole[:, None], whole.reshape(-1, *[1] * (seeds.dim() - 1))
    else:
        levels = _levels(carry, seeds, layout.batch + 1)
        scale = levels.movedim(1, layout.batch + 1)
    scale = scale.to(seeds.dtype)
    raw = _carry_all(carry, torch.where(scale > 0, seeds / scale, 0))
    return raw, levels.reshape(*levels.shape[:2], *[1] * (raw.dim() - 2))


def _carry_all(carry: Callable[[Tensor], Tensor], seeds: Tensor) -> Tensor:
    return carry(seeds) if len(seeds) > 1 else carry(seeds[0])[None]


def _levels(carry: Callable[[Tensor], Tensor], seeds: Tensor, batch: int) -> Tensor:
    """The peak of each seed, and of each example if the model keeps them apart, (seeds, ...)."""
    rest = [axis for axis in range(1, seeds.dim()) if axis != batch]
    peaks = seeds.abs().float().amax(rest, keepdim=True).movedim(batch, 1)
    shared = peaks.amax(1, keepdim=True)
    quiet = peaks.where(peaks > 0, shared).amin(1, keepdim=True)
    if (shared <= SPREAD * quiet).all():
        return shared
    # Whether the signal of one example gets into others, as through statistics of the batch.
    seed, loudest = int(shared.argmax()), int(peaks.amax(0, keepdim=True).argmax())
    alone = torch.zeros_like(seeds[seed])
    alone.select(batch - 1, loudest).copy_(seeds[seed].select(batch - 1, loudest))
    raw = carry(alone / shared[seed].max().to(seeds.dtype))
    apart = len(raw) == peaks.shape[1] and not raw[torch.arange(len(raw)) != loudest].any()
    return peaks if apart else shared


def chunk_of(captured: Capture) -> int:
    """Decides how many channels are carried back at once.

    Args:
        captured: The forward pass, whose largest value on the signal's way decides.
    """
    # The largest value on the way decides: with K channels the way back holds K signals of its
    # shape at once.
    sizes = [
        prod(shape_of(node)) * int(node.meta["dtype"].itemsize)
        for node in captured.graph.nodes
        if depends_on_input(node)
    ]
    return max(1, CHUNK_BYTES // max(sizes))
