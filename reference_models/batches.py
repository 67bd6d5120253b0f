"""Which clips a step trains on, and generators whose draws depend on the step alone.

So a run that is resumed at some step draws what it would have drawn without the interruption.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from reference_models.cnn12 import SHORTEST
from reference_models.data import SAMPLE_RATE
from reference_models.distributed import rank, world_size

Step = TypeVar("Step")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Batches:
    """The batches of a run by step: `batches[step]` has the clip numbers of this process' share.

    Every epoch is a new shuffle of all clips, cut into full batches; the last clips that fill
    none sit the epoch out. Under `torchrun` each batch is dealt out to the processes.

    Attributes:
        clips: Number of clips.
        batch_size: Clips in a batch, of all processes together.
        random_state: Of the shuffles.
        groups: A name for each clip, such as its speaker: a batch then holds clips of one group
            only, and the batches of all groups come in random order. None: all are one group.

    Raises:
        ValueError: The clips fill no batch, or the processes cannot share one equally.
    """

    clips: int
    batch_size: int
    random_state: int
    groups: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.groups is not None and max(Counter(self.groups).values()) < self.batch_size:
            raise ValueError(
                f"cannot make batches of {self.batch_size} clips of one group: the largest of "
                f"{len(set(self.groups))} groups has {max(Counter(self.groups).values())}; choose "
                "a smaller batch size"
            )
        if not 1 <= self.batch_size <= self.clips:
            raise ValueError(
                f"cannot make batches of {self.batch_size} clips from {self.clips} training clips: "
                "expected at least one full batch; choose another batch size"
            )
        if self.batch_size % world_size():
            raise ValueError(
                f"cannot share batches of {self.batch_size} clips among {world_size()} processes: "
                "expected a multiple of their number; choose another batch size"
            )

    def __len__(self) -> int:
        """Number of steps in an epoch."""
        if self.groups is None:
            return self.clips // self.batch_size
        return sum(size // self.batch_size for size in Counter(self.groups).values())

    def __getitem__(self, step: int) -> Tensor:
        epoch, place = divmod(step, len(self))
        return _epoch(self, epoch)[place][rank() :: world_size()]


@lru_cache(maxsize=2)
def _epoch(batches: Batches, epoch: int) -> list[Tensor]:
    generator = seeded("cpu", "shuffle", batches.random_state, epoch)
    return full_batches(batches.clips, batches.batch_size, batches.groups, generator=generator)


def full_batches(
    clips: int,
    batch_size: int,
    groups: Sequence[str] | None = None,
    *,
    generator: torch.Generator,
) -> list[Tensor]:
    """Cuts the shuffled numbers 0 to `clips` - 1 into full batches; see `Batches`."""
    shuffled = torch.randperm(clips, generator=generator)
    of_group: dict[str, list[int]] = {}
    for clip in shuffled.tolist():
        of_group.setdefault("" if groups is None else groups[clip], []).append(clip)
    cut = [batch for group in of_group.values() for batch in torch.tensor(group).split(batch_size)]
    full = [batch for batch in cut if len(batch) == batch_size]
    if groups is None:  # in a random order already
        return full
    return [full[i] for i in torch.randperm(len(full), generator=generator)]


def seeded(device: str | torch.device, *key: str | int) -> torch.Generator:
    """Returns a new generator on `device`; equal keys give equal draws.

    Example:
        >>> crops = seeded("cpu", "crops", 0, 12)  # what for, the run's random state, the step
        >>> int(torch.randint(1000, (), generator=crops))
        151
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big"))


def crop_samples(seconds: float) -> int:
    """Returns the length of a crop in samples.

    Raises:
        ValueError: It is below the network's receptive field.
    """
    samples = round(seconds * SAMPLE_RATE)
    if samples < SHORTEST:
        raise ValueError(
            f"cannot train on crops of {seconds} s: {samples} samples, expected at least "
            f"{SHORTEST}, the network's receptive field; use crops of 0.3 s or more"
        )
    return samples


def ahead(load: Callable[[Step], Batch], steps: Iterable[Step]) -> Iterator[tuple[Step, Batch]]:
    """Yields each step with its batch, while a thread loads the next one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = None
        for step in steps:
            now, coming = coming, (step, thread.submit(load, step))
            if now:
                yield now[0], now[1].result()
        if coming:
            yield coming[0], coming[1].result()
