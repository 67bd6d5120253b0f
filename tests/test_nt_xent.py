"""NT-Xent is the paper's equation 1: against a double loop and the official definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reference_models.nt_xent import nt_xent


def random_views(clips: int = 5, features: int = 7) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    views = torch.randn(2, clips, features, dtype=torch.float64, generator=draws)
    return tuple(views * torch.arange(1, 1 + clips)[:, None])


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_equation_1(temperature):
    one, two = random_views()
    z = [v / v.norm() for v in (*one, *two)]
    losses = []
    for i in range(10):
        j = (i + 5) % 10
        others = sum(math.exp(z[i] @ z[k] / temperature) for k in range(10) if k != i)
        losses.append(-math.log(math.exp(z[i] @ z[j] / temperature) / others))
    got = nt_xent(one, two, temperature=temperature).item()
    assert got == pytest.approx(sum(losses) / 10, abs=1e-12)


def test_the_official_loss_is_twice_nt_xent():
    one, two = (F.normalize(view, dim=1) for view in random_views())
    # objective.py of google-research/simclr: logits of each half, itself masked by 1e9
    masks, labels = torch.eye(5) * 1e9, torch.arange(5)
    aa, bb = one @ one.T / 0.1 - masks, two @ two.T / 0.1 - masks
    ab, ba = one @ two.T / 0.1, two @ one.T / 0.1
    official = F.cross_entropy(torch.cat([ab, aa], 1), labels)
    official += F.cross_entropy(torch.cat([ba, bb], 1), labels)
    assert official.item() == pytest.approx(2 * nt_xent(one, two).item(), abs=1e-12)


def test_nt_xent_stays_finite():
    one = torch.full((4, 8), 1e4)
    assert nt_xent(one, one, temperature=0.01).item() == pytest.approx(math.log(7), abs=1e-5)
    assert nt_xent(one[:1], one[:1]).item() == 0


def test_nt_xent_wants_pairs():
    one, two = random_views()
    with pytest.raises(ValueError, match=r"\(5, 7\) and \(4, 7\)"):
        nt_xent(one, two[:4])
    with pytest.raises(ValueError, match=r"negatives='all'.*'global'"):
        nt_xent(one, two, negatives="all")
