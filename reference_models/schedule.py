"""The learning rate of both training programs."""

import math


def learning_rate(step: int, *, peak: float, warmup: int, total: int) -> float:
    """Returns the learning rate of a step: a linear rise to `peak`, then half a cosine to zero.

    Args:
        step: Number of the optimizer step, 0 to `total` - 1.
        peak: The highest learning rate, that of step `warmup`.
        warmup: Steps of the rise; its first step has `peak / (warmup + 1)`, so none is idle.
        total: Steps of the run; one step more and the rate would be 0.

    Raises:
        ValueError: The rise is as long as the run or longer: the rate would never fall.

    Source:
        Section 3.1: "a linear warmup for the first 10 epochs followed by a cosine decay schedule
        without restarts" (Loshchilov & Hutter, 2016). Per step, not per epoch: our choice.

    Example:
        >>> [round(learning_rate(s, peak=1.0, warmup=1, total=4), 3) for s in range(4)]
        [0.5, 1.0, 0.75, 0.25]
    """
    if warmup >= total:
        raise ValueError(
            f"cannot warm up for {warmup} of {total} steps: expected fewer than there are; "
            "lower --warmup-epochs or raise --epochs"
        )
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
