"""Files as shells give them: dashes, pipes, several, folders; outputs are checked first."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import options, samples, sonify, sound, write

import deconv1d
from deconv1d.cli.commands import main
from deconv1d.cli.shell import for_the_shell


def test_names_that_begin_with_a_dash(capsys):
    write("-dash.wav", sound(1200))
    assert sonify("-dash.wav", "-o", "-out.ogg", "--spectrogram", "-out.png") == 0
    assert Path("-out.ogg").is_file()
    assert Path("-out.png").is_file()
    assert main(["layers", "-dash.wav", *options()]) == 0


def test_a_recording_from_a_pipe(clip, monkeypatch, capsys):
    assert sonify(clip, "-o", "a.wav") == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(clip).read_bytes())))
    assert sonify("-", "-o", "b.wav") == 0
    np.testing.assert_array_equal(samples("a.wav"), samples("b.wav"))


def test_several_recordings_folders_and_wildcards(capsys):
    Path("in").mkdir()
    for name in ("in/a.wav", "in/b.flac", "c.wav"):
        write(name, sound(1200))
    Path("in/notes.txt").write_text("no sound")
    output = ["-o", "out/{name}-{channel}.wav", "--channel", "0,2", "--layer", "3"]
    Path("out").mkdir()
    assert main(["sonify", "in", "c.wa*", *options(), *output, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    made = sorted(path.name for path in Path("out").iterdir())
    assert made == [f"{name}-{channel}.wav" for name in "abc" for channel in (0, 2)]
    assert [s["recording"] for s in facts["sounds"]][::2] == ["in/a.wav", "in/b.flac", "c.wav"]
    assert sonify("c.wav", "-o", "alone.wav", "--channel", "2") == 0
    np.testing.assert_allclose(samples("alone.wav"), samples("out/c-2.wav"), atol=1e-6)


def test_a_recording_from_a_pipe_with_a_name(clip, tmp_path):
    """What `<(sox ...)` in bash is: it can be read once, and not be asked for its length."""
    os.mkfifo("pipe")
    with subprocess.Popen(["cp", clip, "pipe"]):
        assert sonify("pipe", "-o", "b.wav") == 0
    assert sonify(clip, "-o", "a.wav") == 0
    np.testing.assert_array_equal(samples("a.wav"), samples("b.wav"))


@pytest.mark.parametrize("output", ["clip.wav", "./clip.wav", "{name}.wav", "link.wav"])
def test_a_recording_is_not_written_over(clip, output, capsys):
    before = Path(clip).read_bytes()
    os.symlink(clip, "link.wav")
    assert sonify(clip, "-o", output, model="models.py:failing") == 2
    assert "is a recording" in capsys.readouterr().err
    assert Path(clip).read_bytes() == before


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_recording_is_not_written_over_by_its_channels(stream, capsys):
    before = Path(write("clip-3.wav", sound(2400))).read_bytes()
    asked = ["--channel", "1,3", "-o", "clip-{channel}.wav", *stream]
    assert sonify("clip-3.wav", *asked, model="models.py:failing") == 2
    assert "is a recording" in capsys.readouterr().err
    assert Path("clip-3.wav").read_bytes() == before


def test_several_recordings_need_several_names(clip, refused):
    write("b.wav", sound(1200))
    refused(main(["sonify", clip, "b.wav", *options(), "--layer", "3", "-o", "out.wav"]), "{name}")
    write_twice = ["-o", "out-{name}.wav"]
    Path("x").mkdir()
    write("x/clip.wav", sound(1200))
    refused(
        main(["sonify", clip, "x/clip.wav", *options(), "--layer", "3", *write_twice]),
        "'out-clip.wav'",
    )


@pytest.mark.parametrize("given", ["no*.wav", "empty"])
def test_what_names_no_recording(given, refused):
    Path("empty").mkdir()
    refused(sonify(given), repr(given), "one sound file or more")


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("-o", "out.xyz", ("'.xyz'", ".wav, .flac, .ogg")),
        ("-o", "nowhere/out.wav", ("'nowhere'", "a folder that exists")),
        ("-o", "models.py/out.wav", ("'models.py'",)),
        ("-o", "here.wav", ("'here.wav'", "a folder")),
        ("--spectrogram", "out.xyz", ("'.xyz'", ".png")),
        ("--spectrogram", "nowhere/out.png", ("'nowhere'",)),
        ("--subtype", "PCM_99", ("'PCM_99'", "PCM_16")),
    ],
)
def test_outputs_are_checked_before_the_model_runs(clip, option, name, words, refused):
    Path("here.wav").mkdir()
    # This model would say so if it were made.
    refused(sonify(clip, option, name, model="models.py:failing"), *words)


@pytest.mark.parametrize("command", ["card", "compare"])
def test_pages_are_checked_before_the_model_runs(clip, command, refused):
    page = ["-o", "nowhere/page.html", "--layer", "3"]
    refused(main([command, clip, *options("models.py:failing"), *page]), "'nowhere'")


@pytest.mark.parametrize(
    ("command", "option", "name", "ending"),
    [
        ("card", "-o", "card.wav", ".html"),
        ("compare", "-o", "methods", ".html"),
        ("benchmark-trust", "-o", "trust.csv", ".html"),
        ("tuning", "-o", "curves.html", ".csv"),
        ("tuning", "--figure", "curves.csv", ".png"),
    ],
)
def test_outputs_are_of_a_known_type_before_the_model_runs(
    clip, command, option, name, ending, refused
):
    given = {"benchmark-trust": ["--data", "."], "tuning": ["--layer", "3"]}
    more = given.get(command, [clip, "--layer", "3"])
    code = main([command, *more, *options("models.py:failing"), option, name])
    refused(code, repr(name), ending)


@pytest.mark.parametrize("command", [["demo"], ["report", "mined"]])
def test_folders_are_checked_first(command, refused):
    refused(main([*command, "-o", "nowhere/out"]), "'nowhere/out' cannot be written", "folder")
    refused(main([*command, "-o", "models.py"]), "'models.py' cannot be written", "it is a file")


def test_a_typo_is_answered_for_the_shell(clip, refused, capsys):
    assert sonify(clip, "--layer", "33") == 2
    shown = capsys.readouterr().err
    assert "deconv1d layers" in shown
    assert "sonifier" not in shown
    refused(main(["sonfy"]), "invalid choice: 'sonfy'", "sonify", "deconv1d --help")


ADVICE = {
    "sonifier.layers(x) lists them": "deconv1d layers lists them",
    "sonifier.plan(x, 'conv3') shows": "deconv1d plan --layer 'conv3' shows",
    "Sonifier(model, sample_rate=8000).": "--sample-rate 8000.",
    "use method='mask' or channel_axis=2": "use --method mask or --channel-axis 2",
    "Give draws=1 or channel=3.": "Give --draws 1 or --channel 3.",
    "Leave `methods` out for all of them.": "Leave --methods out for all of them.",
    "sample_rate=-8000 cannot be used": "--sample-rate -8000 cannot be used",
}


@pytest.mark.parametrize("python", ADVICE)
def test_advice_in_python_becomes_advice_for_the_shell(python):
    assert for_the_shell(python) == ADVICE[python]


def test_no_message_of_the_library_names_a_sonifier_in_the_shell():
    """Every piece of advice of the form `sonifier.method(x...)` that its messages give."""
    found = set()
    for path in Path(deconv1d.__file__).parent.rglob("*.py"):
        for text in re.findall(r'^ *r?f?"(.*)"', path.read_text("utf-8"), re.MULTILINE):
            found |= set(re.findall(r"sonifier\.\w+(?:\(x[^)]*\))?", text))
    assert len(found) >= 3
    assert [advice for advice in found if "sonifier" in for_the_shell(advice)] == []


def test_all_options_of_sonify(clip, capsys):
    np.save("direction.npy", np.eye(5, dtype=np.float32)[2])
    assert sonify(clip, "--channel", "2", "-o", "a.wav") == 0
    assert sonify(clip, "--direction", "direction.npy", "-o", "b.wav") == 0
    assert sonify(clip, "--channel", "2", "--channel-axis", "1", "-o", "c.wav") == 0
    for other in ("b.wav", "c.wav"):
        np.testing.assert_allclose(samples("a.wav"), samples(other), atol=1e-6)
    assert sonify(clip, "--channel-axis", "0", "-o", "d.wav") == 2
    assert "--channel-axis" in capsys.readouterr().err


def test_the_random_masks_have_a_seed(clip):
    heard = []
    for n, state in enumerate(("0", "0", "1")):
        name = f"{n}.wav"
        assert sonify(clip, "--method", "mask", "--random-state", state, "-o", name) == 0
        heard.append(samples(name))
    np.testing.assert_array_equal(heard[0], heard[1])


def test_an_unknown_device_is_refused(clip, refused):
    refused(sonify(clip, "--device", "nowhere"), "'nowhere'", "--device cpu")


def test_the_shell_completes():
    pytest.importorskip("argcomplete")
    line = "deconv1d sonify clip.wav --met"
    environment = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    code = "import os; f = os.fdopen(8, 'wb', closefd=False); from deconv1d.cli import main; main()"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" 8>&1'],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "_ARGCOMPLETE_IFS": "\n"},
    )
    assert "--method" in done.stdout


def test_dead_channels_are_said_once(clip, capsys):
    Path("dead.py").write_text(
        "from models import wide\nimport torch\n\ndef make():\n    model = wide()\n"
        "    torch.nn.init.zeros_(model[3].weight[:20])\n"
        "    torch.nn.init.zeros_(model[3].bias[:20])\n    return model\n"
    )
    Path("out").mkdir()
    output = ["-o", "out/{channel}.wav", "--channel", "all"]
    assert sonify(clip, *output, model="dead.py:make") == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "silent" in line]
    assert line.endswith(
        "20 of 40 sonifications of layer '3' are silent, the first that of channel 0."
    )


@pytest.mark.parametrize("option", ["--direction", "--other"])
def test_each_file_that_is_not_there_is_said_before_a_model_is_made(clip, option, refused):
    more = ["-o", "out.wav"] if option == "--direction" else []
    command = "sonify" if option == "--direction" else "card"
    made = options("models.py:failing")
    code = main([command, clip, *made, "--layer", "3", *more, option, "nowhere.npy"])
    refused(code, "'nowhere.npy' cannot be read: No such file")


def test_a_direction_that_is_no_array_is_refused(clip, refused):
    refused(sonify(clip, "--direction", clip), repr(clip), "numpy.save")


def test_of_several_recordings_all_are_looked_at_first(clip, refused):
    """An hour of work must not end at the last of 500 files."""
    Path("notes.txt").write_text("no sound")
    more = ["--layer", "3", "-o", "out-{name}.wav"]
    code = main(["sonify", clip, "notes.txt", *options("models.py:failing"), *more])
    refused(code, "'notes.txt' cannot be read", "Format not recognised")


@pytest.mark.parametrize("command", ["layers", "plan", "sonify", "card", "compare", "demo"])
def test_a_recording_that_is_not_there_is_said_before_a_model_is_made(command, refused):
    made = ["--model", "models.py:failing", "--sample-rate", "8000"]
    layer = [] if command in ("layers", "demo") else ["--layer", "3"]
    output = ["-o", "out.wav"] if command == "sonify" else []
    refused(main([command, "nowhere.wav", *made, *layer, *output]), "'nowhere.wav' cannot be read")
