"""The training programs: the loops, kill and resume, what they write, the command line."""

import json
import math
import multiprocessing
import os
import re
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow")

from reference_models import run as run_module
from reference_models import simclr, supervised
from reference_models.augment import augment, mixup
from reference_models.batches import Batches, seeded
from reference_models.channels_last import quick
from reference_models.checkpoint import (
    load_checkpoint,
    load_classifier,
    load_encoder,
    save_checkpoint,
)
from reference_models.cnn12 import CNN12, classifier, projection_head
from reference_models.data import Clip, ClipIndex, ClipSet, build_cache, open_cache
from reference_models.initialisation import initialise
from reference_models.nt_xent import nt_xent
from reference_models.probe import STRENGTHS, choose_probe, fit_probe

SUPERVISED = supervised.Settings(
    width=1 / 64, seconds=0.3, batch_size=4, epochs=2, warmup_epochs=0.5
)
CONTRASTIVE = simclr.Settings(width=1 / 64, seconds=0.3, batch_size=4, epochs=2, warmup_epochs=0.5)
needs_flushing = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="the processor cannot count tiny numbers as 0"
)
PROGRAMS = {"supervised": (supervised, SUPERVISED), "simclr": (simclr, CONTRASTIVE)}


def read_tone(clip: Clip) -> np.ndarray:
    """A tone per class, a length per clip."""
    samples = 2400 + 600 * (int(clip.id) % 4)
    return np.sin((1 + sum(clip.labels)) * 0.1 * np.arange(samples)) + 0.1


def list_tones(multilabel: bool = False, classes: tuple[str, ...] = ("a", "b", "c")) -> ClipIndex:
    splits = ["train"] * 14 + ["val"] * 5 + ["test"] * 5
    clips = (
        Clip(str(i), "", 0, 0, 0, (0, 2)[: 1 + i % 2] if multilabel else (i % 3,), split, "unread")
        for i, split in enumerate(splits)
    )
    return ClipIndex("tones", classes, multilabel, tuple(clips))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    build_cache(list_tones(), folder, read=read_tone)
    return folder


@pytest.fixture
def clips(folder) -> ClipSet:
    return open_cache(folder)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check_by_hand(model: torch.nn.Module, folder, loss: Callable[[int], torch.Tensor]) -> None:
    """Takes the six steps of a run from its first weights, and compares with its last ones.

    The loss is of `quick(model)`, which is the model (`test_channels_last`) and rounds as training
    does: Adam's steps are as large for gradients that are nothing but rounding.
    """
    first, _ = load_checkpoint(folder / "epoch-000.safetensors")
    assert all(torch.equal(first[k], v) for k, v in model.state_dict().items())
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, weight_decay=1e-3)
    rates = [1e-3 / 3, 2e-3 / 3, *(5e-4 + 5e-4 * math.cos(math.pi * s / 4) for s in range(4))]
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    last, about = load_checkpoint(folder / "epoch-002.safetensors")
    assert about["epoch"] == 2
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(last[name], weight, rtol=1e-4, atol=1e-6)


def test_the_supervised_loop_once_more(clips, tmp_path):
    supervised.train(clips, SUPERVISED, tmp_path)
    torch.manual_seed(0)
    model = classifier(initialise(CNN12(width=1 / 64)), classes=3)
    train = clips.subset("train")

    def loss(step: int) -> torch.Tensor:
        numbers = Batches(14, 4, 0)[step]
        x = train.crops(numbers, 2400, generator=seeded("cpu", "crops", 0, step, 0))
        generator = seeded("cpu", "augment", 0, step, 0)
        x = augment(x, ("gain", "noise", "time_mask"), generator=generator)
        y = torch.eye(3)[train.labels(numbers)]
        x, y = mixup(x, y, generator=generator, alpha=0.3)
        torch.manual_seed(generator.initial_seed())  # of dropout
        return -(y * quick(model)(x).log_softmax(dim=1)).sum(dim=1).mean()

    check_by_hand(model, tmp_path, loss)


def test_the_simclr_loop_once_more(clips, tmp_path):
    simclr.train(clips, CONTRASTIVE, tmp_path)
    torch.manual_seed(0)
    encoder, projection = initialise(CNN12(width=1 / 64)), projection_head()
    model = torch.nn.Sequential(OrderedDict(encoder=encoder, projection=projection))
    train = clips.subset("train")

    def loss(step: int) -> torch.Tensor:
        generator = seeded("cpu", "crops", 0, step, 0)
        crops = train.two_crops(Batches(14, 4, 0)[step], 2400, generator=generator)
        generator = seeded("cpu", "augment", 0, step, 0)
        names = ("gain", "noise", "time_mask", "background")
        views = [augment(crop, names, generator=generator) for crop in crops]
        torch.manual_seed(generator.initial_seed())  # of dropout
        projections = quick(model)(torch.cat(views))
        return nt_xent(projections[:4], projections[4:], temperature=0.1)

    check_by_hand(model, tmp_path, loss)


def test_simclr_takes_a_batch_of_one_speaker(clips, tmp_path, monkeypatch):
    settings = replace(CONTRASTIVE, one_speaker=True, batch_size=2, epochs=1)
    with pytest.raises(ValueError, match="clip '0' names no speaker"):
        simclr.train(clips, settings, tmp_path / "unnamed")

    def named(self: ClipSet) -> tuple[str, ...]:
        self.ids = [f"word/{'ab'[int(id) % 2]}_nohash_{id}" for id in self.ids]
        return speakers(self)

    speakers, seen = ClipSet.speakers, []
    monkeypatch.setattr(ClipSet, "speakers", named)
    two_crops = ClipSet.two_crops

    def watched(self: ClipSet, indices: torch.Tensor, *args: Any, **options: Any) -> Any:
        seen.append({int(i) % 2 for i in indices})
        return two_crops(self, indices, *args, **options)

    monkeypatch.setattr(ClipSet, "two_crops", watched)
    simclr.train(clips, settings, tmp_path / "named")
    # 7 clips of each speaker in training, and 3 and 2 in validation.
    assert len(seen) == 2 * 3 + 2
    assert all(len(speakers) == 1 for speakers in seen)


def die_at(step: int, run: str, folder: str, out: str) -> None:
    """Trains in a process of its own and is killed in the middle of a step."""
    program, settings = PROGRAMS[run]
    rate = program.learning_rate

    def kill(now: int, **rest) -> float:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return rate(now, **rest)

    program.learning_rate = kill
    run_module.SAVE_SECONDS = 0.0
    torch.set_num_threads(1)
    program.train(open_cache(folder), settings, out)


@pytest.mark.parametrize("run", PROGRAMS)
def test_a_killed_run_ends_in_the_same_weights(run, clips, folder, tmp_path):
    program, settings = PROGRAMS[run]
    whole = program.train(clips, settings, tmp_path / "whole")
    # Step 4 is in the second epoch's middle: the last save was made after step 3.
    child = multiprocessing.get_context("spawn").Process(
        target=die_at, args=(4, run, str(folder), str(tmp_path / "killed"))
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    assert load_checkpoint(tmp_path / "killed" / "resume.safetensors")[1]["step"] == 4
    (tmp_path / "killed" / ".half-written.part").write_bytes(b"killed while writing")
    resumed = program.train(clips, settings, tmp_path / "killed")
    for name in ("epoch-001", "epoch-002", "resume"):
        one, _ = load_checkpoint(tmp_path / "whole" / f"{name}.safetensors")
        two, _ = load_checkpoint(tmp_path / "killed" / f"{name}.safetensors")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one)
    assert not_timed(resumed) == not_timed(whole)


def not_timed(result: dict) -> dict:
    return {k: v for k, v in result.items() if k != "seconds"}


@pytest.mark.parametrize("run", PROGRAMS)
def test_a_finished_run_is_not_repeated_and_another_is_refused(
    run, clips, folder, tmp_path, monkeypatch
):
    program, settings = PROGRAMS[run]
    result = program.train(clips, settings, tmp_path)
    monkeypatch.setattr(program, "fit", None)
    assert program.train(clips, settings, tmp_path) == result
    assert result == json.loads((tmp_path / "result.json").read_text())
    for name, value in (("peak_rate", 1e-4), ("random_state", 1)):
        with pytest.raises(ValueError, match=rf"of another run: its {name} is .*expected {value}"):
            program.train(clips, replace(settings, **{name: value}), tmp_path)
    with pytest.raises(ValueError, match="its clip_hash is"):
        program.train(clips.subset("train"), settings, tmp_path)
    swap = {"train": "test", "test": "train", "val": "val"}
    moved = tuple(clip._replace(split=swap[clip.split]) for clip in clips.index.clips)
    relabelled = ClipSet(replace(clips.index, clips=moved), folder)
    with pytest.raises(ValueError, match="its content_hash is"):
        program.train(relabelled, settings, tmp_path)


def test_what_a_run_started_from_is_known_by_its_weights_not_by_its_path(clips, tmp_path):
    start = tmp_path / "start" / "epoch-002.safetensors"
    simclr.train(clips, CONTRASTIVE, start.parent)
    settings = replace(SUPERVISED, encoder=str(start))
    result = supervised.train(clips, settings, tmp_path / "run")
    moved = start.parent.rename(tmp_path / "moved") / start.name
    assert supervised.train(clips, settings, tmp_path / "run") == result  # it is gone: not needed
    settings = replace(SUPERVISED, encoder=str(moved))
    assert supervised.train(clips, settings, tmp_path / "run") == result
    moved.write_bytes((moved.parent / "epoch-001.safetensors").read_bytes())
    with pytest.raises(ValueError, match="its encoder is"):
        supervised.train(clips, settings, tmp_path / "run")


def test_an_unfinished_run_of_other_classes_is_refused(clips, tmp_path):
    supervised.train(clips, SUPERVISED, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    renamed = build_cache(list_tones(classes=("a", "b", "d")), tmp_path / "data", read=read_tone)
    with pytest.raises(ValueError, match=r"resume\.safetensors' is for another class list"):
        supervised.train(renamed, SUPERVISED, tmp_path / "run")


def test_a_damaged_resume_file_is_named(clips, tmp_path):
    (tmp_path / "resume.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"resume\.safetensors'.*delete it"):
        supervised.train(clips, SUPERVISED, tmp_path)


def test_a_damaged_result_is_named_and_made_again(clips, tmp_path):
    result = supervised.train(clips, SUPERVISED, tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read '.*result\.json'.*delete"):
        supervised.train(clips, SUPERVISED, tmp_path)
    (tmp_path / "result.json").unlink()
    assert not_timed(supervised.train(clips, SUPERVISED, tmp_path)) == not_timed(result)


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_result_says_what_it_is_of(multilabel, tmp_path):
    index = list_tones(multilabel)
    clips = build_cache(index, tmp_path / "data", read=read_tone)
    result = supervised.train(clips, SUPERVISED, tmp_path / "run")
    assert result["settings"]["width"] == 1 / 64
    assert result["classes"] == ["a", "b", "c"]
    assert result["data"] == clips.index.summary()
    assert result["versions"]["torch"] == torch.__version__
    assert len(result["history"]) == 2
    assert result["history"][1].keys() >= {"loss", "rate", "clips"}
    measured = {"mAP", "mAUC", "dprime", "classes"} if multilabel else {"accuracy"}
    for split in ("val", "test"):
        assert result[split].keys() == measured | {"clips"}
        assert result[split]["clips"] == 5
    model = load_classifier(tmp_path / "run" / "epoch-002.safetensors", classes=clips.classes)
    assert supervised.score(model, clips.subset("test")) == result["test"]


def test_series_of_checkpoints(clips, tmp_path):
    settings = replace(CONTRASTIVE, epochs=5, keep_every=2)
    simclr.train(clips, settings, tmp_path)
    kept = sorted(path.stem for path in tmp_path.glob("epoch-*.safetensors"))
    assert kept == ["epoch-000", "epoch-002", "epoch-004", "epoch-005"]
    about = json.loads((tmp_path / "epoch-004.json").read_text())
    assert about["epoch"] == len(about["history"]) == 4


def test_tensorboard_gets_the_numbers_of_each_epoch(clips, tmp_path, monkeypatch):
    class Writer:
        told: ClassVar[list] = []

        def add_scalar(self, name, number, epoch):
            self.told.append((epoch, name, number))

        def flush(self):
            self.told.append("flush")

        def close(self):
            self.told.append("close")

    monkeypatch.setattr(run_module, "tensorboard_writer", lambda folder: Writer())
    history = simclr.train(clips, CONTRASTIVE, tmp_path)["history"]
    expected = [[(e, k, v) for k, v in numbers.items()] for e, numbers in enumerate(history, 1)]
    assert Writer.told == [*expected[0], "flush", *expected[1], "flush", "close"]


@pytest.mark.parametrize("run", PROGRAMS)
def test_a_run_that_is_heard_ends_in_the_same_weights(run, clips, tmp_path):
    pytest.importorskip("tensorboard")
    program, settings = PROGRAMS[run]
    for every in (0, 1):
        program.train(clips, replace(settings, sonify_every=every), tmp_path / str(every))
    quiet, heard = (
        load_checkpoint(tmp_path / str(every) / "epoch-002.safetensors")[0] for every in (0, 1)
    )
    assert all(torch.equal(quiet[k], heard[k]) for k in quiet)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert not EventAccumulator(str(tmp_path / "0")).Reload().Tags()["audio"]
    events = EventAccumulator(str(tmp_path / "1")).Reload()
    assert sorted(events.Tags()["audio"]) == [
        f"sonification/{layer}" for layer in ("conv11", "conv2", "conv6")
    ]
    assert [sound.step for sound in events.Audio("sonification/conv2")] == [1, 2]


def test_frozen_fits_the_head_alone_on_embeddings_of_whole_clips(clips, tmp_path):
    simclr.train(clips, CONTRASTIVE, tmp_path / "simclr")
    weights = tmp_path / "simclr" / "epoch-002.safetensors"
    encoder = load_encoder(weights)
    train, val = clips.subset("train"), clips.subset("val")
    with torch.no_grad():  # embeddings made one by one
        one, other = (
            torch.cat([encoder(own.waveform(i)[None, None]) for i in range(len(own))])
            for own in (train, val)
        )
    chosen = choose_probe(one, train.labels(), other, val.labels(), classes=3)
    both = (torch.cat([one, other]), torch.cat([train.labels(), val.labels()]))
    again = fit_probe(*both, classes=3, strength=chosen.fit.strength)
    for splits, probe in ((("train",), chosen), (("train", "val"), again)):
        settings = replace(SUPERVISED, encoder=str(weights), frozen=True, splits=splits)
        result = supervised.train(clips, settings, tmp_path / "-".join(splits))
        model = load_classifier(tmp_path / "-".join(splits) / "epoch-002.safetensors")
        for name, weight in encoder.state_dict().items():
            assert torch.equal(model.encoder.state_dict()[name], weight)
        assert result["val"].keys() == {"accuracy", "clips"}
        assert result["probe"]["converged"]
        assert len(result["probe"]["tried"]) == len(STRENGTHS)
        torch.testing.assert_close(model.head(one), probe.head(one), rtol=1e-2, atol=1e-3)


def test_full_fine_tuning_starts_from_the_encoder(clips, tmp_path):
    supervised.train(clips, SUPERVISED, tmp_path / "a")
    weights = tmp_path / "a" / "epoch-002.safetensors"
    settings = replace(SUPERVISED, encoder=str(weights), random_state=1)
    supervised.train(clips, settings, tmp_path / "b")
    first = load_encoder(tmp_path / "b" / "epoch-000.safetensors").state_dict()
    last = load_encoder(tmp_path / "b" / "epoch-002.safetensors").state_dict()
    for name, weight in load_encoder(weights).state_dict().items():
        assert torch.equal(first[name], weight)
        assert not torch.equal(last[name], weight)


TINY = torch.finfo(torch.float32).tiny / 1000


@needs_flushing
def test_a_filter_that_died_ends_as_zeros(clips, tmp_path):
    """Its weights would stay numbers that a processor needs many times as long for."""
    supervised.train(clips, SUPERVISED, tmp_path / "a")
    weights, about = load_checkpoint(tmp_path / "a" / "epoch-002.safetensors")
    weights["encoder.features.conv11.weight"][0] = TINY
    weights["encoder.features.conv11.bias"][0] = -1.0  # no input makes it positive
    save_checkpoint(tmp_path / "dying.safetensors", weights, about)
    settings = replace(SUPERVISED, encoder=str(tmp_path / "dying.safetensors"))
    supervised.train(clips, settings, tmp_path / "b")
    first, last = (
        load_checkpoint(tmp_path / "b" / f"epoch-00{epoch}.safetensors")[0] for epoch in (0, 2)
    )
    assert (first["encoder.features.conv11.weight"][0] == TINY).all()
    assert (last["encoder.features.conv11.weight"][0] == 0).all()


@needs_flushing
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_denormals_are_zeros_in_training_alone(name, before, clips, tmp_path, monkeypatch):
    program, settings = PROGRAMS[name]
    seen = []
    monkeypatch.setattr(program, "fit", lambda *_: seen.append(count_as_zeros()) or 1 / 0)
    torch.set_flush_denormal(before)
    try:
        with pytest.raises(ZeroDivisionError):
            program.train(clips, settings, tmp_path)
        assert (seen, count_as_zeros()) == ([True], before)
    finally:
        torch.set_flush_denormal(False)


def count_as_zeros() -> bool:
    """Whether numbers that are too small for full precision count as 0 now."""
    return bool(torch.full((), TINY) == 0)


def test_training_that_diverges_says_so(clips, tmp_path):
    settings = replace(SUPERVISED, peak_rate=1e12)
    with pytest.raises(FloatingPointError, match=r"diverged: the loss of epoch [12] is (nan|inf)"):
        supervised.train(clips, settings, tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_bfloat16_is_close_but_not_the_same(clips, tmp_path):
    one = supervised.train(clips, replace(SUPERVISED, epochs=1), tmp_path / "one")
    settings = replace(SUPERVISED, epochs=1, bfloat16=True)
    two = supervised.train(clips, settings, tmp_path / "two")
    loss, rounded = (result["history"][0]["loss"] for result in (one, two))
    assert rounded != loss
    assert rounded == pytest.approx(loss, rel=0.05)


# The command line


def call(monkeypatch, program, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    program.main()


def test_the_command_line_trains_and_exports(folder, tmp_path, monkeypatch):
    small = ("--width", 1 / 64, "--seconds", 0.3, "--batch-size", 4, "--epochs", 1)
    small += ("--warmup-epochs", 0.5)
    exported = tmp_path / "encoder.safetensors"
    arguments = (folder, "--preset", "events", "--out", tmp_path / "a", *small)
    none = ("--augmentations", "--export", exported)
    call(monkeypatch, simclr, *arguments, *none)
    tensors, about = load_checkpoint(exported)
    assert all(name.startswith("encoder.") for name in tensors)
    assert about["command"].startswith("python -m reference_models.simclr ")
    chosen = {"width": 1 / 64, "seconds": 0.3, "batch_size": 4, "epochs": 1, "augmentations": []}
    chosen["warmup_epochs"] = 0.5
    preset = asdict(simclr.PRESETS["events"])
    assert about["settings"] == {**preset, "splits": ["train"], **chosen}
    exported = tmp_path / "classifier.safetensors"
    arguments = (folder, "--preset", "words", "--out", tmp_path / "b", *small)
    transfer = ("--encoder", tmp_path / "encoder.safetensors", "--frozen", "--export", exported)
    call(monkeypatch, supervised, *arguments, *transfer)
    assert load_classifier(exported).head.out_features == 3
    about = json.loads(exported.with_suffix(".json").read_text())
    assert about["test"]["clips"] == 5
    assert about["settings"]["frozen"] is True


def test_user_errors_are_one_line(folder, tmp_path, monkeypatch, capsys):
    for arguments, message in (
        (("nowhere", "--preset", "words"), "no finished cache in 'nowhere'"),
        ((folder, "--preset", "words", "--seconds", 0.2), "1600 samples, expected at least 2370"),
        ((folder, "--preset", "words"), "batches of 32 clips from 14"),
        ((folder, "--preset", "words", "--encoder", "gone"), "'gone': there is no such file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            call(monkeypatch, supervised, *arguments, "--out", tmp_path / "run")
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error


@pytest.mark.parametrize("program", [simclr, supervised])
def test_help_explains_every_setting(program, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, program, "--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in program.Settings.__dataclass_fields__:
        assert re.search(rf"--{name.replace('_', '-')}\b", text), name


def test_help_shows_the_values_of_the_preset(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, supervised, "cache", "--preset", "esc10", "--out", "runs", "--help")
    values = re.findall(r"--(seconds|epochs) .*?\(default: (\S+?)\)", capsys.readouterr().out, re.S)
    assert values == [("seconds", "2.5"), ("epochs", "40")]


def test_without_tyro_the_programs_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit, match=r'tyro.* run: pip install "deconv1d\[reference\]"'):
        call(monkeypatch, supervised, "cache", "--preset", "words", "--out", "runs")
