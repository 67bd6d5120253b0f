"""Sound files: a waveform and a sample rate in, a whole file or a clear error out, and back.

A waveform here is a NumPy array or torch tensor of shape (time,) or (channels, time). Every file
is written under a temporary name in its own folder and then renamed: it is whole or not there.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from deconv1d.errors import FileError, InputError, warn

if TYPE_CHECKING:
    import soundfile

Samples: TypeAlias = npt.NDArray[np.floating[Any]]
Waveform: TypeAlias = torch.Tensor | npt.NDArray[Any]

FORMATS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24"), ".ogg": ("OGG", "VORBIS")}
FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
ENCODER_BLOCK = 2**16  # frames; libsndfile overflows its stack on minutes of Ogg Vorbis at once
UNKNOWN_LENGTH = 2**31 - 2**16  # bytes; programs that write to a pipe declare at least so many


def write_audio(
    path: str | Path, waveform: Waveform, sample_rate: int, *, subtype: str | None = None
) -> None:
    """Writes a waveform to a sound file, replacing the file if there is one.

    Samples are written as they are, never scaled or clipped. Float formats hold any peak, but
    players clip at 1, so a higher peak warns. The other formats hold at most 1, so a higher peak
    is an error.

    Args:
        path: Where to write: `.wav` (32-bit float), `.flac` (24-bit) or `.ogg` (Vorbis).
        waveform: Shape (time,) or (channels, time).
        sample_rate: Samples per second.
        subtype: Another sample format, by libsndfile's name, such as "PCM_16".

    Raises:
        InputError: If the waveform, the rate, the suffix or the subtype cannot be used, or the
            peak is above what the format holds.
        FileError: If the file cannot be written.

    Example:
        >>> write_audio("noise.wav", 0.1 * torch.randn(8000), 8000)
    """
    file_format, default_subtype = format_of(path)
    subtype = default_subtype if subtype is None else subtype.upper()
    samples = as_samples(waveform)
    content = encode_audio(samples, sample_rate, file_format=file_format, subtype=subtype)
    _check_peak(float(np.abs(samples).max()), subtype, path)
    write_whole(path, content)


def format_of(path: str | Path) -> tuple[str, str]:
    """The format and the default sample format of a sound file to write, by libsndfile's names.

    Args:
        path: Its suffix decides.

    Raises:
        InputError: If the suffix names no format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"{str(path)!r} cannot be written: expected a suffix that names a sound format, got "
            f"{suffix!r}. Choose one of {', '.join(FORMATS)}."
        )
    return FORMATS[suffix]


def read_audio(
    path: str | Path, sample_rate: int | None = None, *, mono: bool = True
) -> tuple[npt.NDArray[np.float32], int]:
    """Reads a sound file of any kind that libsndfile reads.

    Args:
        path: The file.
        sample_rate: Resample to this many samples per second (soxr, high quality); None keeps
            the file's own rate.
        mono: Return the mean of the channels, shape (time,); else shape (channels, time).

    Returns:
        The waveform in float32, and its sample rate. Integer formats are scaled to -1..1.

    Raises:
        FileError: If the file is missing, a folder, empty, no sound file, damaged, cut short, or
            shorter than one sample at `sample_rate`.
        InputError: If `sample_rate` is not a whole number above 0.
    """
    sample_rate = None if sample_rate is None else whole_rate(sample_rate)
    content = _read_bytes(path)
    if not os.path.isfile(path):  # a pipe can be read once
        return decode_audio(content, str(path), sample_rate, mono=mono)
    # By its number, not through Python: callbacks of libsndfile's swallow Ctrl-C.
    with open(path, "rb") as file:
        return _decoded(file.fileno(), content, str(path), sample_rate, mono=mono)


def check_audio(path: str | Path) -> None:
    """Raises FileError if a file is no sound file; only its header is read.

    Args:
        path: The file. What can be read once, such as a pipe, is not looked at.
    """
    import soundfile

    if not os.path.isfile(path):
        return
    try:
        soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise _refused(str(path), os.path.getsize(path), error) from error


def decode_audio(
    content: bytes, name: str, sample_rate: int | None = None, *, mono: bool = True
) -> tuple[npt.NDArray[np.float32], int]:
    """The waveform in the bytes of a sound file, as `read_audio` gives it.

    Args:
        content: All of the file.
        name: What messages call it.
        sample_rate: As for `read_audio`.
        mono: As for `read_audio`.

    Raises:
        FileError, InputError: As for `read_audio`.
    """
    return _decoded(io.BytesIO(content), content, name, sample_rate, mono=mono)


def _decoded(
    file: int | io.BytesIO, content: bytes, name: str, sample_rate: int | None, *, mono: bool
) -> tuple[npt.NDArray[np.float32], int]:
    target_rate = None if sample_rate is None else whole_rate(sample_rate)
    frames, rate = _frames(file, content, name)
    samples = frames.mean(axis=1) if mono else frames
    if target_rate is not None and target_rate != rate:
        samples, rate = _resample(samples, rate, target_rate), target_rate
    if not len(samples):
        raise FileError(
            f"{name!r} holds no sound: expected at least one sample at {rate} Hz, got "
            f"{len(frames)} before resampling. Give a longer recording."
        )
    return np.ascontiguousarray(samples.T), rate


def write_whole(path: str | Path, content: bytes) -> None:
    """Writes a file so that it is either whole or as it was before, also when interrupted.

    Args:
        path: Where to write; see `whole_file`.
        content: All of the file.

    Raises:
        FileError: If the file cannot be written.
    """
    try:
        with whole_file(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise FileError(
            f"{str(path)!r} cannot be written: {error.strerror}. Give the path of a file in a "
            "folder that exists, may be written to and has space."
        ) from error


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Gives an empty file to fill, which takes its place when it is whole.

    Args:
        path: The place. A regular file that is there is replaced and keeps its mode. A link stays,
            and what it names is replaced. A device or a pipe is written into.

    Yields:
        The file to fill, in the same folder; for a device or a pipe, in the folder for temporary
        files.

    Raises:
        OSError: If it cannot be written.
    """
    target = Path(os.path.realpath(path))  # through a link: the link stays, its target is replaced
    special = target.exists() and not target.is_file()
    # Nobody wants a new file in /dev, and few may make one.
    folder = Path(tempfile.gettempdir()) if special else target.parent
    part = folder / f".{uuid.uuid4().hex}.part"
    mode = stat.S_IMODE(target.stat().st_mode) if target.is_file() else None
    try:
        # Closed to others from the start: a private file is not open for the time of a rename.
        os.close(os.open(part, _NEW, 0o600 if mode is not None or special else 0o666))
        yield part
        if special:
            with open(part, "rb") as whole, open(target, "wb") as device:
                shutil.copyfileobj(whole, device)
            return
        if mode is not None:
            part.chmod(mode)
        os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def encode_audio(samples: Samples, sample_rate: int, *, file_format: str, subtype: str) -> bytes:
    """The bytes of a sound file.

    Args:
        samples: Shape (channels, time).
        sample_rate: Samples per second.
        file_format: libsndfile's name of the file format.
        subtype: libsndfile's name of the sample format.

    Raises:
        InputError: If the format cannot hold this subtype, rate or number of channels.
        NoSpace: If the disk of temporary files is full.
    """
    import soundfile

    check_subtype(file_format, subtype)
    rate, channels = whole_rate(sample_rate), len(samples)
    settings = {"format": file_format, "subtype": subtype, "closefd": False}
    # A file, not memory: libsndfile's callbacks into Python swallow Ctrl-C.
    with tempfile.TemporaryFile(buffering=0) as content:
        try:
            with soundfile.SoundFile(content.fileno(), "w", rate, channels, **settings) as file:
                for start in range(0, samples.shape[1], ENCODER_BLOCK):
                    file.write(samples[:, start : start + ENCODER_BLOCK].T)
        except (soundfile.LibsndfileError, AssertionError) as error:
            _check_space(content)  # libsndfile does not tell a full disk from a wrong format
            raise InputError(
                f"The waveform cannot be encoded: {file_format} {subtype} does not hold {channels} "
                f"channels at {rate} Hz ({error}). Give shape (channels, time), or choose another "
                f"format."
            ) from error
        content.seek(0)
        return content.read()


def check_subtype(file_format: str, subtype: str) -> None:
    """Raises InputError unless a file format has a sample format.

    Args:
        file_format: libsndfile's name of the file format.
        subtype: libsndfile's name of the sample format.
    """
    import soundfile

    if not soundfile.check_format(file_format, subtype):
        raise InputError(
            f"The waveform cannot be encoded: expected a subtype that {file_format} has, got "
            f"{subtype!r}. Choose one of {', '.join(soundfile.available_subtypes(file_format))}."
        )


class NoSpace(FileError):
    """A sound cannot be encoded for want of space: so is every other sound then."""


def _check_space(file: Any) -> None:
    """Raises NoSpace if no more can be written to a temporary file."""
    try:
        file.write(bytes(2**16))
    except OSError as error:
        raise NoSpace(
            f"The waveform cannot be encoded: {error.strerror} in {tempfile.gettempdir()!r}, where "
            f"it is put together. Make space there, or set TMPDIR to a folder that has some."
        ) from error


def as_samples(waveform: Waveform) -> Samples:
    """The waveform as an array of shape (channels, time), in float32 or float64.

    Args:
        waveform: Shape (time,) or (channels, time).

    Raises:
        InputError: If it is not floating, finite, non-empty and of such a shape.
    """
    if isinstance(waveform, torch.Tensor):
        waveform = waveform.detach().cpu()
        waveform = waveform.float() if waveform.dtype == torch.bfloat16 else waveform
    array = np.asarray(waveform)
    if array.dtype.kind != "f" or array.ndim not in (1, 2) or not array.size:
        raise InputError(
            "The waveform cannot be used: expected floating samples of shape (time,) or "
            f"(channels, time), got {array.dtype} of shape {array.shape}. Give one example at a "
            "time; divide integer samples by their full scale."
        )
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(
            "The waveform cannot be used: expected finite samples, got "
            f"{array.size - np.count_nonzero(finite)} of {array.size} that are NaN or infinite. "
            "Find where they come from."
        )
    return np.atleast_2d(array).astype(np.result_type(array, np.float32), copy=False)


def whole_rate(sample_rate: int) -> int:
    """The sample rate as an int, also from 8000.0 or a NumPy number.

    Args:
        sample_rate: Samples per second.

    Raises:
        InputError: If it is not a whole number above 0.
    """
    if not (sample_rate > 0 and float(sample_rate).is_integer()):
        raise InputError(
            f"sample_rate={sample_rate!r} cannot be used: expected a whole number of samples per "
            "second above 0. Give the rate that the waveform was read at."
        )
    return int(sample_rate)


def _check_peak(peak: float, subtype: str, path: str | Path) -> None:
    """Raises if the format has clipped the samples, warns if players will."""
    if peak <= 1 + 1e-6:  # scaling to peak 1 may round to so much
        return
    if subtype not in FLOAT_SUBTYPES:
        raise InputError(
            f"{str(path)!r} cannot hold this waveform: expected a peak of at most 1 for {subtype} "
            f"samples, got {peak:.6g}. Divide it by its peak, or write float samples to a .wav."
        )
    warn(
        f"{str(path)!r} is written as it is, with a peak of {peak:.6g}, but players clip at 1. "
        "Divide the waveform by its peak to listen to it.",
    )


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(
            f"{str(path)!r} cannot be read: {error.strerror}. Give the path of one sound file."
        ) from error


def _frames(
    source: int | io.BytesIO, content: bytes, name: str
) -> tuple[npt.NDArray[np.float32], int]:
    """The frames of a sound file, shape (time, channels), and its rate."""
    import soundfile

    if (counted := with_length(content)) is not None:
        source = io.BytesIO(counted)
    try:
        with soundfile.SoundFile(source, closefd=False) as file:
            frames = file.read(dtype="float32", always_2d=True)
            rate, declared, log = file.samplerate, file.frames, file.extra_info
    except soundfile.LibsndfileError as error:
        raise _refused(name, len(content), error) from error
    if (len(frames) < declared and counted is None) or is_cut(content, log):
        raise FileError(
            f"{name!r} is cut short: expected all the samples that it declares, got "
            f"{len(frames)}. Copy it again, or keep what is there: ffmpeg -i IN OUT.wav"
        )
    return frames, rate


def _refused(name: str, size: int, error: soundfile.LibsndfileError) -> FileError:
    return FileError(
        f"{name!r} cannot be read: expected a whole sound file, got {size} bytes that libsndfile "
        f"refuses ({error.error_string}). Copy it again, or convert it: ffmpeg -i IN OUT.wav"
    )


def with_length(content: bytes) -> bytes | None:
    """An MP3 that does not say its length, with a first frame that does; None: it is none of these.

    libsndfile estimates the length from the first frame's bitrate, and reads no further: of a
    variable bitrate it loses the end, or declares more than there is.

    Args:
        content: All of a file.

    Source: ISO 11172-3, section 2.4.1.3 (headers); the Xing header as LAME and FFmpeg write it.
    """
    start = 0
    if content.startswith(b"ID3") and len(content) > 10:  # a tag: its length in 4 times 7 bits
        start = 10 + sum(byte << 7 * (3 - n) for n, byte in enumerate(content[6:10]))
    header, place, frames = content[start : start + 4], start, 0
    while size := _mp3_frame(content[place : place + 4], header):
        if not frames and any(tag in content[place : place + size] for tag in _LENGTH_TAGS):
            return None
        place, frames = place + size, frames + (place + size <= len(content))
    if frames < 2:  # two headers in a row are no accident
        return None
    # At 32 bytes of side information or fewer a decoder looks for the word; flag 1: frames follow.
    mono, newest = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    room = (17 if mono else 32) if newest else (9 if mono else 17)
    first = bytes([header[0], header[1] | 1, *header[2:]])  # no checksum
    tag = first + bytes(room) + b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    size = _mp3_frame(first, first)
    return tag.ljust(size, b"\0")[:size] + content[start:]


_LENGTH_TAGS = (b"Xing", b"Info", b"VBRI")
_KBITS = {  # of layer III: MPEG 1, and MPEG 2 and 2.5
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _mp3_frame(header: bytes, like: bytes) -> int:
    """Bytes of the frame of layer III that begins so; 0: it is none, or of another stream."""
    if len(header) < 4 or len(like) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, rate = header[1] >> 3 & 3, header[2] >> 2 & 3
    if version == 1 or rate == 3 or header[1] & 0xFE != like[1] & 0xFE:
        return 0
    kbits = _KBITS[version == 3][header[2] >> 4]
    samples = 144 if version == 3 else 72  # a byte for each 8 of 1152 or 576
    return samples * 1000 * kbits // _MP3_RATES[version][rate] + (header[2] >> 1 & 1)


def is_cut(content: bytes, log: str) -> bool:
    """Whether a file ends before its sound does, where libsndfile reads on without a word.

    Args:
        content: The file's bytes; of a long file its first four and its last 2**17 are enough.
        log: What libsndfile says of it.
    """
    if content.startswith(b"OggS"):
        page = content[content.rfind(b"OggS") :]  # header, segment table, body: RFC 3533
        whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
        return not (whole and page[5] & 4)  # this bit marks the last page of the stream
    sizes = re.search(r"(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", log)
    return sizes is not None and int(sizes[2]) < int(sizes[1]) < UNKNOWN_LENGTH


def _resample(
    samples: npt.NDArray[np.float32], rate: int, target_rate: int
) -> npt.NDArray[np.float32]:
    """Samples of shape (time,) or (time, channels) at another rate."""
    import soxr

    resampled: npt.NDArray[np.float32] = soxr.resample(samples, rate, target_rate)
    return resampled
