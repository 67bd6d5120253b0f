"""Words as people type them in a shell: lists, numbers below zero, misspelt options."""

import json
from pathlib import Path

import pytest
from command import options, sonify, sound, write

from deconv1d.cli.commands import main

LISTED = {
    "demo clip.wav --layers 0 3": "--layers 0,3",
    "demo --layers 0 3 clip.wav": "--layers 0,3",
    "demo --layers=0 3 clip.wav": "--layers 0,3",
    "demo clip.wav --layers 0, 3": "--layers 0,3",
    "mine --data . -o mined --layers 0 1 3": "--layers 0,1,3",
    "benchmark-trust --data . --layers 0 3": "--layers 0,3",
    "compare clip.wav --layer 3 --methods deconvnet guided": "--methods deconvnet,guided",
    "sonify clip.wav --layer 3 -o out{channel}.wav --channel 0 3": "--channel 0,3",
    "sonify --layer 3 -o out{channel}.wav --channel 0 3 clip.wav": "--channel 0,3",
    "tuning --layer 3 --levels -20 -10 0": "--levels=-20,-10,0",
    "tuning --layer 3 --channel 0 3": "--channel 0,3",
}


@pytest.mark.parametrize("typed", LISTED)
def test_a_list_with_spaces_is_answered_by_the_list_with_commas(clip, typed, refused):
    code = main([*typed.split(), *options("models.py:failing")])
    refused(code, "commas between", f"Give {LISTED[typed]}.")


def test_recordings_after_a_list_are_recordings(clip, capsys):
    write("b.flac", sound(2400))
    more = ["--channel", "2", clip, "*.flac", "-o", "{name}-{channel}.ogg"]
    assert main(["sonify", "--layer", "3", *options(), *more]) == 0
    assert sorted(path.name for path in Path().glob("*.ogg")) == ["b-2.ogg", "clip-2.ogg"]


@pytest.mark.parametrize("written", ["0,3", "0, 3", "0,3,", " 0 ,3"])
def test_a_list_may_have_spaces_beside_its_commas(clip, written, capsys):
    page = ["--quick", "-o", "page", "--channel", "2"]
    assert main(["demo", clip, *options(), *page, "--layers", written]) == 0
    folder = Path("page", "recording-1")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["0", "3"]


def test_each_list_may_have_spaces_beside_its_commas(clip, capsys):
    assert sonify(clip, "--channel", "0, 2,", "-o", "out-{channel}.wav") == 0
    assert len(list(Path().glob("out-*.wav"))) == 2
    compared = ["--methods", "deconvnet, guided,", "--layer", "3", "--json"]
    capsys.readouterr()
    assert main(["compare", clip, *options(), *compared]) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    assert [row["method"] for row in rows][:2] == ["deconvnet", "guided"]


@pytest.mark.parametrize("option", ["--layers", "--methods"])
def test_an_empty_list_is_refused(clip, option, refused):
    command = ["demo"] if option == "--layers" else ["compare", "--layer", "3"]
    refused(main([*command, clip, *options(), option, ","]), option, "','", "commas")


@pytest.mark.parametrize("written", [["--levels", "-20,0"], ["--levels=-20,0"]])
def test_levels_begin_with_a_minus(written, capsys):
    short = ["--layer", "0", "--seconds", "0.1", "--per-octave", "1", "--channel", "1"]
    assert main(["tuning", *options(), *short, *written]) == 0
    assert "0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--chanel", "3"], ("'--chanel'", "such as --channel", "deconv1d sonify --help")),
        (["--layr=3"], ("'--layr=3'", "such as --layer", "deconv1d sonify --help")),
        (["--zzz"], ("'--zzz'", "deconv1d sonify --help")),
    ],
)
def test_an_option_that_is_misspelt(clip, words, answer, refused):
    refused(sonify(clip, *words), *answer)


def test_a_word_too_many(clip, refused):
    code = main(["layers", clip, "b.wav", *options()])
    refused(code, "'b.wav'", "deconv1d layers", "one recording", "deconv1d layers --help")
    code = main(["sonify", clip, *options(), "--layer", "0", "3", "-o", "out.wav"])
    refused(code, "'3'", "deconv1d sonify --help")
