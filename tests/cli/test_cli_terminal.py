"""The command on terminals, pipes and disks as they are; long recordings in tiles."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import ENVIRONMENT, samples, sonify, sound

from deconv1d import FileError, audio
from deconv1d.audio import write_audio
from deconv1d.cli import streaming

PIPED = """
import sys
from deconv1d.cli import commands
print(commands.print_answer({text!r}), file=sys.stderr)
"""


def answered(text, stdout, **environment):
    command = [sys.executable, "-c", PIPED.format(text=text)]
    return subprocess.run(
        command, stdout=stdout, stderr=-1, env={**ENVIRONMENT, **environment}, text=True
    )


def test_a_unicode_path_is_printed_on_an_ascii_terminal():
    done = answered("Übung.wav: Kanal 3", -1, PYTHONIOENCODING="ascii")
    assert done.stdout == "\\xdcbung.wav: Kanal 3\n"
    assert done.stderr == "0\n"


def test_a_reader_that_has_gone_is_no_traceback():
    end, start = os.pipe()
    os.close(end)
    done = answered("line", start)
    os.close(start)
    assert done.stderr == "141\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_said():
    with open("/dev/full", "w") as full:
        done = answered("line", full)
    assert "No space left on device" in done.stderr
    assert done.stderr.endswith("2\n")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("name", ["out.wav", "out.flac", "out.ogg"])
def test_a_full_disk_for_temporary_files_is_not_called_a_format(monkeypatch, name):
    full = lambda **_: open("/dev/full", "r+b", buffering=0)  # noqa: E731, SIM115
    monkeypatch.setattr(audio.tempfile, "TemporaryFile", full)
    with pytest.raises(FileError, match=r"No space left on device.* set TMPDIR"):
        write_audio(name, sound(100_000), 8000)


def test_a_channel_that_is_asked_for_twice_is_one_sound(clip):
    assert sonify(clip, "--channel", "0,0", "-o", "out.wav") == 0
    assert sonify(clip, "--channel", "2,0,2", "-o", "many-{channel}.wav") == 0
    assert sorted(p.name for p in Path().glob("*-?.wav")) == ["many-0.wav", "many-2.wav"]


# --- tiles ---------------------------------------------------------------------------------------


def test_tiles_give_what_the_whole_gives(clip):
    assert sonify(clip, "--channel", "1,3", "-o", "whole-{channel}.wav") == 0
    assert sonify(clip, "--channel", "1,3", "-o", "tiles-{channel}.wav", "--stream") == 0
    for channel in (1, 3):
        whole, tiles = samples(f"whole-{channel}.wav"), samples(f"tiles-{channel}.wav")
        np.testing.assert_allclose(tiles, whole, atol=1e-5)


def test_long_recordings_are_streamed_by_themselves(clip, monkeypatch):
    streamed = []
    monkeypatch.setattr(streaming, "STREAMED_SECONDS", 0.2)
    tiles = streaming.sonify_in_tiles
    monkeypatch.setattr(
        "deconv1d.cli.commands.sonify_in_tiles", lambda a, s: (streamed.append(a), tiles(a, s))[1]
    )
    assert sonify(clip, "--channel", "1") == 0
    assert len(streamed) == 1
    assert sonify(clip, "--channel", "most_active") == 0  # the whole is needed for that
    assert len(streamed) == 1


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--channel", "all"], "--channel all"),
        (["--channel", "1", "--low-cut", "100"], "--low-cut"),
        (["--channel", "1", "--seed", "peak"], "--seed peak"),
    ],
)
def test_what_needs_the_whole_is_not_streamed(clip, refused, more, word):
    refused(sonify(clip, *more, "--stream", "-o", "out{channel}.wav"), word, "--stream")


def test_a_stream_of_a_broken_file_leaves_nothing(clip, refused):
    content = Path(clip).read_bytes()
    Path("cut.wav").write_bytes(content[: len(content) // 2])
    refused(sonify("cut.wav", "--channel", "1", "--stream"), "'cut.wav'")
