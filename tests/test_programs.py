"""`sonifier.programs` gives what `sonify` gives, by a program from the second time on."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from deconv1d import Sonifier
from deconv1d.errors import ChannelError, SilenceWarning


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Conv1d(1, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers).double().eval()


def waveform(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (61,), generator=generator, dtype=torch.float64)


def recordings_of(model) -> list[int]:
    """Counts forward passes of the model itself; a program runs none."""
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize("seed", ["activation", "ones", "peak", torch.square])
@pytest.mark.parametrize("channel", [2, [0, 5], "all", "most_active", None])
def test_it_gives_what_sonify_gives(model, seed, channel):
    sonifier, plain = Sonifier(model), Sonifier(model)
    for number in range(4):
        x = waveform(number)
        one = sonifier.programs.sonify(x, "3", channel=channel, seed=seed)
        other = plain.sonify(x, "3", channel=channel, seed=seed)
        torch.testing.assert_close(one.raw, other.raw, rtol=1e-12, atol=1e-12)
        assert one.channel == other.channel
        assert one.verified == other.verified
        assert one.verified is not None


def test_one_program_serves_every_seed(model):
    sonifier = Sonifier(model)
    for number in range(2):
        sonifier.programs.sonify(waveform(number), "3", channel=1)
    seen = recordings_of(model)
    x = waveform(5)
    given = torch.randn(1, 6, 26, dtype=torch.float64)
    raw = sonifier.programs.sonify(x, "3", channel=1, seed=lambda _: given).raw
    assert not seen
    plain = sonifier.sonify(x, "3", channel=1, seed=lambda _: given).raw
    torch.testing.assert_close(raw, plain, rtol=1e-12, atol=1e-12)


def test_another_length_and_another_layer_have_programs_of_their_own(model):
    sonifier = Sonifier(model)
    for _ in range(3):
        for length in (61, 80):
            for layer in ("0", "3"):
                x = waveform(length, length)
                raw = sonifier.programs.sonify(x, layer, channel=1).raw
                assert torch.allclose(raw, sonifier.sonify(x, layer, channel=1).raw, atol=1e-12)


def test_it_follows_weights_and_notices_another_structure(model):
    sonifier = Sonifier(model)
    for number in range(3):
        sonifier.programs.sonify(waveform(number), "3", channel=1)
    with torch.no_grad():
        model[0].weight.mul_(-1)
    x = waveform(9)
    raw = sonifier.programs.sonify(x, "3", channel=1).raw
    assert torch.allclose(raw, Sonifier(model).sonify(x, "3", channel=1).raw, atol=1e-12)
    model[1] = nn.Tanh()
    for _ in range(3):
        raw = sonifier.programs.sonify(x, "3", channel=1).raw
        assert torch.allclose(raw, Sonifier(model).sonify(x, "3", channel=1).raw, atol=1e-12)


class Looks(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 5).double()

    def forward(self, x):
        z = self.conv(x)
        return z if z.sum() > 0 else -z


def test_a_model_that_cannot_be_prepared_is_sonified_as_usual_and_it_says_why(caplog):
    caplog.set_level("INFO")
    model = Looks()
    sonifier = Sonifier(model)
    for number in range(4):
        x = waveform(number)
        raw = sonifier.programs.sonify(x, "conv", channel=1).raw
        assert torch.equal(raw, sonifier.sonify(x, "conv", channel=1).raw)
    assert "looks at values of tensors" in sonifier.programs.refused["conv"]
    assert caplog.text.count("is recorded anew for every sound") == 1


def test_a_users_mistake_is_told_as_usual_and_forgets_nothing(model):
    sonifier = Sonifier(model)
    for number in range(2):
        sonifier.programs.sonify(waveform(number), "3", channel=1)
    with pytest.raises(ChannelError, match="Channel 6 is out of range"):
        sonifier.programs.sonify(waveform(0), "3", channel=6)
    seen = recordings_of(model)
    sonifier.programs.sonify(waveform(0), "3", channel=1)
    assert not seen


def test_a_copy_has_programs_of_its_own(model):
    sonifier = Sonifier(model)
    for number in range(3):
        sonifier.programs.sonify(waveform(number), "3", channel=1)
    other = copy.deepcopy(sonifier)
    with torch.no_grad():
        other.model[0].weight.zero_()
        other.model[0].bias.fill_(1)
    x = waveform(9)
    for _ in range(3):
        raw = other.programs.sonify(x, "3", channel=1).raw
    assert torch.equal(raw, Sonifier(other.model).sonify(x, "3", channel=1).raw)
    assert not raw.any()
    assert sonifier.programs.sonify(x, "3", channel=1).raw.any()


def test_a_silent_sound_is_warned_of_where_it_was_asked_for(model):
    with torch.no_grad():
        model[3].weight.zero_()
        model[3].bias.fill_(-1)
    sonifier = Sonifier(model)
    for _ in range(3):
        with pytest.warns(SilenceWarning) as warned:
            sonifier.programs.sonify(waveform(0), "3", channel=1)
        assert [w.filename for w in warned] == [__file__]


def test_programs_go_with_their_sonifier(model):
    sonifier = Sonifier(model)
    for number in range(3):
        sonifier.programs.sonify(waveform(number), "3", channel=1)
    gone = weakref.ref(sonifier)
    del sonifier
    gc.collect()
    assert gone() is None
