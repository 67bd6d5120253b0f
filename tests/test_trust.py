"""The table of trust, in the library and on the command line."""

import json

import pytest
import torch
from bands import BANDS, RATE, bank, tones
from command import check_refused, enter, options, write
from torch import nn

from deconv1d import FileError, InputError, Sonifier
from deconv1d.cli.commands import main
from deconv1d.evaluation.explanations import itself, sonified
from deconv1d.evaluation.intervals import Mean
from deconv1d.evaluation.pointing import ORACLE
from deconv1d.evaluation.recordings import read_recordings
from deconv1d.evaluation.trust import (
    CONTROLS,
    RANDOM_CELLS,
    Trust,
    benchmark_trust,
    spread_layers,
    standard_explanations,
    summary_of,
    weights_hash,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    for name, hertz in (("low", (300, 1000)), ("high", (2200, 3200))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for take in range(2):
            sound = tones(*hertz, seconds=0.3 + 0.1 * take)
            write(f"data/{name}/{take}.wav", 0.2 * sound.numpy(), RATE)
    (tmp_path / "data" / "low" / "notes.txt").write_text("not a sound")
    (tmp_path / "data" / "empty").mkdir()
    return tmp_path


def test_every_explanation_and_control_has_its_row(folder):
    sonifier = Sonifier(bank(*BANDS).float(), sample_rate=RATE)
    recordings = read_recordings("data", RATE)
    table = benchmark_trust(sonifier, ["0"], recordings, count=2, clips=1, seconds=0.5)
    rows = {row.explanation: row for row in table}
    assert list(rows) == [*standard_explanations(sonifier), ORACLE]
    assert rows["deconvnet"].pointing.value > 0.99
    assert rows["deconvnet"].identified.value == 1
    assert rows["deconvnet"].in_minus_out.value > 1
    assert rows[RANDOM_CELLS].aligned.value < 0.9
    assert rows[ORACLE].identified is None
    assert all(rows[control].pairs == 2 for control in CONTROLS)


def test_explanations_of_ones_own(folder):
    sonifier = Sonifier(bank(*BANDS).float(), sample_rate=RATE)
    own = {"mine": sonified(), "nothing": itself}
    table = benchmark_trust(
        sonifier, ["0"], read_recordings("data", RATE), own, count=1, seconds=0.5
    )
    assert [row.explanation for row in table] == ["mine", "nothing", ORACLE]
    assert table[1].pointing.value == pytest.approx(0.5)


def test_the_command_gives_the_librarys_table(folder, capsys):
    code = main(
        [
            "benchmark-trust",
            *options(),
            "--data",
            "data",
            "--layers",
            "0,3",
            "--count",
            "2",
            "--seconds",
            "0.5",
            "-o",
            "page.html",
            "--json",
        ]
    )
    facts = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {row["layer"] for row in facts["rows"]} == {"0", "3"}
    assert len(facts["weights"]) == 12
    for row in facts["rows"]:
        assert row["pairs"] or row["pointing"] is None
    page = (folder / "page.html").read_text()
    assert "within frames" in page
    assert "deconvnet" in page
    assert "points best" in page or "no pair counted" in page


def line(explanation, value, width=0.02, pairs=12, identified=True):
    aligned = Mean(value, value - width, value + width)
    told = aligned if identified else None
    return Trust("conv9", explanation, pairs, aligned, aligned, aligned, told, told)


def test_the_summary_says_whether_the_best_beats_the_best_control():
    rows = [line("deconvnet", 0.6), line("mask", 0.89), line(ORACLE, 0.99, identified=False)]
    controls = [line(CONTROLS[0], 0.7), line(CONTROLS[1], 0.5)]
    (said,) = summary_of([*rows, *controls])
    assert said == (
        "conv9: mask points best, 0.89 [0.87, 0.91] aligned over 12 pairs. It points better than "
        "the best control (input gated by the map, 0.70 [0.68, 0.72])."
    )
    (said,) = summary_of([*rows, line(CONTROLS[0], 0.88)])
    assert "It cannot be told from the best control" in said
    (said,) = summary_of([line("mask", float("nan"), pairs=0), *controls])
    assert said.startswith("conv9: no pair counted")


def test_what_the_command_refuses(folder, capsys):
    command = ["benchmark-trust", *options(), "--layers", "0"]
    check_refused(
        capsys, main([*command, "--data", "data/low"]), "'data/low'", "2 folders or more", "got 0"
    )
    check_refused(capsys, main([*command, "--data", "nowhere"]), "'nowhere'", "got 0")
    check_refused(capsys, main([*command[:-1], "9", "--data", "data"]), "'9'")


def test_recordings_are_the_first_of_each_class(folder):
    found = read_recordings("data", RATE, per_class=1)
    assert {name: [len(x) for x in some] for name, some in found.items()} == {
        "high": [2400],
        "low": [2400],
    }
    half = read_recordings("data", RATE // 2)
    assert len(half["low"][1]) == 1600
    (folder / "data" / "low" / "0.wav").write_bytes(b"RIFF")
    with pytest.raises(FileError, match=r"0\.wav"):
        read_recordings("data", RATE)


def test_layers_are_spread_from_low_to_high():
    blocks = [nn.Sequential(nn.Conv1d(n, 4, 3), nn.ReLU()) for n in (1, 4, 4, 4, 4, 4, 4)]
    sonifier = Sonifier(nn.Sequential(*blocks), sample_rate=RATE)
    assert spread_layers(sonifier) == ["0.0", "2.0", "4.0", "6.0"]
    assert spread_layers(sonifier, most=2) == ["0.0", "6.0"]
    linear = Sonifier(nn.Sequential(nn.Linear(8000, 3), nn.ReLU()), sample_rate=RATE)
    assert spread_layers(linear, 1.0) == ["0", "1"]
    with pytest.raises(InputError, match="need a sample rate"):
        spread_layers(Sonifier(bank(*BANDS)))


def test_a_hash_names_weights():
    one, same, other = (bank(*BANDS) for _ in range(3))
    other[0].weight.data[0, 0, 0] += 1e-9
    assert weights_hash(one) == weights_hash(same) != weights_hash(other)
    assert weights_hash(nn.BatchNorm1d(3)) != weights_hash(nn.BatchNorm1d(4))
    torch.manual_seed(0)
    assert weights_hash(nn.Linear(2, 2).bfloat16()).isalnum()
