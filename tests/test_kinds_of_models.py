"""Models of kinds that once met a traceback of torch's: they work, or are refused by name."""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import random
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.attention.flex_attention import flex_attention

from deconv1d import Sonifier
from deconv1d.errors import ModelError, PathError
from deconv1d.record.unchanged import FORWARD_LOCK

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


class Net(nn.Module):
    """conv -> ReLU -> a function of the maps -> conv."""

    def __init__(self, between: Callable[..., Tensor], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(1, 4, 5), nn.Conv1d(4, 4, 3)
        self.between, self.inner = between, inner

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        return self.last(self.between(h) if self.inner is None else self.between(h, self.inner))


class Returns(nn.Module):
    """A module that returns what a function does."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: Tensor) -> Any:
        return self.function(h)


def attend(h: Tensor, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(h.mT, h.mT, h.mT, **options).mT


def packed(h: Tensor, rnn: nn.Module) -> Tensor:
    lengths = [h.shape[-1], h.shape[-1] - 3]
    given = nn.utils.rnn.pack_padded_sequence(h.mT, lengths, batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(rnn(given)[0], batch_first=True)[0].mT


def nothing_to_see(h: Tensor) -> Tensor:
    seen = torch.ones(h.shape[-1], h.shape[-1], dtype=torch.bool)
    seen[0] = False
    return attend(h, attn_mask=seen)


def broadcast(h: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(h.mT, h.mT[:1], h.mT[:1]).mT


def sorted_out(h: Tensor) -> Tensor:
    values, places = torch.empty_like(h), torch.empty(h.shape, dtype=torch.long)
    torch.sort(h, dim=-1, out=(values, places))
    return values


def in_place_lists(h: Tensor) -> Tensor:
    parts = [h * 1, h * 2]
    torch._foreach_mul_(parts, 2.0)
    return parts[0] + parts[1]


def flattened_copy(h: Tensor) -> Tensor:
    flat = nn.Flatten()(h.mT)
    return flat.relu_().reshape(len(h), -1, 4).mT


def halved_thrice(h: Tensor) -> Tensor:
    return while_loop(lambda n, _: n < 3, lambda n, h: (n + 1, h / 2), (torch.tensor(0), h))[1]


def scanned(h: Tensor) -> Tensor:
    def step(state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return state / 2 + x, (state / 2 + x).clone()

    return scan(step, torch.zeros(2, 4, dtype=h.dtype), h.permute(2, 0, 1))[1].permute(1, 2, 0)


def flexible(h: Tensor) -> Tensor:
    def nearer(score: Tensor, b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score - (q - k).abs() / 9

    return flex_attention(h.mT[:, None], h.mT[:, None], h.mT[:, None], score_mod=nearer)[:, 0].mT


@torch.library.custom_op("deconv1d_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


@torch.library.custom_op("deconv1d_tests::tripled", mutates_args=())
def tripled(x: Tensor) -> Tensor:
    return x * 3


doubled.register_autograd(lambda ctx, signal: signal * 2)

MODELS: dict[str, Callable[[], Net]] = {
    "conv2d_valid": lambda: Net(
        lambda h, c: c(h[:, None])[:, 0], nn.Conv2d(1, 1, (1, 3), padding="valid")
    ),
    "packed_sequence": lambda: Net(packed, nn.LSTM(4, 4, batch_first=True)),
    "custom_op": lambda: Net(doubled),
    "cond": lambda: Net(
        lambda h: torch.cond(h.sum() > 0, lambda h: torch.relu(h - 0.1), lambda h: h * 2, (h,))
    ),
    "while_loop": lambda: Net(halved_thrice),
    "scan": lambda: Net(scanned),
    "flex_attention": lambda: Net(flexible),
    "attention_broadcast_over_the_batch": lambda: Net(broadcast),
    "attention_of_a_query_that_sees_nothing": lambda: Net(nothing_to_see),
    "vmap_over_a_layer": lambda: Net(lambda h, c: torch.vmap(c)(h), nn.Conv1d(4, 4, 3)),
    "cat_of_an_empty_vector": lambda: Net(lambda h: torch.cat([torch.tensor([]).to(h), h], 2)),
    "complex_and_back": lambda: Net(
        lambda h: torch.view_as_real(torch.view_as_complex(torch.stack([h, -h], -1)))[..., 1]
    ),
    "out_of_two_results": lambda: Net(sorted_out),
    "in_place_lists": lambda: Net(in_place_lists),
    "in_place_on_a_flattened_copy": lambda: Net(flattened_copy),
    "copies_a_layer": lambda: Net(lambda h, c: copy.deepcopy(c)(h), nn.Conv1d(4, 4, 3)),
    "torch_func_grad": lambda: Net(lambda h: torch.func.grad(lambda z: (z**3).sum())(h)),
}


def flexible_by_hand(h: Tensor) -> Tensor:
    moments = torch.arange(h.shape[-1])
    scores = h.mT @ h / 2 - (moments[:, None] - moments).abs() / 9
    return (scores.softmax(-1) @ h.mT).mT


TWINS = {
    "flex_attention": flexible_by_hand,
    "while_loop": lambda h: h / 8,
    "out_of_two_results": lambda h: h.sort(-1).values,
}
"""The same function, where autograd has no derivative for how the model calls it."""
WAVEFORM = random(2, 1, 41, seed=3)


def built(name: str) -> Net:
    torch.manual_seed(0)
    return MODELS[name]().double()


@pytest.mark.parametrize("name", MODELS)
def test_gradient_is_autograd(name):
    model, x = built(name), WAVEFORM.clone().requires_grad_()
    raw = Sonifier(model, verify=False).sonify(
        WAVEFORM, layer="last", channel=None, method="gradient"
    )
    model.between = TWINS.get(name, model.between)
    y = model(x)
    (expected,) = torch.autograd.grad(y, x, y.detach())
    torch.testing.assert_close(raw.raw, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_deconvnet_is_heard_and_verified(name):
    heard = Sonifier(built(name)).sonify(WAVEFORM, layer="last", channel=1)
    assert heard.raw.any()
    assert heard.verified.value == pytest.approx(0, abs=1e-9)


def test_loops_record_the_ops_that_ran():
    rows = Sonifier(built("cond")).plan(WAVEFORM, "last").rows
    assert sum(".relu#" in row.op or row.op.startswith("relu#") for row in rows) == 2


# --- layers that lost an axis --------------------------------------------------------------------

OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...], int]] = {
    "a loss": (lambda h: h.square().mean(), (2, 1, 9), 1),
    "a score for each example": (lambda h: h.mean((1, 2)), (3, 1, 9), 1),
    "the only example": (lambda h: h[0], (1, 1, 9), 4),
    "a vector of the only example": (lambda h: h[0].mean(-1), (1, 1, 9), 4),
    "a list of examples": (lambda h: [*h], (2, 1, 9), 4),
    "the only example, time first": (lambda h: h[0].mT, (1, 1, 9), 4),
    "a list": (lambda h: [h * 2, h], (2, 1, 9), 4),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("what", OUTPUTS)
def test_maps_without_batch_or_channels(what, dtype):
    function, shape, channels = OUTPUTS[what]
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(conv=nn.Conv1d(1, 4, 3), body=Returns(function))).to(dtype)
    sonifier, x = Sonifier(model, verify=False), random(*shape, seed=1)
    (row,) = (row for row in sonifier.layers(x).rows if row.name == "body")
    assert row.channels == channels
    each = sonifier.sonify(x, layer="body", channel="all", method="gradient", seed="ones").raw
    assert each.shape == (channels, *shape)
    whole = sonifier.sonify(x, layer="body", channel=None, method="gradient", seed="ones").raw
    tolerance = 1e-2 if dtype is torch.float16 else 1e-9
    torch.testing.assert_close(each.sum(0), whole, rtol=tolerance, atol=tolerance)
    assert sonifier.maps(x, layer="body").shape[1] == channels
    assert sonifier.sonify(x, layer="body", channel="most_active").raw.shape == shape


# --- refused by name -----------------------------------------------------------------------------


def differentiates(h: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = h.detach().requires_grad_()
        return h + torch.autograd.grad((leaf**3).sum(), leaf)[0]


def sparse() -> Net:
    model = Net(lambda h, inner: torch.stack([torch.sparse.mm(inner.weight, one) for one in h]))
    model.inner = nn.Module()
    model.inner.weight = nn.Parameter(torch.eye(4).to_sparse())
    return model


def quantised() -> nn.Module:
    net = Net(lambda h, linear: linear(h.mT).mT, nn.Linear(4, 4))
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})


def on_meta() -> Net:
    model = Net(lambda h: h)
    model.last.to("meta")
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], type[Exception], str]] = {
    "derivative_in_forward": (lambda: Net(differentiates), ModelError, "torch.func.grad"),
    "sparse": (sparse, ModelError, r"weight.to_dense\(\)"),
    "quantised": (quantised, PathError, "before quantisation"),
    "lazy": (lambda: Net(lambda h, c: c(h), nn.LazyConv1d(4, 3)), ModelError, "Run the model once"),
    "meta": (on_meta, ModelError, "Load the weights first"),
    "no_derivative": (lambda: Net(tripled), PathError, "register_autograd"),
    "bits": (
        lambda: Net(
            lambda h: torch.view_as_real(
                torch.stack([h, h], -1).contiguous().view(torch.complex64).squeeze(-1)
            )[..., 0]
        ),
        PathError,
        "torch.view_as_complex",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    build, error, match = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(error, match=match):
        Sonifier(build()).sonify(random(2, 1, 41, dtype=torch.float32), layer="last", channel=1)


def test_channels_without_a_batch_are_taken():
    model = nn.Sequential(OrderedDict(conv=nn.Conv1d(3, 4, 5))).double()
    x = random(3, 41)
    raw = Sonifier(model).sonify(x[None], layer="conv", channel=1).raw
    alone = Sonifier(model, forward=lambda model, x: model(x[0]))
    for sonifier in (Sonifier(model), alone):
        assert torch.equal(sonifier.sonify(x, layer="conv", channel=1).raw.reshape(raw.shape), raw)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")
def test_a_child_forked_during_a_visit_does_not_wait():
    inside, over = threading.Event(), threading.Event()

    def visit() -> None:
        with FORWARD_LOCK:
            inside.set()
            over.wait(20)

    visitor = threading.Thread(target=visit)
    visitor.start()
    inside.wait(20)
    if (child := os.fork()) == 0:
        os._exit(0 if FORWARD_LOCK.acquire(timeout=5) else 1)
    _, status = os.waitpid(child, 0)
    over.set()
    visitor.join()
    assert os.waitstatus_to_exitcode(status) == 0
