"""Clips are read and decoded in threads, ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from deconv1d.errors import Deconv1dError, FileError, InputError
from deconv1d.mining.long import LongClip, open_clip
from deconv1d.mining.sources import Clip
from deconv1d.record.waveform import as_waveform

DECODERS = 2
"""Threads that read and decode clips while others run through the model."""

Samples = npt.NDArray[np.float32]
Reader = Callable[[Clip, int], Samples | LongClip]
Result = Samples | LongClip | Deconv1dError
Group = list[tuple[Clip, Result]]


def decoded(
    clips: Sequence[Clip], rate: int, size: int, read: Reader = open_clip
) -> Iterator[Group]:
    """Groups of clips with their waveforms, or with what is wrong; decoded ahead, in threads.

    Long clips in files are not read yet.
    """
    ahead: deque[list[tuple[Clip, Future[Result]]]] = deque()
    with ThreadPoolExecutor(DECODERS) as pool:
        try:
            for start in range(0, len(clips), size):
                group = clips[start : start + size]
                ahead.append([(clip, pool.submit(_read, clip, rate, read)) for clip in group])
                # One group ahead: its samples are in memory beside those that are run.
                if len(ahead) > 1:
                    yield [(clip, future.result()) for clip, future in ahead.popleft()]
            while ahead:
                yield [(clip, future.result()) for clip, future in ahead.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def _read(clip: Clip, rate: int, read: Reader) -> Result:
    try:
        waveform = read(clip, rate)
        if not isinstance(waveform, LongClip) and not np.isfinite(waveform).all():
            as_waveform(waveform)  # says what is wrong
    # Returned, not raised: what is wrong with one clip must not end its group.
    except (FileError, InputError) as error:
        return error
    return waveform
