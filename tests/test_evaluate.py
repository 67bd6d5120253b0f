"""Whole-clip outputs and metrics against scikit-learn, definitions and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

pytest.importorskip("pyarrow")

from reference_models import evaluate
from reference_models.cnn12 import CNN12, classifier, pad_to_shortest
from reference_models.data import Clip, ClipIndex, ClipSet, build_cache
from reference_models.evaluate import (
    Interval,
    event_metrics,
    metrics,
    over_runs,
    predict,
    word_metrics,
)
from reference_models.initialisation import initialise

FRAMES = (3000, 5000, 900, 2370, 3000, 2371, 3000, 5000, 4001)


def read_noise(clip: Clip) -> np.ndarray:
    return np.random.default_rng(int(clip.id)).standard_normal(int(clip.path))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> ClipSet:
    listed = (
        Clip(str(i), str(frames), 0, 0, 0, (i % 2,), "test", "unread")
        for i, frames in enumerate(FRAMES)
    )
    index = ClipIndex("noise", ("even", "odd"), False, tuple(listed))
    return build_cache(index, tmp_path_factory.mktemp("noise"), read=read_noise)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return classifier(initialise(CNN12(width=1 / 16)), classes=2)


def one_by_one(model: nn.Module, clips: ClipSet) -> torch.Tensor:
    """The outputs of each clip alone, in eval mode."""
    model.eval()
    with torch.no_grad():
        alone = [pad_to_shortest(clips.waveform(i)[None, None]) for i in range(len(clips))]
        return torch.cat([model(waveform) for waveform in alone])


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_outputs_of_whole_clips_are_those_of_each_alone(model, clips, batch_size):
    expected = one_by_one(model, clips)
    assert torch.pdist(expected).min() > 1e-3  # so that no clip passes for another
    outputs = predict(model, clips, batch_size=batch_size)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_mode_and_holds_no_graph(model, clips, training):
    model.train(training)
    outputs = predict(model, clips)
    assert model.training is training
    assert model.encoder.fc1.drop10.training is training
    assert not outputs.requires_grad
    assert torch.equal(outputs, predict(model, clips))  # no dropout


def test_predict_through_a_wrapper_leaves_what_it_wraps_in_its_mode(model, clips):
    """A new `nn.Sequential` is in training mode, whatever is put into it."""
    model.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    predict(torch.nn.Sequential(model.encoder), clips)
    assert {name: module.training for name, module in model.named_modules()} == modes
    model.encoder.fc1.drop10.train()
    with pytest.raises(RuntimeError):
        predict(torch.nn.Sequential(model.encoder, torch.nn.Linear(1, 1)), clips)
    assert [name for name, m in model.named_modules() if m.training] == ["encoder.fc1.drop10"]


@pytest.mark.parametrize("processes", [2, 4])
def test_shards_hold_every_clip_once(model, clips, processes, monkeypatch):
    shards = []
    monkeypatch.setattr(evaluate, "world_size", lambda: processes)
    monkeypatch.setattr(evaluate, "gather_shards", lambda rows, total: rows)
    for rank in range(processes):
        monkeypatch.setattr(evaluate, "rank", lambda rank=rank: rank)
        shards.append(predict(model, clips))
    expected = one_by_one(model, clips)
    for rank, shard in enumerate(shards):
        torch.testing.assert_close(shard, expected[rank::processes], rtol=1e-4, atol=1e-6)


def test_fewer_clips_than_processes(model, clips, monkeypatch):
    monkeypatch.setattr(evaluate, "world_size", lambda: 10)
    with pytest.raises(ValueError, match=r"on 9 usable clips of 'noise': expected at least 10"):
        predict(model, clips)


@pytest.fixture(scope="module")
def events() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and labels of 527 classes: two empty, one on every clip, some tied scores."""
    draws = np.random.default_rng(0)
    labels = draws.random((300, 527)) < 0.05
    labels[:, [3, 400]] = False
    labels[:, 17] = True
    scores = draws.standard_normal((300, 527)) + 1.5 * labels
    scores[:, 5:9] = scores[:, 5:9].round()
    return torch.from_numpy(scores), torch.from_numpy(labels).float()


def test_event_metrics_are_scikit_learns_over_classes_with_both_kinds(events):
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, labels = (array.numpy() for array in events)
    counted = [c for c in range(527) if 0 < labels[:, c].sum() < 300]
    got = event_metrics(*events)
    assert got["classes"] == len(counted) <= 524
    assert got["clips"] == 300
    expected = sklearn.average_precision_score(
        labels[:, counted], scores[:, counted], average="macro"
    )
    assert got["mAP"] == pytest.approx(expected, abs=1e-12)
    expected = sklearn.roc_auc_score(labels[:, counted], scores[:, counted], average="macro")
    assert got["mAUC"] == pytest.approx(expected, abs=1e-12)
    # Phi(d' / sqrt(2)) is the area
    assert (1 + erf(got["dprime"] / 2)) / 2 == pytest.approx(got["mAUC"], abs=1e-12)


def test_event_metrics_in_small():
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    scores = torch.tensor([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    got = metrics(scores, labels)
    assert got["mAP"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert got["mAUC"] == pytest.approx(3 / 4)
    assert got["dprime"] == pytest.approx(math.sqrt(2) * 0.6744897501960817)
    assert got["classes"] == 1


def test_the_papers_area_and_dprime_agree():
    # Table A.2 has mAUC 0.954 beside d' 2.378. Here one clip in 1001 is positive, 46 are above it.
    labels = torch.zeros(1001, 1)
    labels[46] = 1
    got = event_metrics(-torch.arange(1001.0)[:, None], labels)
    assert got["mAUC"] == pytest.approx(0.954)
    assert got["dprime"] == pytest.approx(2.378, abs=0.01)


def test_scores_that_are_no_numbers():
    with pytest.raises(ValueError, match=r"1 of them are NaN"):
        event_metrics(torch.tensor([[0.0], [math.nan]]), torch.tensor([[0.0], [1.0]]))
    with pytest.raises(ValueError, match=r"no accuracy .* 2 of them are NaN"):
        word_metrics(torch.full((1, 2), math.nan), torch.tensor([0]))


def test_no_class_counts():
    with pytest.raises(ValueError, match=r"labels of shape \(4, 2\).*none"):
        event_metrics(torch.zeros(4, 2), torch.tensor([[1.0, 0.0]]).expand(4, 2))


def test_word_metrics():
    draws = torch.Generator().manual_seed(0)
    scores = torch.randn(501, 35, generator=draws)
    labels = torch.randint(35, (501,), generator=draws)
    scores[torch.arange(501), labels] += 1.5
    expected = np.mean(
        [row.index(max(row)) == k for row, k in zip(scores.tolist(), labels, strict=True)]
    )
    assert 0.2 < expected < 0.8
    assert metrics(scores, labels) == word_metrics(scores, labels)
    assert word_metrics(scores, labels) == {"accuracy": pytest.approx(expected), "clips": 501}


def test_interval_over_runs():
    got = over_runs([0.30, 0.32, 0.31])
    assert got.mean == pytest.approx(0.31)
    # t(0.975, 2) = 4.3027 times the standard error 0.01 / sqrt(3)
    assert got.half_width == pytest.approx(4.302652729911275 * 0.01 / math.sqrt(3))
    assert str(got) == "0.310 ± 0.025 (N=3)"
    assert over_runs([0.5]) == Interval(0.5, math.inf, 1)
