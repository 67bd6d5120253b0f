"""The page of models: it is written only if every law holds."""

import sys

import pytest
import torch

from benchmarks import models
from benchmarks.architectures import ARCHITECTURES


def wrong(architecture, *, rectifying):
    """A derivative that is not torch's."""
    return torch.ones(architecture.input_shape)


def test_no_page_is_written_if_a_law_fails(monkeypatch):
    monkeypatch.setattr(models, "autograd", wrong)
    monkeypatch.setattr(models, "write_page", lambda *_: pytest.fail("it was written"))
    monkeypatch.setattr(sys, "argv", ["models", "unet"])
    with pytest.raises(models.LawBrokenError, match="unet: a law fails: the largest difference"):
        models.main()


def test_no_gradient_is_right_only_where_torch_has_none(monkeypatch):
    assert models.gradient_of(ARCHITECTURES["own_no_grad"]) is None
    monkeypatch.setattr(models, "autograd", wrong)
    with pytest.raises(models.LawBrokenError, match="torch has a derivative, we have none"):
        models.gradient_of(ARCHITECTURES["own_no_grad"])
