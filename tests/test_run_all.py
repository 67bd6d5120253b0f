"""The paper by one command, on the smoke preset: killed, resumed, reported, and not done again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyarrow")

from reference_models import run_all as run_all_module
from reference_models.checkpoint import load_checkpoint
from reference_models.experiments import EXPERIMENTS
from reference_models.experiments.finding import CLAIMS, FINDING, Claim, Experiment, Finding
from reference_models.experiments.report import write_report
from reference_models.experiments.study import PRESETS, Network, Study, finetuned, pretrained
from reference_models.run_all import main, needed, run_all

OPTIONS = ["--preset", "smoke", "--jobs", "2"]
JOBS = 2


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "reference_models.run_all", *OPTIONS, "--out", str(folder)]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)


def finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("networks/*/result.json"))


@pytest.fixture(scope="module")
def killed(soundfont, tmp_path_factory) -> Path:
    """A whole run that was killed after its first networks and started again."""
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("all") / "results"
    run = start(folder)
    deadline = time.monotonic() + 300
    while len(finished(folder)) < 3:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = {path: path.stat().st_mtime_ns for path in finished(folder)}
    main([*OPTIONS, "--out", str(folder)])
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    return folder


def test_every_experiment_is_reported(killed):
    text, page = ((killed / f"report.{kind}").read_text() for kind in ("md", "html"))
    for experiment in EXPERIMENTS:
        if experiment.needs:
            assert f"{experiment.title}: left out, for want of esc10." in text
            continue
        found = json.loads((killed / experiment.name / FINDING).read_text())
        assert f"## {experiment.title}" in text
        assert f'id="{experiment.name}"' in page
        for name in [*found["figures"], *found["sounds"].values()]:
            assert (killed / experiment.name / name).is_file()
            assert f"{experiment.name}/{name}" in page
    for letter, claim in CLAIMS.items():
        assert f"| {letter} | {claim} |" in text


def test_every_claim_is_looked_at(killed):
    looked_at = {
        claim["letter"]
        for path in killed.glob(f"*/{FINDING}")
        for claim in json.loads(path.read_text())["claims"]
    }
    assert looked_at == set(CLAIMS)


def test_a_killed_run_finds_what_an_uninterrupted_one_finds(killed, tmp_path, monkeypatch):
    tables = [e for e in EXPERIMENTS if e.name == "table-a6"]
    monkeypatch.setattr(run_all_module, "EXPERIMENTS", tables)
    run_all(Study(tmp_path, PRESETS["smoke"]), jobs=JOBS)
    ours, theirs = (folder / "table-a6" / "numbers.csv" for folder in (killed, tmp_path))
    assert ours.read_bytes() == theirs.read_bytes()
    weights = [
        path.relative_to(tmp_path) for path in tmp_path.glob("networks/*/epoch-*.safetensors")
    ]
    assert len(weights) >= 10
    for path in weights:  # their files also say in which folder they were trained
        (ours, _), (theirs, _) = (load_checkpoint(folder / path) for folder in (killed, tmp_path))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_second_run_does_nothing_again(killed):
    files = [path for path in killed.rglob("*") if path.is_file() and "report" not in path.name]
    before = {path: path.stat().st_mtime_ns for path in files}
    main([*OPTIONS, "--out", str(killed)])
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_the_numbers_of_a_table_are_those_of_its_runs(killed):
    with (killed / "table-a6" / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    study = Study(killed, PRESETS["smoke"])
    networks = [finetuned("words", pretrained("contrastive", seed), frozen=True) for seed in (0, 1)]
    values = [study.result(network)["test"]["accuracy"] for network in networks]
    mean = sum(values) / 2
    half_width = 12.7062047 * abs(values[0] - values[1]) / 2  # t of one degree of freedom
    row = next(r for r in rows if "Contrastive" in str(r.values()) and "fonly" in str(r.values()))
    assert float(row["mean"]) == pytest.approx(mean)
    assert float(row["half_width"]) == pytest.approx(half_width)
    assert int(row["runs"]) == 2


# --- the parts -----------------------------------------------------------------------------------


def test_networks_come_after_those_they_start_from():
    study = Study(Path("nowhere"), PRESETS["small"])
    networks = needed(EXPERIMENTS, study)
    assert len({network.name for network in networks}) == len(networks)
    for network in networks:
        if network.start:
            assert networks.index(network.start) < networks.index(network)


def test_names_of_networks_tell_them_apart():
    plain = Network("contrastive")
    others = [
        Network("contrastive", seed=1),
        Network("contrastive", wider=2),
        Network("contrastive", pooling="stride"),
        Network("contrastive", temperature=0.2),
        Network("contrastive", augmentations=2),
        finetuned("words", plain),
        finetuned("words", plain, frozen=True),
        finetuned("words", plain, layers=2),
        finetuned("words", None),
        finetuned("fsd50k", plain),
    ]
    assert len({plain.name, *(network.name for network in others)}) == len(others) + 1


def test_runs_with_one_seed_start_from_their_own_pretraining():
    start = pretrained("supervised", 2)
    assert finetuned("words", start).seed == 2
    assert finetuned("words", pretrained("contrastive", wider=2)).wider == 2


def fail(study: Study) -> Finding:
    raise ValueError("no such thing")


def test_a_stage_that_fails_names_itself(tmp_path, monkeypatch, capsys):
    broken = Experiment("broken", "Broken", lambda preset: (), fail)
    monkeypatch.setattr(run_all_module, "EXPERIMENTS", [broken])
    monkeypatch.setattr(run_all_module, "_perform", perform_broken)
    monkeypatch.setattr(run_all_module, "DATA", ())
    with pytest.raises(ValueError, match="no such thing"):
        run_all(Study(tmp_path, PRESETS["smoke"]))
    assert "Stage 'broken' failed" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def perform_broken(name: str, study: Study) -> None:
    """In place of `_perform`: a process imports it by its name."""
    fail(study)


def test_a_folder_that_is_no_data_set_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--preset", "smoke", "--fsd50k", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "FSD50K" in error
    assert str(tmp_path) in error


def test_the_report_says_holds_fails_and_undecided(tmp_path, monkeypatch):
    claims = [Claim("a", True, "so"), Claim("b", False, "not so"), Claim("c", None, "so so")]
    experiment = Experiment(
        "one",
        "One <b>",
        lambda preset: (),
        lambda study: Finding([{"x": 1.23456, "paper": 2.144}], claims),
    )
    from reference_models.experiments import report
    from reference_models.experiments.finding import perform

    monkeypatch.setattr(report, "DATA", {})
    study = Study(tmp_path, PRESETS["smoke"])
    perform(experiment, study)
    write_report(study, [experiment])
    text, page = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    for word, evidence in (("holds", "so"), ("fails", "not so"), ("undecided", "so so")):
        assert f"**{word}**: {evidence}" in text
    assert "| 1.23 | 2.144 |" in text
    assert "One &lt;b&gt;" in page
    assert (
        "| d | deep contrastive layers are more active than supervised ones | not looked at |"
        in text
    )
