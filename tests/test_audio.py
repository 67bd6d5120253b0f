"""Sound files: what goes in comes out, whole or not at all, and every bad file has its error."""

import io
import os
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from deconv1d.audio import read_audio, write_audio, write_whole
from deconv1d.errors import FileError, InputError
from deconv1d.report import MADE_BY, whole_folder

RATE = 8000
STEPS = {"PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 2**-25, "DOUBLE": 0}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape)


def sound_bytes(samples: np.ndarray, file_format: str, subtype: str | None = None) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples.T, RATE, format=file_format, subtype=subtype)
    return content.getvalue()


@pytest.mark.parametrize("shape", [(1,), (999,), (1, 999), (2, 999)])
@pytest.mark.parametrize(
    ("name", "subtype", "expected"),
    [
        ("a.wav", None, "FLOAT"),
        ("A.WAV", "pcm_16", "PCM_16"),
        ("a.wav", "DOUBLE", "DOUBLE"),
        ("a.flac", None, "PCM_24"),
        ("a.flac", "PCM_16", "PCM_16"),
    ],
)
def test_a_written_waveform_reads_back(tmp_path, shape, name, subtype, expected):
    waveform = noise(*shape)
    write_audio(tmp_path / name, waveform, RATE, subtype=subtype)
    samples, rate = soundfile.read(tmp_path / name, always_2d=True)
    assert rate == RATE
    assert soundfile.info(tmp_path / name).subtype == expected
    assert [path.name for path in tmp_path.iterdir()] == [name]
    np.testing.assert_allclose(samples.T, np.atleast_2d(waveform), rtol=0, atol=STEPS[expected])


def test_ogg_is_close(tmp_path):
    waveform = np.sin(np.arange(RATE) / 3) / 2
    write_audio(tmp_path / "a.ogg", waveform, RATE)
    read, rate = read_audio(tmp_path / "a.ogg")
    assert rate == RATE
    np.testing.assert_allclose(read, waveform, atol=0.05)


def test_minutes_of_ogg_do_not_overflow_the_encoders_stack(tmp_path):
    write_audio(tmp_path / "long.ogg", np.zeros(6_000_000, np.float32), 44_100)
    assert len(read_audio(tmp_path / "long.ogg")[0]) == 6_000_000


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_tensors_are_written_whatever_their_precision(tmp_path, dtype):
    waveform = torch.linspace(-1, 1, 9, dtype=dtype, requires_grad=True)
    write_audio(tmp_path / "a.wav", waveform, np.int64(RATE))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], waveform.detach().float())


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", None), ("a.ogg", None)]
)
def test_a_peak_that_the_format_cannot_hold_is_an_error(tmp_path, name, subtype):
    with pytest.raises(InputError, match=r"a peak of at most 1 for \w+ samples, got 1\.5"):
        write_audio(tmp_path / name, np.array([0.1, -1.5]), RATE, subtype=subtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("subtype", [None, "double"])
def test_a_float_file_keeps_a_high_peak_and_warns_of_players(tmp_path, subtype):
    with pytest.warns(UserWarning, match=r"peak of 256.*players clip") as caught:
        write_audio(tmp_path / "a.wav", np.array([0.0, -256.0]), RATE, subtype=subtype)
    assert caught[0].filename == __file__
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [0, -256]


def test_a_peak_of_1_that_was_rounded_up_is_written(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.wav", "a.flac"):
            write_audio(tmp_path / name, np.array([1 + 2e-7, -1 - 2e-7]), RATE)
    assert np.abs(read_audio(tmp_path / "a.flac")[0]).min() > 0.9999


BAD_WAVEFORMS = {
    "integers": (np.zeros(9, np.int16), "int16"),
    "complex": (np.zeros(9, np.complex64), "complex64"),
    "objects": (np.array([None]), "object"),
    "None": (None, "object"),
    "empty": (np.zeros((2, 0)), r"shape \(2, 0\)"),
    "batch": (torch.zeros(1, 1, 9), r"shape \(1, 1, 9\)"),
    "scalar": (torch.tensor(0.5), r"shape \(\)"),
    "nan": (np.array([0, np.nan, np.inf]), "2 of 3 that are NaN"),
}


@pytest.mark.parametrize(("waveform", "message"), BAD_WAVEFORMS.values(), ids=BAD_WAVEFORMS)
def test_what_is_no_waveform_is_an_error(tmp_path, waveform, message):
    with pytest.raises(InputError, match=message):
        write_audio(tmp_path / "a.wav", waveform, RATE)


@pytest.mark.parametrize("rate", [0, -1, 8000.5, float("nan"), float("inf")])
def test_the_rate_must_be_whole(tmp_path, rate):
    with pytest.raises(InputError, match="whole number of samples per second"):
        write_audio(tmp_path / "a.wav", noise(9), rate)
    with pytest.raises(InputError, match="whole number of samples per second"):
        read_audio(tmp_path / "a.wav", rate)


def test_unknown_suffixes_and_subtypes_list_the_known_ones(tmp_path):
    for name in ("a.mp4", "a", ".wav"):
        with pytest.raises(InputError, match=r"Choose one of \.wav, \.flac, \.ogg"):
            write_audio(tmp_path / name, noise(9), RATE)
    with pytest.raises(InputError, match=r"'PCM_U8'\. Choose one of .*PCM_16"):
        write_audio(tmp_path / "a.flac", noise(9), RATE, subtype="PCM_U8")


def test_time_by_channels_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"999 channels.*\(channels, time\)"):
        write_audio(tmp_path / "a.flac", noise(999, 2), RATE)


@pytest.mark.parametrize("moment", ["writing", "renaming"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_file_is_as_it_was_before(tmp_path, monkeypatch, moment, error):
    write_audio(tmp_path / "a.wav", noise(99), RATE)
    before = (tmp_path / "a.wav").read_bytes()

    def half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise error

    def fail(*_: object) -> None:
        raise error

    if moment == "writing":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else FileError):
        write_audio(tmp_path / "a.wav", noise(999), RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


def test_places_that_cannot_be_written_are_errors(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    for path in ("folder.wav", "missing/a.wav", "file/a.wav"):
        with pytest.raises(FileError, match=r"cannot be written: .*folder that exists"):
            write_audio(tmp_path / path, noise(9), RATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.wav"]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "whole", b"content")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
    write_whole(str(tmp_path / "whole"), b"new")
    assert (tmp_path / "whole").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a b.wav", 'it\'s "it".wav', "<script>.wav", "ü音.flac"])
def test_names_are_only_names(tmp_path, name):
    write_audio(tmp_path / name, noise(99), RATE)
    assert len(read_audio(str(tmp_path / name))[0]) == 99


def test_channels_are_averaged_or_kept(tmp_path):
    waveform = noise(7, 999).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", waveform.T, 192_000, subtype="DOUBLE")
    mono, rate = read_audio(tmp_path / "a.wav")
    assert (mono.dtype, mono.shape, rate) == (np.float32, (999,), 192_000)
    np.testing.assert_allclose(mono, waveform.mean(0), atol=1e-6)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", mono=False)[0], waveform)


@pytest.mark.parametrize(("file_rate", "rate"), [(192_000, 8000), (44_100, 8000), (8000, 22_050)])
def test_resampling_keeps_the_sound(tmp_path, file_rate, rate):
    write_audio(
        tmp_path / "a.wav", np.sin(np.arange(file_rate) / file_rate * 2000 * np.pi) / 2, file_rate
    )
    read, read_rate = read_audio(tmp_path / "a.wav", float(rate))
    expected = np.sin(np.arange(rate) / rate * 2000 * np.pi) / 2
    assert (read_rate, read.shape, read.dtype) == (rate, (rate,), np.float32)
    np.testing.assert_allclose(read[500:-500], expected[500:-500], atol=1e-3)
    assert read_audio(tmp_path / "a.wav", rate, mono=False)[0].shape == (1, rate)


def test_files_that_are_no_sound_are_errors(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.flac").write_text("no sound " * 99)
    (tmp_path / "raw.raw").write_bytes(bytes(999))
    for name in ("empty.wav", "text.flac", "raw.raw"):
        with pytest.raises(FileError, match=rf"{name}.*libsndfile refuses.*ffmpeg"):
            read_audio(tmp_path / name)
    for path in (tmp_path, tmp_path / "missing.wav", tmp_path / "empty.wav" / "a.wav"):
        with pytest.raises(FileError, match=r"cannot be read: .*path of one sound file"):
            read_audio(path)


@pytest.mark.parametrize("part", [0.6, 0.97, 0.999])
@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "AIFF", "AU", "MP3"])
def test_files_that_were_cut_are_errors(tmp_path, file_format, part):
    whole = sound_bytes(noise(40_000), file_format)
    path = tmp_path / "a.sound"
    path.write_bytes(whole)
    assert len(read_audio(path)[0]) == 40_000
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FileError, match=r"(is cut short|libsndfile refuses).*[cC]opy it again"):
        read_audio(path)


def test_an_ogg_file_cut_between_its_pages_is_an_error(tmp_path):
    whole = sound_bytes(noise(40_000), "OGG")
    (tmp_path / "a.ogg").write_bytes(whole[: whole.rfind(b"OggS")])
    with pytest.raises(FileError, match="cut short"):
        read_audio(tmp_path / "a.ogg")
    (tmp_path / "a.ogg").write_bytes(whole[: whole.rfind(b"OggS") + 20])
    with pytest.raises(FileError, match="cut short"):
        read_audio(tmp_path / "a.ogg")


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_file_written_to_a_pipe_is_whole(tmp_path, length):
    whole = sound_bytes(noise(999), "WAV")
    at = whole.find(b"data") + 4
    (tmp_path / "a.wav").write_bytes(whole[:at] + struct.pack("<I", length) + whole[at + 4 :])
    assert len(read_audio(tmp_path / "a.wav")[0]) == 999


def test_a_file_without_a_sample_is_an_error(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound_bytes(np.zeros(0), "WAV"))
    with pytest.raises(FileError, match=r"holds no sound.*got 0 before"):
        read_audio(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(sound_bytes(np.zeros(3), "WAV"))
    with pytest.raises(FileError, match="at least one sample at 100 Hz, got 3 before"):
        read_audio(tmp_path / "a.wav", 100)


@pytest.mark.recordings
def test_real_recordings_are_whole(recordings):
    for path in sorted(recordings.glob("esc10/*/*.ogg"))[::20]:
        waveform, rate = read_audio(path, 8000)
        assert rate == 8000
        assert 4.9 < len(waveform) / rate < 5.1


# --- what stands in the place of a file ----------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and modes of POSIX")


@posix
def test_a_device_is_written_into_and_not_replaced():
    write_whole("/dev/null", b"content")
    assert not Path("/dev/null").is_file()


@posix
def test_a_pipe_is_written_into_and_not_replaced(tmp_path):
    pipe, read = tmp_path / "pipe.wav", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_audio(pipe, np.zeros(8), 8000)
    reader.join()
    assert read[0].startswith(b"RIFF")
    assert pipe.is_fifo()


@posix
@pytest.mark.parametrize("target", ["there", "missing"])
def test_a_link_stays_and_what_it_names_is_replaced(tmp_path, target):
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "file.bin", tmp_path / "link.bin"
    if target == "there":
        file.write_bytes(b"old")
    link.symlink_to(file)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert list((tmp_path / "folder").iterdir()) == [file]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    file = tmp_path / "file.bin"
    file.write_bytes(b"old")
    file.chmod(mode)
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == mode


@posix
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    write_whole(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileError, match="cannot be written"):
        write_whole(tmp_path, b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_page_outlives_a_run_killed_between_two_renames(tmp_path, monkeypatch):
    folder, replace = tmp_path / "page", os.replace

    def write(text):
        with whole_folder(folder, names=["index.html"]) as part:
            (part / "index.html").write_text(f"{MADE_BY} {text}", "utf-8")

    class Killed(BaseException):
        pass

    def once(source, target):
        if Path(target) == folder:
            monkeypatch.setattr(os, "replace", stop)
            raise Killed
        replace(source, target)

    def stop(source, target):
        raise Killed

    write("old")
    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(Killed):
        write("new")
    assert not folder.exists()
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ZeroDivisionError), whole_folder(folder, names=["index.html"]):
        raise ZeroDivisionError  # the next run, which fails: the old page is there again
    assert "old" in (folder / "index.html").read_text("utf-8")
    write("newer")
    assert "newer" in (folder / "index.html").read_text("utf-8")
    assert not folder.with_name(".page.old").exists()


# --- MP3 -----------------------------------------------------------------------------------------


def mp3(mode, samples, rate=8000):
    content = io.BytesIO()
    options = {"format": "MP3", "compression_level": 0.5, "bitrate_mode": mode}
    with soundfile.SoundFile(content, "w", rate, samples.shape[-1], **options) as file:
        file.write(samples)
    return content.getvalue()


def headless(content):
    """Without its first frame, which says how long the sound is."""
    start = content.index(content[:2], 100)
    assert not {b"Xing", b"Info"} & {content[n : n + 4] for n in range(start, len(content))}
    return content[start:]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_without_its_length_is_read_whole(tmp_path, mode, rate, channels):
    loud = np.random.default_rng(0).normal(0, 0.2, (20000, channels))
    for name, parts in {"loud first": (loud, 0 * loud), "loud last": (0 * loud, loud)}.items():
        content = mp3(mode, np.concatenate(parts), rate)
        path = tmp_path / "a.mp3"
        path.write_bytes(content)
        whole, _ = read_audio(path, mono=False)
        assert whole.shape == (channels, 40000)
        path.write_bytes(headless(content))
        found, found_rate = read_audio(path, mono=False)
        assert found_rate == rate
        # Nothing says how many samples of the encoder's own stand before and after the sound.
        assert 40000 <= found.shape[1] < 40000 + 5 * 1152, name
        lags = scipy.signal.correlate(found[0], whole[0], mode="valid", method="fft")
        lag = int(lags.argmax())
        same = found[0, lag : lag + 40000]
        assert np.corrcoef(same[2000:-2000], whole[0, 2000:-2000])[0, 1] > 0.99, name


def test_a_cut_mp3_that_says_its_length_is_refused(tmp_path):
    content = mp3("CONSTANT", np.random.default_rng(0).normal(0, 0.2, (40000, 1)))
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="cut short"):
        read_audio(tmp_path / "a.mp3")
