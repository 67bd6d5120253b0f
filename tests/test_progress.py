"""Progress on a terminal and off it."""

import re
import sys
from pathlib import Path

import pytest
from command import enter, options, sound, write

from deconv1d import progress
from deconv1d.cli.commands import main
from deconv1d.prepared import stream
from deconv1d.progress import bar


@pytest.fixture
def passes(monkeypatch):
    """Lets seconds pass on the clock of progress bars, and on no other."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_off_a_terminal_a_line_every_few_seconds_says_what_is_left(passes, capsys):
    for _ in bar(range(8), desc="card", unit="sounds"):
        passes(3.0)
    out, err = capsys.readouterr()
    assert out == ""
    form = re.compile(r"card: (\d) of 8 sounds, 00:(\d\d) left")
    said = [form.fullmatch(line) for line in err.splitlines()]
    assert [int(each[1]) for each in said] == [2, 4, 6, 8]
    assert [int(each[2]) for each in said] == pytest.approx([18, 12, 6, 0], abs=1)  # rounded down
    assert "\r" not in err


def test_a_bar_within_a_bar_writes_lines_alone(passes, capsys):
    with bar(total=2, desc="page", unit="steps") as outer:
        for _ in range(2):
            for _ in bar(range(4), desc="masks", unit="batches"):
                passes(6.0)
            outer.update()
    lines = capsys.readouterr().err.splitlines()
    assert {line.split(":")[0] for line in lines} == {"page", "masks"}
    assert all(line.isprintable() for line in lines)


def test_mining_and_its_report_say_off_a_terminal_what_is_left(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    enter(tmp_path, monkeypatch)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    Path("in").mkdir()
    for number in range(3):
        write(f"in/{number}.wav", sound(900))
    assert main(["mine", *options(), "--data", "in", "-o", "out", "--layers", "3"]) == 0
    assert main(["report", "out", "-o", "page"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert all(line.endswith(" left") for line in lines)
    assert {"mining: 3 of 3 clips, 00:00 left"} < set(lines)
    assert any(line.startswith("sonifying: ") for line in lines)
    assert any(" of 5 channels, " in line for line in lines)


def test_what_is_done_at_once_prints_nothing(capsys):
    with bar(total=3, desc="card", unit="sounds") as counted:
        counted.update(3)
    list(bar(range(3), desc="card", unit="sounds", shown=False))
    assert capsys.readouterr().err == ""


def test_on_a_terminal_it_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(bar(range(3), desc="card", unit="sounds"))
    assert "card: 100%|" in capsys.readouterr().err


def test_a_recording_in_tiles_says_how_many_seconds_are_done(tmp_path, monkeypatch, capsys):
    enter(tmp_path, monkeypatch)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(stream, "TILE_SECONDS", 1.0)
    clip = write("clip.wav", sound(8000 * 5 // 2))
    options_of_layer = ["--layer", "3", "--channel", "1", "--stream", "-o", "out.wav"]
    assert main(["sonify", clip, *options(), *options_of_layer]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "stream: 3 of 3 s, 00:00 left"
    assert len(lines) == len(set(lines))


def test_all_progress_is_shown_by_one_function():
    files = Path(progress.__file__).parent.rglob("*.py")
    users = {file.name for file in files if "tqdm(" in file.read_text("utf-8")}
    assert users == {"progress.py"}
