"""dtype="auto": half precision where it is faster and sounds alike, and said."""

import pytest
import torch
from torch import nn

from deconv1d import Sonifier
from deconv1d.checks import half
from deconv1d.checks.half import Trial, similarity
from deconv1d.errors import InputError

X = torch.randn(1, 1, 900, generator=torch.Generator().manual_seed(0))


def network(gain: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 6, 9), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 5, 7))
    with torch.no_grad():
        model[0].weight *= gain
    return model.eval()


@pytest.fixture
def paying(monkeypatch):
    """A processor on which half precision takes half the time."""
    monkeypatch.setattr("deconv1d.sonify.trial", lambda device: Trial(torch.bfloat16, device, 0.5))


def dtypes_run(monkeypatch, model) -> list[torch.dtype]:
    seen = []
    model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    return seen


def test_where_it_does_not_pay_nothing_differs_and_it_says_so(monkeypatch):
    monkeypatch.setattr("deconv1d.sonify.trial", lambda device: Trial(torch.bfloat16, device, 1.4))
    model = network()
    auto = Sonifier(model, sample_rate=8000, dtype="auto")
    assert torch.equal(
        auto.sonify(X, "3", channel=1).raw, Sonifier(model).sonify(X, "3", channel=1).raw
    )
    assert "float32, since bfloat16 takes 1.40 x the time of float32 on this cpu" in repr(auto)


def test_where_it_pays_and_is_alike_half_precision_is_used_from_the_second_on(paying, monkeypatch):
    monkeypatch.setattr(half, "ALIKE", 0.99)
    model = network()
    auto, plain = Sonifier(model, dtype="auto", verify=False), Sonifier(model).sonify(X, "0")
    first = auto.sonify(X, "0")
    seen = dtypes_run(monkeypatch, model)
    second = auto.sonify(X, "0")
    assert torch.equal(first.raw, plain.raw)
    assert set(seen) == {torch.bfloat16}
    assert second.raw.dtype == torch.float32
    assert 0.99 <= similarity(second.raw, plain.raw) < 1
    assert "bfloat16, since it" not in repr(auto)
    assert repr(auto).count("bfloat16, since bfloat16 takes 0.50 x") == 1


def test_a_layer_that_is_not_alike_stays_in_full_precision(paying, monkeypatch):
    monkeypatch.setattr(half, "similarity", lambda one, other: 0.9998)
    model = network()
    auto = Sonifier(model, dtype="auto", verify=False)
    auto.sonify(X, "0")
    seen = dtypes_run(monkeypatch, model)
    auto.sonify(X, "0")
    assert set(seen) == {torch.float32}


def test_what_half_precision_cannot_hold_is_in_full_precision(monkeypatch):
    monkeypatch.setattr("deconv1d.sonify.trial", lambda device: Trial(torch.float16, device, 0.5))
    model = network(gain=1e6)  # beyond 65504, where float16 ends
    auto = Sonifier(model, dtype="auto", verify=False)
    plain = Sonifier(model).sonify(X, "0").raw
    for _ in range(2):
        assert torch.equal(auto.sonify(X, "0").raw, plain)


def test_a_model_in_float64_stays_in_it(paying):
    model = network().double()
    auto = Sonifier(model, dtype="auto")
    for _ in range(2):
        raw = auto.sonify(X.double(), "3").raw
    assert torch.equal(raw, Sonifier(model).sonify(X.double(), "3").raw)


def test_the_trial_is_made_once_and_names_what_it_tried():
    found = half.trial("cpu")
    assert half.trial("cpu") is found
    assert found.ratio > 0
    assert found.dtype is torch.bfloat16


def test_another_word_is_refused():
    with pytest.raises(InputError, match="Unknown dtype 'half': expected one of 'auto'"):
        Sonifier(network(), dtype="half")


def test_similarity_counts_the_worst_waveform():
    one = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert similarity(one, one) == pytest.approx(1)
    assert similarity(one, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])) == pytest.approx(
        0.5**0.5
    )
    assert similarity(one, -one) == pytest.approx(-1)
