"""Long recordings: exact tiles of one length, so that memory does not grow with the recording.

A moment t of a map reads the samples from t * hop + start to t * hop + stop, and nothing that it
does not read can hear it on the way back. So a stretch of the sonification depends on the samples
around it alone, at most one receptive field to either side. The recording is cut into tiles that
overlap by so much; each is sonified by one prepared program, and only its inner part is kept:

    recording   |-----------------------------------------------|
    tile 0      |=============......|
    tile 1             |......========......|
    tile 2                      |......========......|
    tile 3 (last, of its own length)     |......==============|

`=` is kept, `.` is the halo. Tiles start at multiples of the layer's total stride, so that strided
convolutions and pools see the windows that they see in the whole recording.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from deconv1d.audio import format_of, is_cut, whole_file, whole_rate
from deconv1d.errors import FileError, InputError, ModelError, SilenceWarning
from deconv1d.progress import bar
from deconv1d.record.capture import Capture
from deconv1d.record.receptive_fields import total_stride
from deconv1d.sonification import needed_rate

if TYPE_CHECKING:
    from deconv1d.forward import ForwardPass
    from deconv1d.prepared.program import Program
    from deconv1d.sonify import Sonifier

TILE_SECONDS = 20.0
LONG_SECONDS = 120.0
"""Of a longer file, layers are listed on the first tile."""
BLOCK = 2**16
"""Samples read from a file, or copied between files, at a time."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tiling:
    """How a recording is cut into tiles.

    Attributes:
        stride: Tiles start at its multiples: the product of all strides up to the layer.
        halo: Samples to either side of what a tile is kept for; a multiple of the stride.
        inner: Samples that a tile in the middle is kept for; a multiple of the stride.
    """

    stride: int
    halo: int
    inner: int

    @property
    def length(self) -> int:
        """Samples in a tile."""
        return self.inner + 2 * self.halo


def tiling_of(captured: Capture, samples: int) -> Tiling:
    """The tiling for a layer.

    Args:
        captured: A forward pass up to the layer.
        samples: About how many samples a tile is to keep.

    Raises:
        ModelError: If an op before the layer reads all of time; it is named.
    """
    assert captured.tap is not None
    field = captured.receptive_fields.get(captured.tap)
    if field is None:
        node = _first_global(captured)
        raise ModelError(
            f"Layer {captured.tap.meta['name']!r} cannot be streamed: expected ops that read a "
            f"stretch of time, but {node.meta['name']!r} ({node.meta['source']}) reads all of it. "
            f"Choose a layer before that, or sonify a recording that fits into memory."
        )
    stride = total_stride(captured.receptive_fields.values())
    # One receptive field, and a step more: a moment may begin between two samples.
    halo = _rounded_up(ceil(field.stop - field.start) + ceil(field.hop), stride)
    return Tiling(stride, halo, _rounded_up(max(samples, halo), stride))


def _first_global(captured: Capture) -> Node:
    fields = captured.receptive_fields
    return next(node for node in captured.graph.nodes if node in fields and fields[node] is None)  # type: ignore[no-any-return]  # fx is untyped


def _rounded_up(samples: int, step: int) -> int:
    return -(-samples // step) * step


def tiles(blocks: Iterable[Array], tiling: Tiling) -> Iterator[tuple[Array, slice]]:
    """Cuts a recording that comes in blocks.

    Args:
        blocks: (..., time) each, of any lengths.
        tiling: How to cut.

    Yields:
        A tile, and which of its samples are kept. All are of one length but the last.
    """
    waiting: list[Array] = []
    held, first = 0, True
    for block in blocks:
        waiting.append(block)
        held += block.shape[-1]
        # Tile n begins at sample n * inner and has inner + 2 * halo samples. It is kept from
        # n * inner + halo (tile 0: from 0) to (n + 1) * inner + halo, where the next one goes on.
        while held > tiling.length:  # more follows, so this is not the last
            samples = np.concatenate(waiting, -1)
            start = 0 if first else tiling.halo
            yield samples[..., : tiling.length], slice(start, tiling.halo + tiling.inner)
            waiting, first = [samples[..., tiling.inner :]], False
            held -= tiling.inner
    if held:
        samples = np.concatenate(waiting, -1)
        yield samples, slice(0 if first else tiling.halo, samples.shape[-1])


def stream(
    sonifier: Sonifier,
    forward_pass: ForwardPass,
    source: str | Path | Iterable[Array],
    *,
    out: str | Path,
    layer: str,
    channel: int,
    gain: float | None = None,
    tile_seconds: float = TILE_SECONDS,
    progress: bool = False,
    **options: str,
) -> Streamed:
    """Sonifies a recording of any length into a sound file; see `Sonifier.stream`."""
    rate = whole_rate(needed_rate(sonifier.sample_rate, "a stream"))
    format_of(out)  # before hours of work, not after
    if isinstance(source, str | Path) and os.path.realpath(source) == os.path.realpath(out):
        raise InputError(
            f"{str(out)!r} is the recording itself: expected a name for the sound, got one that "
            f"would replace what is listened to. Give another name or folder."
        )
    check_channel(channel)
    total, blocks = opened(source, rate)
    part = _beside(out)
    try:
        whole = None if total is None else ceil(total)
        with bar(total=whole, desc="stream", unit="s", shown=progress) as seconds:
            runs = raw_stretches(
                sonifier, forward_pass, blocks, layer, channel, tile_seconds, options
            )

            def tick(done: int) -> None:
                seconds.update(ceil(done / rate) - seconds.n)

            peak, raw_peak, samples = _write_raw(part, runs, tick)
        # The recording's peak over the sonification's is known only at the end. Until then the
        # raw samples wait in a file.
        if gain is None:
            gain = peak / raw_peak if raw_peak > 0 else 0.0
        _write_scaled(part, out, gain, rate)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return Streamed(str(out), samples, rate, gain)


@dataclass(frozen=True)
class Streamed:
    """A sonification that was written to a file.

    Attributes:
        path: The file.
        samples: Its length.
        sample_rate: In hertz.
        gain: What the raw sonification was multiplied by; 0 if it is silent.
    """

    path: str
    samples: int
    sample_rate: int
    gain: float


def raw_stretches(
    sonifier: Sonifier,
    forward_pass: ForwardPass,
    blocks: Iterator[Array],
    layer: str,
    channel: int,
    tile_seconds: float,
    options: dict[str, str],
) -> Iterator[tuple[Array, Array]]:
    """The recording and its raw sonification, in step, a stretch at a time."""
    inner = round(tile_seconds * needed_rate(sonifier.sample_rate, "a stream"))
    beginning = _gathered(blocks, inner)
    tap = options.get("tap", "block")
    tiling = tiling_of(forward_pass.run_through(beginning, [layer], tap=tap).captured, inner)
    programs: dict[int, Program] = {}  # of tiles in the middle, and of the last
    for tile, kept in tiles(chain([beginning], blocks), tiling):
        length = tile.shape[-1]
        if length not in programs:
            programs[length] = sonifier.prepare(tile, layer=layer, **options)  # type: ignore[arg-type]  # words
        with warnings.catch_warnings():  # a tile may be silent where the recording is not
            warnings.simplefilter("ignore", SilenceWarning)
            raw = programs[length](tile, channel=channel).raw
        yield tile[kept], raw.cpu().numpy()[kept]


def beginning_of(source: Any, rate: int | None) -> Array | None:
    """The first tile of a long sound file, (time,), which tells as much of the layers as all of it.

    Args:
        source: Anything; None is returned unless it is the path of a long recording.
        rate: To read it at.
    """
    if rate is None or not isinstance(source, str | Path):
        return None
    seconds, blocks = opened(source, rate)
    if seconds is None or seconds <= LONG_SECONDS:
        return None
    samples = round(TILE_SECONDS * rate)
    return _gathered(blocks, samples)[:samples]


def _gathered(blocks: Iterator[Array], samples: int) -> Array:
    """The first blocks, joined: at least so many samples, if there are so many."""
    parts: list[Array] = []
    while sum(map(len, parts)) < samples and (block := next(blocks, None)) is not None:
        parts.append(block)
    if not parts:
        raise InputError("The recording is empty: expected at least one sample, got 0.")
    return np.concatenate(parts)


# --- files ---------------------------------------------------------------------------------------


def opened(source: str | Path | Iterable[Array], rate: int) -> tuple[float | None, Iterator[Array]]:
    """Length in seconds, if known, and the recording at this rate, mono, in blocks.

    Args:
        source: A sound file, or blocks at this rate, which are returned.
        rate: In hertz.

    Raises:
        FileError: If the file cannot be read, at once or while the blocks are.
    """
    if not isinstance(source, str | Path):
        return None, map(np.asarray, iter(source))
    import soundfile

    try:
        info = soundfile.info(str(source))
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise FileError(
            f"{str(source)!r} cannot be read: expected a sound file that libsndfile reads, got "
            f"{error}. Copy it again, or convert it: ffmpeg -i IN OUT.wav"
        ) from error
    # `is_cut` looks at the beginning and the end alone: a long file is not read for it.
    with open(source, "rb") as file:
        ends = file.read(4)
        file.seek(max(4, os.fstat(file.fileno()).st_size - 2**17))
        ends += file.read()
    if is_cut(ends, info.extra_info):
        raise FileError(
            f"{str(source)!r} is cut short: expected all the samples that it declares. Copy it "
            f"again, or keep what is there: ffmpeg -i IN OUT.wav"
        )
    return info.duration, _blocks_of(Path(source), rate)


def _blocks_of(path: Path, rate: int) -> Iterator[Array]:
    """Blocks of a sound file, mono, at another rate if need be."""
    import soundfile
    import soxr

    with soundfile.SoundFile(path) as file:
        resampler = (
            None
            if file.samplerate == rate
            else soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32")
        )
        read = 0
        for block in file.blocks(BLOCK, dtype="float32", always_2d=True):
            read += len(block)
            mono = block.mean(1)
            yield mono if resampler is None else resampler.resample_chunk(mono)
        if read < file.frames:
            raise FileError(
                f"{str(path)!r} is cut short: expected the {file.frames} samples that it declares, "
                f"got {read}. Copy it again, or keep what is there: ffmpeg -i IN OUT.wav"
            )
        if resampler is not None:
            # The resampler holds some samples back until it is told that no more follow.
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _write_raw(
    part: Path, runs: Iterator[tuple[Array, Array]], tick: Callable[[int], Any]
) -> tuple[float, float, int]:
    """Writes the raw sonification as bare numbers; returns both peaks and the length."""
    peak, raw_peak, samples = 0.0, 0.0, 0
    with _writing(part), open(part, "xb", opener=partial(os.open, mode=0o600)) as file:
        for x, raw in runs:
            raw.astype(np.float64).tofile(file)
            peak, raw_peak = max(peak, _peak(x)), max(raw_peak, _peak(raw))
            samples += len(x)
            tick(samples)
    return peak, raw_peak, samples


def _peak(samples: Array) -> float:
    return float(np.abs(samples).max(initial=0))


def _write_scaled(part: Path, out: str | Path, gain: float, rate: int) -> None:
    """Writes the sound file beside its place, and moves it there when it is whole."""
    import soundfile

    file_format, subtype = format_of(out)
    settings = {"format": file_format, "subtype": subtype}
    with (
        _writing(out),
        whole_file(out) as whole,
        open(part, "rb") as numbers,
        soundfile.SoundFile(whole, "w", rate, 1, **settings) as file,
    ):
        while len(raw := np.fromfile(numbers, np.float64, BLOCK)):
            file.write(raw * gain)


def _beside(out: str | Path) -> Path:
    """Where the raw samples wait: beside the file, or where there is room for it if it is none."""
    target = Path(os.path.realpath(out))
    special = target.exists() and not target.is_file()
    folder = Path(tempfile.gettempdir()) if special else target.parent
    return folder / f".{uuid.uuid4().hex}.part"


@contextlib.contextmanager
def _writing(path: str | Path) -> Iterator[None]:
    """Turns what goes wrong on a disk into an error that says what to do."""
    import soundfile

    try:
        yield
    except FileError:
        raise
    except (OSError, soundfile.LibsndfileError) as error:
        raise FileError(
            f"{str(path)!r} cannot be written: {error}. Give a file in a folder that exists, may "
            f"be written to and has space: 8 bytes a sample while it is made."
        ) from error


def check_channel(channel: Any) -> None:
    """Raises InputError unless it is one channel's number."""
    if isinstance(channel, bool) or not isinstance(channel, int):
        raise InputError(
            f"The channel {channel!r} cannot be streamed: expected a number, since which channel "
            f"is most active is known at the end of the recording alone. Give a number."
        )
