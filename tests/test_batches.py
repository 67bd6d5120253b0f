"""What the steps of a run are made of: learning rate, shuffles, seeds, first weights."""

import doctest

import numpy as np
import pytest
import torch

from reference_models import batches as batches_module
from reference_models import schedule
from reference_models.batches import Batches, ahead, crop_samples, seeded
from reference_models.cnn12 import CNN12
from reference_models.initialisation import initialise
from reference_models.schedule import learning_rate


def test_learning_rate_is_a_line_and_a_cosine():
    rates = [learning_rate(s, peak=3.0, warmup=9, total=30) for s in range(31)]
    assert rates[:10] == pytest.approx([0.3 * s for s in range(1, 11)])
    assert rates[9:] == pytest.approx(list(1.5 + 1.5 * np.cos(np.linspace(0, np.pi, 22))))
    assert learning_rate(0, peak=1.0, warmup=0, total=5) == 1
    with pytest.raises(ValueError, match=r"warm up for 50 of 25 steps.*--warmup-epochs"):
        learning_rate(0, peak=1.0, warmup=50, total=25)
    assert min(rates[:30]) > 0


def test_an_epoch_holds_every_clip_once():
    batches = Batches(clips=14, batch_size=4, random_state=0)
    assert len(batches) == 3
    epochs = [torch.cat([batches[3 * e + s] for s in range(3)]).tolist() for e in range(40)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert {clip for epoch in epochs for clip in epoch} == set(range(14))
    assert len({tuple(epoch) for epoch in epochs}) == 40
    assert [b.tolist() for b in (batches[0], batches[7])] == [
        b.tolist() for b in (Batches(14, 4, 0)[0], Batches(14, 4, 0)[7])
    ]
    assert not torch.equal(batches[0], Batches(14, 4, 1)[0])


def test_processes_share_a_batch(monkeypatch):
    whole = Batches(clips=14, batch_size=6, random_state=0)[5]
    monkeypatch.setattr(batches_module, "world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(batches_module, "rank", lambda rank=rank: rank)
        shares.append(Batches(clips=14, batch_size=6, random_state=0)[5])
    assert [len(share) for share in shares] == [2, 2, 2]
    assert sorted(torch.cat(shares).tolist()) == sorted(whole.tolist())
    with pytest.raises(ValueError, match="batches of 4 clips among 3 processes"):
        Batches(clips=14, batch_size=4, random_state=0)


def test_a_batch_holds_clips_of_one_group():
    groups = (*"aaaaaaa", "b", *"aa", *"ccccc")
    batches = Batches(15, 2, 0, groups)
    assert len(batches) == 4 + 0 + 2
    epochs = [[batches[6 * e + s].tolist() for s in range(6)] for e in range(40)]
    assert all(len({groups[clip] for clip in b}) == 1 for epoch in epochs for b in epoch)
    assert all(len({c for b in epoch for c in b}) == 12 for epoch in epochs)
    assert {clip for epoch in epochs for b in epoch for clip in b} == {*range(15)} - {7}
    orders = {tuple(groups[b[0]] for b in epoch) for epoch in epochs}
    assert len(orders) > 5, "the batches of the groups come in random order"


def test_a_group_must_fill_a_batch():
    with pytest.raises(ValueError, match="of one group: the largest of 2 groups has 2"):
        Batches(4, 3, 0, tuple("aabb"))


@pytest.mark.parametrize("batch_size", [0, 15])
def test_a_batch_must_fill(batch_size):
    with pytest.raises(ValueError, match=f"batches of {batch_size} clips from 14"):
        Batches(clips=14, batch_size=batch_size, random_state=0)


def test_seeded_draws_depend_on_the_whole_key():
    keys = [("crops", 0, 1, 0), ("crops", 0, 0, 1), ("augment", 0, 1, 0), ("crops", 0, 1)]
    draws = [torch.rand(3, generator=seeded("cpu", *key)).tolist() for key in (*keys, keys[0])]
    assert draws[0] == draws[-1]
    assert len({tuple(draw) for draw in draws}) == 4


def test_ahead_yields_every_step_in_order_and_passes_errors_on():
    assert list(ahead(lambda step: step * step, range(4))) == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert list(ahead(str, range(0))) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda step: 1 // step, range(2)))


def test_first_weights_keep_the_size_of_a_signal():
    torch.manual_seed(0)
    encoder = initialise(CNN12(width=1 / 4))
    assert not any(p.any() for n, p in encoder.features.named_parameters() if n.endswith("bias"))
    weight = encoder.features.conv9.weight
    assert weight.var().item() == pytest.approx(2 / (weight.shape[1] * 3), rel=0.05)
    x = torch.randn(1, 1, 5000)
    for layer in encoder.features:
        x = layer(x)
    assert 0.2 < x.square().mean().sqrt() < 20


def test_crops_are_at_least_the_receptive_field():
    assert crop_samples(2.5) == 20_000
    assert crop_samples(2370 / 8000) == 2370
    with pytest.raises(ValueError, match=r"crops of 0\.2 s: 1600 samples, expected at least 2370"):
        crop_samples(0.2)


@pytest.mark.parametrize("module", [batches_module, schedule])
def test_examples(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed
