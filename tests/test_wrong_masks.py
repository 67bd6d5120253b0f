"""A wrong mask fails every test that a mask is put to: pointing, identity, in minus out, disturbed.

Stems and channels are a chessboard, so that each cell of one is a neighbour of the other's:

    band 27 |  B A B A ...      channel 0 hears A's squares alone, channel 1 B's;
    band 26 |  A B A B ...      a mask that is off by one cell, either way, is the other's.
    ...
"""

import pytest
import scipy.signal
import torch
from bands import BANDS, RATE, bank, tones
from torch import nn

from deconv1d import InputError, Sonifier
from deconv1d.evaluation.cells import best_cells
from deconv1d.evaluation.disturbed import (
    AS_IT_IS,
    DISTURBANCES,
    NOISY,
    OTHER_STFT,
    SHIFTED,
    disturbed_masks,
    through_another_stft,
)
from deconv1d.evaluation.identity import self_identification
from deconv1d.evaluation.pointing import Pair, pointing_game
from deconv1d.masks.draws import random_masks
from deconv1d.masks.grid import grid_of
from deconv1d.masks.spectrogram import spectrogram_of

SAMPLES = 6400
SQUARE = 640  # samples: two columns of the grid
EVEN = ((torch.arange(SAMPLES) // SQUARE) % 2 == 0).double()
GRID = grid_of(RATE, SAMPLES)
CENTRES = [sum(GRID.hertz[band]) / 2 for band in range(20, 28)]
ROWS = CENTRES[::2], CENTRES[1::2]


class Chessboard(nn.Module):
    """Channel 0 is active on the squares of stem A, channel 1 on those of stem B."""

    def __init__(self):
        super().__init__()
        low, high = (
            torch.from_numpy(
                sum(
                    scipy.signal.firwin(257, (f - 40, f + 40), pass_zero=False, fs=RATE)
                    for f in row
                )
            )
            for row in ROWS
        )
        self.conv = nn.Conv1d(2, 2, 257, padding=128, bias=False).double()
        self.conv.weight.data = torch.stack([torch.stack([low, high]), torch.stack([high, low])])
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(torch.cat([x * EVEN, x * (1 - EVEN)], 1)))


def chessboard() -> Pair:
    low, high = (tones(*row, seconds=SAMPLES / RATE) for row in ROWS)
    return Pair(torch.stack([low * EVEN + high * (1 - EVEN), high * EVEN + low * (1 - EVEN)]))


PAIR = chessboard()
CLIP = PAIR.mixture


def own(sonifier, x, layer, channels):
    """The masks that are planted: the cells that the stems differ in."""
    spectrogram = spectrogram_of(x, GRID)
    one, two = (spectrogram_of(stem, GRID).energy for stem in PAIR.stems)
    scores = torch.stack([one - two, two - one])[list(channels)]
    return best_cells(scores, spectrogram.energy, budget=0.5)


def found(sonifier, x, layer, channels):
    """The masks of `method="mask"`."""
    return sonifier.sonify(x, layer=layer, channel=list(channels), method="mask").mask


def heard(masks_of):
    """The same as an explanation."""
    return lambda s, x, layer, c: spectrogram_of(x, GRID).masked(masks_of(s, x, layer, c))


def but(masks_of, change):
    return lambda *given: change(masks_of(*given))


WRONG = {
    "one band off": lambda masks: masks.roll(1, -2),
    "one band off, down": lambda masks: masks.roll(-1, -2),
    "one square off": lambda masks: masks.roll(2, -1),
    "another channel's": lambda masks: masks.flip(0),
    "inverted": lambda masks: 1 - masks,
    "open": torch.ones_like,
}


@pytest.fixture(scope="module")
def sonifier():
    return Sonifier(Chessboard(), sample_rate=RATE)


@pytest.fixture(scope="module", params=[own, found], ids=["planted", "found"])
def right(request, sonifier):
    """Right masks; they are searched once."""
    masks = request.param(sonifier, CLIP, "conv", [0, 1])
    return lambda s, x, layer, channels: masks[list(channels)]


def points(sonifier, masks_of) -> float:
    game = pointing_game(sonifier, ["conv"], [PAIR], {"mask": heard(masks_of)})
    return float(game.scores["conv"]["mask"][0, 0])


def test_right_masks_pass_each_test(sonifier, right):
    assert points(sonifier, right) > 0.89
    scores = disturbed_masks(sonifier, ["conv"], [CLIP], masks_of=right).scores["conv"]
    for name in DISTURBANCES:
        identified, answer, in_minus_out = scores[name][0].tolist()
        assert identified == 1, name
        assert answer > 1.3, name
        assert in_minus_out > 0.7, name


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_mask_fails_each_test(sonifier, right, wrong):
    spoiled = but(right, WRONG[wrong])
    assert points(sonifier, spoiled) <= 0.5 + 1e-9
    told = self_identification(sonifier, ["conv"], [CLIP], {"mask": heard(spoiled)})
    disturbed = disturbed_masks(sonifier, ["conv"], [CLIP], masks_of=spoiled).scores["conv"]
    for name, scores in {"undisturbed": told.scores["conv"]["mask"], **disturbed}.items():
        identified, answer, in_minus_out = scores[0].tolist()
        assert identified <= 0.5, name
        assert answer <= 1.01, name
        assert in_minus_out <= 0.01, name


# --- masks that are right for details that nobody hears -------------------------------------------


def random_four(sonifier, x, layer, channels):
    masks = random_masks(grid_of(RATE, len(x)), 8, torch.Generator().manual_seed(0))
    return masks[list(channels)].to(x)


def test_a_mask_that_hides_in_the_phase_of_one_stft_is_seen():
    """Each channel hears just that of its masked sound which another STFT does not give."""
    x = sum(tones(f) for f in (300, 1000, 2200, 3200))
    sounds = spectrogram_of(x, grid_of(RATE, len(x))).masked(random_four(None, x, "", range(4)))
    others = through_another_stft(x, random_four(None, x, "", range(4)), RATE)
    # An orthonormal basis of what no channel hears, by QR.
    unheard = torch.linalg.qr(torch.cat([others, x[None]]).T)[0]
    details = sounds - (sounds @ unheard) @ unheard.T
    matched = nn.Conv1d(1, 4, len(x), bias=False).double()
    details = torch.linalg.pinv(details).T  # each one answers its own sound alone, by 1
    # Every channel is a little active on the clip itself, relative to which it is read.
    matched.weight.data = (details + 0.5 * x / x.square().sum())[:, None]
    scores = disturbed_masks(
        Sonifier(nn.Sequential(matched, nn.ReLU()), sample_rate=RATE),
        ["0"],
        [x],
        masks_of=random_four,
    ).scores["0"]
    identified, _, in_minus_out = scores[AS_IT_IS][0].tolist()
    assert identified == 1
    assert in_minus_out > 1
    identified, answer, in_minus_out = scores[OTHER_STFT][0].tolist()
    assert identified <= 0.5
    assert answer < 1
    assert in_minus_out < 0.5


def test_a_mask_that_only_silence_lets_through_is_seen_in_noise():
    """The channels hear their band if an empty one is empty: noise at -20 dB fills it."""

    class Shy(nn.Module):
        def __init__(self):
            super().__init__()
            # The empty band twice, once with its sign turned: a ReLU lets one half through each.
            self.bands = bank(*BANDS, (500, 800), (500, 800))
            self.bands[0].weight.data[-1] *= -1
            self.mixed = nn.Conv1d(6, 4, 1, bias=False).double()
            weight = torch.cat([torch.eye(4), torch.full((4, 2), -100.0)], 1)
            self.mixed.weight.data = weight[:, :, None].double()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.mixed(self.bands(x)))

    clip = tones(300, 1000, 2200, 3200)[500:-500]
    found = disturbed_masks(Sonifier(Shy(), sample_rate=RATE), ["act"], [clip]).scores["act"]
    assert found[AS_IT_IS][0, 0] == 1
    assert found[AS_IT_IS][0, 2] > 1
    assert found[SHIFTED][0, 2] > 1
    assert found[NOISY][0, 2] < 0.3 * found[AS_IT_IS][0, 2]


def test_masks_of_another_grid_are_refused(sonifier):
    with pytest.raises(InputError, match=r"expected one for each.*\(2, 32, 21\).*got \(2, 8, 21\)"):
        disturbed_masks(sonifier, ["conv"], [CLIP], masks_of=but(own, lambda masks: masks[:, ::4]))
