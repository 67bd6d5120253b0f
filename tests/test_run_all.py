"""The paper by one command, on the smoke preset: killed, resumed, reported, and not done again."""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyarrow")

from threadpoolctl import threadpool_info

from deconv1d.errors import FileError
from reference_models import run_all as run_all_module
from reference_models.checkpoint import load_checkpoint
from reference_models.experiments import EXPERIMENTS
from reference_models.experiments import report as report_module
from reference_models.experiments.claims import CLAIMS
from reference_models.experiments.finding import (
    FINDING,
    Experiment,
    Finding,
    is_finished,
    part,
    perform,
)
from reference_models.experiments.report import NO_EVIDENCE, write_report
from reference_models.experiments.study import (
    ORIGINS,
    PRESETS,
    Network,
    Study,
    finetuned,
    preset_of,
    pretrained,
    size_of,
    untrained,
)
from reference_models.run_all import Stage, chosen, main, needed, planned, run_all

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
    while len(finished(folder)) < 3:  # however busy the machine is
        assert run.poll() is None
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
    assert NO_EVIDENCE in text
    assert NO_EVIDENCE in page
    results = json.loads((killed / "results.json").read_text())
    assert results["claims"] == []  # the smoke preset gives no verdicts
    done = {experiment.name for experiment in EXPERIMENTS if not experiment.needs}
    assert {number["experiment"] for number in results["numbers"]} == done
    networks = [json.loads(path.read_text()) for path in finished(killed)]
    fits = [network["probe"]["converged"] for network in networks if "probe" in network]
    assert f"{sum(fits)} of {len(fits)} converged" in results["study"]["probes"]
    assert "Of its 4 networks whose encoder is trained, 0 were trained long enough" in text
    assert results["experiments"].keys() == done
    looked_at = results["experiments"]["gates"]
    assert (looked_at["networks"], looked_at["long_enough"]) == (2, 0)
    made = f"Measured on {looked_at['date']} by commit {looked_at['commit']}."
    assert made in text
    assert made in page
    learning = text[text.index("## Learning curves") :]
    assert "0 of 6 were trained long enough" in learning[: learning.index("\n## ")]


def test_a_report_without_sounds_says_so(killed):
    done = Study(killed, PRESETS["smoke"])
    write_report(done, EXPERIMENTS, with_sounds=False)
    pages = [(killed / f"report.{kind}").read_text() for kind in ("md", "html")]
    write_report(done, EXPERIMENTS)
    count = len(json.loads((killed / "figure-5" / FINDING).read_text())["sounds"])
    for page in pages:
        assert ".flac" not in page
        assert f"Its {count} sounds are not published with this page" in page


def test_every_claim_and_every_gate_is_looked_at(killed):
    found = [json.loads(path.read_text()) for path in killed.glob(f"*/{FINDING}")]
    looked_at = {claim["letter"] for facts in found for claim in facts["claims"]}
    assert looked_at == set(CLAIMS)
    measured = {gate["name"] for facts in found for gate in facts["gates"]}
    wanted = {name for claim in CLAIMS.values() for name in claim.gates}
    assert wanted | {"listener, words network"} <= measured


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
    written_anew = ("report", "results")  # from what is finished
    files = [p for p in killed.rglob("*") if p.is_file() and p.stem not in written_anew]
    before = {path: path.stat().st_mtime_ns for path in files}
    results = (killed / "results.json").read_bytes()
    main([*OPTIONS, "--out", str(killed)])
    assert {p: p.stat().st_mtime_ns for p in files} == before
    assert (killed / "results.json").read_bytes() == results


def test_the_numbers_of_a_table_are_those_of_its_runs(killed):
    with (killed / "table-a6" / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    study = Study(killed, PRESETS["smoke"])
    networks = [
        finetuned("words", pretrained("contrastive", random_state), frozen=True)
        for random_state in (0, 1)
    ]
    values = [study.result(network)["test"]["accuracy"] for network in networks]
    mean = sum(values) / 2
    half_width = 12.7062047 * abs(values[0] - values[1]) / 2  # t of one degree of freedom
    row = next(r for r in rows if "Contrastive" in str(r.values()) and "fonly" in str(r.values()))
    assert float(row["mean"]) == pytest.approx(mean)
    assert float(row["high"]) - mean == pytest.approx(half_width)
    assert (row["n"], row["over"]) == ("2", "networks")


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
        Network("contrastive", random_state=1),
        untrained(),
        Network("contrastive", wider=2),
        Network("contrastive", pooling="stride"),
        Network("contrastive", temperature=0.2),
        Network("contrastive", augmentations=2),
        Network("contrastive", epochs=3),
        finetuned("words", plain),
        finetuned("words", plain, frozen=True),
        finetuned("words", plain, layers=2),
        finetuned("words", None),
        finetuned("fsd50k", plain),
    ]
    assert len({plain.name, *(network.name for network in others)}) == len(others) + 1


def test_runs_with_one_seed_start_from_their_own_pretraining():
    start = pretrained("supervised", 2)
    assert finetuned("words", start).random_state == 2
    assert finetuned("words", pretrained("contrastive", wider=2)).wider == 2


def fail(study: Study) -> Finding:
    raise ValueError("no such thing")


def test_a_stage_that_fails_names_itself(tmp_path, monkeypatch, capsys):
    broken = Experiment("broken", "Broken", lambda preset: (), fail)
    monkeypatch.setattr(run_all_module, "EXPERIMENTS", [broken])
    monkeypatch.setattr(run_all_module, "perform_named", perform_broken)
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


LONGER = {"contrastive": replace(PRESETS["smoke"].contrastive, epochs=7)}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"runs": 5}, "runs is 2, expected 5"),
        ({"evidence": True}, "evidence is False, expected True"),
        (LONGER, r"contrastive\.epochs is 1, expected 7"),
        ({"sources": "words"}, r"sources is \[\], expected \['words'\]"),
    ],
)
def test_a_folder_of_another_study_is_refused(tmp_path, monkeypatch, changed, told):
    monkeypatch.setattr(run_all_module, "EXPERIMENTS", [])
    monkeypatch.setattr(run_all_module, "DATA", ())
    monkeypatch.setattr(report_module, "DATA", {})
    study = Study(tmp_path, PRESETS["smoke"])
    run_all(study)
    run_all(study)
    given = dict(changed)
    sources = {given.pop("sources"): tmp_path} if "sources" in given else {}
    other = Study(tmp_path, replace(study.preset, **given), sources)
    before = (tmp_path / "report.md").read_bytes()
    with pytest.raises(ValueError, match=rf"holds another study: its {told}; .* --out"):
        run_all(other)
    assert (tmp_path / "report.md").read_bytes() == before


def test_a_network_with_other_settings_is_not_taken_for_trained(tmp_path):
    network, study = pretrained("supervised"), Study(tmp_path, PRESETS["smoke"])
    held = asdict(study.settings(network)) | {"weight_decay": 0.25}
    path = tmp_path / "networks" / network.name / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": held}))
    with pytest.raises(ValueError, match=r"another run: its weight_decay is 0\.25, expected 0\.0"):
        study.is_trained(network)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_file_of_a_study_is_named(tmp_path, content):
    network, study = pretrained("supervised"), Study(tmp_path, PRESETS["smoke"])
    result = tmp_path / "networks" / network.name / "result.json"
    result.parent.mkdir(parents=True)
    for path, read in (
        (tmp_path / "study.json", study.claim_folder),
        (result, lambda: study.is_trained(network)),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot read '{re.escape(str(path))}'.*delete"):
            read()


@pytest.mark.parametrize("words", [True, False])
def test_only_where_speakers_are_named_a_batch_has_one(tmp_path, words):
    """Of an untrained encoder too: it is trained for no epoch, on clips all the same."""
    sources = {"words": tmp_path} if words else {"arabic": tmp_path}
    study = Study(tmp_path, preset_of("thorough", "recordings"), sources)
    for network in (untrained(), pretrained("contrastive")):
        assert study.settings(network).one_speaker is not words


def test_what_is_finished_needs_its_networks_no_more(killed, tmp_path):
    """A folder of findings without weights, as it is published, gives the same report."""
    published = tmp_path / "published"
    shutil.copytree(killed, published, ignore=shutil.ignore_patterns("networks", "parts"))
    (published / "figure-7" / FINDING).unlink()
    main([*OPTIONS, "--out", str(published), "--without", "figure-7"])
    assert not (published / "networks").exists()
    shutil.copy(killed / "figure-7" / FINDING, published / "figure-7")
    main([*OPTIONS, "--out", str(published)])
    assert not (published / "networks").exists()
    for name in ("report.md", "report.html", "results.json"):
        assert (published / name).read_bytes() == (killed / name).read_bytes()


@pytest.mark.parametrize(
    ("threads", "jobs"), [(None, os.cpu_count()), ("6", 6), ("2", 3), ("1", 1)]
)
def test_processes_share_the_threads(tmp_path, monkeypatch, threads, jobs):
    """Torch's threads and BLAS's: with more than there are free cores a fit takes minutes."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, run_all_module._begin, (jobs, tmp_path / "log.txt")) as pool:
        libraries = pool.submit(threadpool_info).result()
        assert pool.submit(torch.get_num_threads).result() == 1
    assert {library["user_api"] for library in libraries} >= {"blas"}
    assert [library["num_threads"] for library in libraries] == [1] * len(libraries)


# --- presets -------------------------------------------------------------------------------------


def test_the_paper_s_preset_trains_on_everything():
    preset = PRESETS["paper"]
    assert preset.contrastive.splits == ("train", "val")
    assert preset.supervised["audioset"].splits == ("train", "val")
    assert preset.supervised["fsd50k"].splits == ("train",)  # has a validation set of its own
    assert preset_of("paper", "recordings") == preset


@pytest.mark.parametrize("source", ORIGINS)
def test_only_the_paper_s_preset_has_its_penalty_on_networks_of_labels(source):
    """On few clips it outweighs the loss: benchmarks/WEIGHT_DECAY.md."""
    found = {
        size: {own.weight_decay for own in preset_of(size, source).supervised.values()}
        for size in PRESETS
    }
    assert found.pop("paper") == {1e-3}
    assert all(penalties == {0.0} for penalties in found.values())


def test_a_report_names_the_size_of_its_preset():
    for size in PRESETS:
        for source in ORIGINS:
            assert size_of(preset_of(size, source)) == size
    assert size_of(replace(PRESETS["small"], runs=4)) == "one of its own"


def test_the_source_is_a_choice_beside_the_size():
    for size in ("small", "thorough"):
        rendered, recordings = preset_of(size, "rendered"), preset_of(size, "recordings")
        assert rendered == PRESETS[size]
        assert recordings.runs == rendered.runs
        assert recordings.contrastive.seconds < 1  # two crops of a clip of one second
        assert {own.width for own in recordings.supervised.values()} == {recordings.width}
        assert recordings.width == rendered.width
        # ESC-10's mixtures have too few test clips for figure 6's recognisers.
        assert (rendered.recognised, recordings.recognised) == ("fsd50k", "words")
    assert PRESETS["small"].runs == 2
    assert PRESETS["thorough"].runs == 5
    assert [name for name, preset in PRESETS.items() if not preset.evidence] == ["smoke"]


def test_what_is_left_out_takes_along_what_reads_its_files_and_what_it_alone_trains(tmp_path):
    study = Study(tmp_path, PRESETS["small"])
    every, few = chosen(study), chosen(study, ["table-a1", "top-3"])
    gone = {e.name for e in every} - {e.name for e in few}
    assert gone == {"table-a1", "top-3", "figures-2-3", "label-entropy", "figure-5"}
    assert "soundnet" not in {e.name for e in every}  # for want of esc10
    trained = {n.name for n in needed(few, study)}
    assert not any(n.startswith("balanced") for n in trained)
    assert "audioset-contrastive-s1" in trained


def test_what_is_left_out_as_asked_is_told_from_what_has_no_data(killed, capsys):
    done = Study(killed, PRESETS["smoke"])
    others = [e for e in EXPERIMENTS if e.name != "figure-7"]
    hidden = next(e for e in EXPERIMENTS if e.name == "figure-7")
    write_report(done, [*others, replace(hidden, name="not-done")])
    text = (killed / "report.md").read_text()
    write_report(done, EXPERIMENTS)
    assert f"{hidden.title}: left out, as asked with --without." in text
    assert "SoundNet-8" in text
    with pytest.raises(SystemExit):
        main(["--without", "table-a9"])
    assert "invalid choice: 'table-a9'" in capsys.readouterr().err


TRAINING_CLIPS = {
    "rendered": {"audioset": 1280, "balanced": 640, "fsd50k": 1280, "words": 1610},
    "recordings": {"audioset": 5400, "balanced": 2700, "fsd50k": 480, "words": 3164},
}
"""Of the small preset, and of the recordings in docs/results/recordings-thorough."""


@pytest.mark.parametrize("source", TRAINING_CLIPS)
def test_small_trains_for_at_most_1500_steps(source):
    preset = preset_of("small", source)
    recipes = {**preset.supervised, "contrastive": preset.contrastive}
    clips = TRAINING_CLIPS[source]
    for name, settings in recipes.items():
        steps = clips.get(name, clips["audioset"]) // settings.batch_size
        assert settings.epochs * steps <= 1500


def test_recordings_are_found_by_their_folders(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--source", "recordings", "--recordings", str(tmp_path)])
    assert ended.value.code == 2
    assert "expected a folder that holds arabic_commands" in capsys.readouterr().err
    (tmp_path / "speech_commands").mkdir()
    given = ["--source", "recordings", "--recordings", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["--preset", "smoke", *given, "--out", str(tmp_path / "out")])
    assert "Speech Commands" in capsys.readouterr().err


def test_the_hours_are_told_beforehand():
    study = Study(Path("nowhere"), PRESETS["small"])
    stages = [
        Stage("one-s0", print, False, (), 900 * 3600.0, True),
        Stage("two-from-(one-s0)-frozen-s0", print, False, (), 225 * 3600.0, True),
        Stage("two-from-(one-s1)-frozen-s1", print, False, (), 225 * 3600.0, True),
        Stage("small-s0", print, False, (), 900.0, True),
        Stage("done", print, True, (), 9e9, True),
        Stage("experiment", print, False, (), 1800 * 3600.0),
        Stage("known", print, True, (), 9e9),
    ]
    said = planned(study, stages)
    assert said.startswith(
        "   1 x   1.00 h  one\n   2 x   0.25 h  two-from-(one)-frozen\n"
        "Networks to train: 4, about 1.5 hours on two cores, at most 1.0 for one; experiments "
        "with them: 1, about 2.0 hours more."
    )


def test_a_second_run_in_the_same_folder_says_so(tmp_path, monkeypatch):
    def meanwhile(stages, jobs, log):
        with pytest.raises(FileError, match="Another run is at work"):
            run_all(Study(tmp_path, PRESETS["smoke"]))
        raise ZeroDivisionError

    monkeypatch.setattr(run_all_module, "DATA", ())
    monkeypatch.setattr(run_all_module, "EXPERIMENTS", ())
    monkeypatch.setattr(run_all_module, "run_stages", meanwhile)
    for _ in range(2):  # the lock of a run that failed is free again
        with pytest.raises(ZeroDivisionError):
            run_all(Study(tmp_path, PRESETS["smoke"]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"title": "a',
        b"nonsense",
        b"null",
        b"[]",
        b"{}",
        b'{"title": 1}',
        b"\xff\xfe",
        b"\0" * 9,
    ],
)
def test_an_experiment_whose_mark_is_damaged_is_done_anew(tmp_path, capsys, content):
    found = Finding(rows=[{"value": 1}])
    experiment = Experiment("one", "One", networks=lambda preset: (), run=lambda study: found)
    study = Study(tmp_path, PRESETS["smoke"])
    perform(experiment, study)
    mark = tmp_path / "one" / FINDING
    whole = mark.read_text()
    mark.write_bytes(content)
    assert not is_finished(experiment, study)
    assert str(mark) in capsys.readouterr().err
    perform(experiment, study)
    assert mark.read_text() == whole


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff"])
def test_a_damaged_part_of_an_experiment_is_done_anew(tmp_path, capsys, content):
    study, computed = Study(tmp_path, PRESETS["smoke"]), []

    def compute():
        computed.append(1)
        return [1, 2]

    assert part(study, "one", "key", compute) == [1, 2]
    path = tmp_path / "one" / "parts" / "key.json"
    path.write_bytes(content)
    assert part(study, "one", "key", compute) == [1, 2]
    assert part(study, "one", "key", compute) == [1, 2]
    assert len(computed) == 2
    assert str(path) in capsys.readouterr().err
