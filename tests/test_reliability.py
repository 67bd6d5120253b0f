"""Attacks on the recording: each is right, and verification sees what is not."""

from __future__ import annotations

import random
import threading
import warnings
from concurrent.futures import Future
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.attacks import ATTACKS, files
from benchmarks.attacks.attack import Attack, Body, noise
from benchmarks.attacks.elsewhere import DECISIONS, OnceOrTwice, _Switch
from benchmarks.attacks.flaws import FLAWS
from benchmarks.attacks.plants import PLANTS
from benchmarks.attacks.programs import OPS, SHAPE, Program, Step
from benchmarks.reliability import autograd, is_as_promised, judge
from deconv1d import RULES, LayerError, ModelError, PathError, Rule, SilenceWarning, Sonifier
from deconv1d.errors import InputError
from deconv1d.record.capture import capture
from deconv1d.record.structure import structure_of
from deconv1d.record.values import Values

pytestmark = [
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*non-contiguous:UserWarning"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.kind}: {attack.name}")
def test_every_attack_comes_out_right(attack):
    outcome = judge(attack)
    assert is_as_promised(attack, outcome), outcome


# --- call counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_layer_that_runs_once_and_then_twice_is_noticed(decision, monkeypatch):
    """Also where nothing that torch sees shows what the model decides by."""
    quiet, loud = noise(1, 1, 20), 10 * noise(1, 1, 20).abs()
    sonifier = Sonifier(OnceOrTwice(DECISIONS[decision]).eval(), verify=False)
    with patch.object(random, "random", lambda: 0.1):
        sonifier.sonify(quiet, layer="conv", channel=0)
    monkeypatch.setattr(_Switch, "on", True)
    monkeypatch.setenv("LOUD", "1")
    with (
        patch.object(random, "random", lambda: 0.9),
        pytest.raises(LayerError, match="'conv#1', 'conv#2'"),
    ):
        sonifier.sonify(loud, layer="conv", channel=0)


# --- silence --------------------------------------------------------------------------------------


def test_a_deconvnet_that_is_zero_where_the_gradient_is_not_is_an_error():
    """Here by a rule that holds what it should carry."""

    def carry(op, signal, emit):
        yield op.dependent[0], emit(torch.zeros_like, signal)

    rules = {**RULES, torch.ops.aten.sin: Rule("hold", carry)}
    model = nn.Sequential(Body(torch.sin)).eval()
    with pytest.raises(PathError, match=r"exactly zero.*method='gradient'"):
        Sonifier(model, rules=rules).sonify(noise(1, 2, 9), layer="0", channel=0)


def test_a_map_that_is_rectified_away_is_not_called_dead():
    model = nn.Sequential(Body(lambda x: -x.relu())).eval()
    with pytest.warns(SilenceWarning, match="rectified away"):
        Sonifier(model).sonify(noise(1, 2, 9), layer="0", channel=0, seed="ones")


def test_only_a_map_of_zeros_is_dead():
    model = nn.Sequential(Body(lambda x: (x - 99).relu())).eval()
    with pytest.warns(SilenceWarning, match="the map is dead"):
        Sonifier(model).sonify(noise(1, 2, 9), layer="0", channel=0)


# --- verification ---------------------------------------------------------------------------------


def without_grad_modes(monkeypatch):
    """The recorder of before: every op runs with gradients."""
    monkeypatch.setattr(Values, "grad", lambda self: True)


def planted(name):
    return next(attack for attack in ATTACKS if attack.name == name)


def test_verification_names_the_first_op_whose_signal_differs(monkeypatch):
    without_grad_modes(monkeypatch)
    attack = planted("a branch without gradient")
    sonifier = Sonifier(attack.model())
    with pytest.raises(ModelError, match=r"the signal of a plain forward pass at 'body\.(mul|sin)"):
        sonifier.sonify(attack.x, layer="body", channel=0)
    Sonifier(attack.model(), verify=False).sonify(attack.x, layer="body", channel=0)


def test_verification_names_the_first_op_whose_value_differs():
    def behind_torchs_back(h):
        y = h * 2
        z = y.cos()
        z.numpy()[...] *= 3
        return (z + 1).exp()

    sonifier = Sonifier(nn.Sequential(Body(behind_torchs_back)).eval())
    with pytest.raises(ModelError, match=r"the value of a plain forward pass at '0\.add#1'"):
        sonifier.maps(noise(1, 2, 9), layer="0", tap="output")


def network():
    torch.manual_seed(0)
    layers = [nn.Conv1d(1, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 3, 3)]
    return nn.Sequential(*layers).double().eval()


def test_each_structure_is_verified_once(monkeypatch):
    sonifier, checks = Sonifier(network()), []
    verification = sonifier._forward_pass.verification
    check = verification._check
    monkeypatch.setattr(verification, "_check", lambda *args: checks.append(1) or check(*args))
    for samples in (900, 900, 777):
        found = sonifier.sonify(noise(samples), layer="3", channel=0)
        assert found.verified.value < 1e-12
        assert found.verified.signal < 1e-12
    assert len(checks) == 1
    sonifier.sonify(noise(900), layer="0", channel=0)
    assert len(checks) == 2
    sonifier.verify = "always"
    verification.verify = "always"
    sonifier.sonify(noise(900), layer="0", channel=0)
    assert len(checks) == 3


def test_verification_takes_a_few_receptive_fields(monkeypatch):
    sonifier = Sonifier(network())
    lengths = []
    sonifier.model[0].register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[-1]))
    sonifier.sonify(noise(5000), layer="3", channel=0)
    assert lengths[0] == 5000
    assert len(lengths) == 3
    assert max(lengths[1:]) < 100


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_cannot_be_verified_says_why():
    def noisy(x):
        return x + torch.rand(9, generator=GENERATOR).double()

    x = noise(1, 2, 9)
    scripted = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Tanh())).eval()
    cases = {
        "no autograd path": (nn.Sequential(Body(torch.no_grad()(torch.sin))).eval(), "0"),
        "inside a script": (scripted, "tanh#1"),
    }
    for reason, (model, layer) in cases.items():
        found = Sonifier(model).sonify(x, layer=layer, channel=0, tap="output")
        assert found.verified.signal is None
        assert found.verified.note == reason
        assert reason in str(found.verified)
    generator = nn.Sequential(Body(noisy)).eval()
    assert Sonifier(generator).sonify(x, layer="0", channel=0).verified.note == "random draws"


GENERATOR = torch.Generator().manual_seed(0)
RNG = np.random.default_rng(0)


PLANTED = [
    ("random ops", "bernoulli"),
    ("random ops", "poisson"),
    ("random ops", "rrelu"),
    ("singular derivatives", "root of an absolute value"),
    ("singular derivatives", "of a product with its conjugate"),
    ("memory that forward writes", "the map"),
    ("memory geometry", None),
    ("detach, data, no_grad", "a branch without gradient"),
    ("operands that carry", None),
    ("complex values", None),
]


@pytest.mark.parametrize(("kind", "name"), PLANTED, ids=lambda text: text or "the first")
def test_verification_notices_a_fix_that_is_taken_out(kind, name):
    attacks = [a for a in ATTACKS if a.kind == kind and isinstance(a, Attack)]
    attack = next(a for a in attacks if name in (None, a.name))
    with PLANTS[kind]():
        assert not judge(attack, verify=False).startswith("right")
        assert "is not what the model computes" in judge(attack)


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: f"{flaw.what}: {flaw.attack}")
def test_an_attack_that_judges_itself_catches_a_fault(flaw, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 1)
    attack = next(a for a in ATTACKS if (a.kind, a.name) == (flaw.kind, flaw.attack))
    with flaw.plant():
        assert not is_as_promised(attack, judge(attack))


def test_each_kind_of_attack_is_shown_to_fail():
    assert {attack.kind for attack in ATTACKS} == {*PLANTS, *(flaw.kind for flaw in FLAWS)}


def test_unseeded_draws_do_not_excuse_another_fault():
    """A model whose own draws differ from pass to pass, and a recording that is wrong besides."""

    def noisy_behind_torchs_back(x):
        y = x + torch.rand(9, generator=GENERATOR).double()
        y.numpy()[...] *= 3
        return y.sin() * torch.rand_like(x)

    with pytest.raises(ModelError, match="is not what the model computes"):
        Sonifier(nn.Sequential(Body(noisy_behind_torchs_back)).eval()).maps(
            noise(1, 2, 9), layer="0", tap="output"
        )


def test_what_cannot_be_put_back_is_told_from_a_wrong_recording():
    """An unseeded generator out of the model's reach, of which no op of the graph shows a draw."""
    model = nn.Sequential(Body(lambda x: x.sin() * torch.from_numpy(RNG.random(9)))).eval()
    with pytest.raises(ModelError, match=r"Two plain passes of it differ too.*verify=False"):
        Sonifier(model).sonify(noise(1, 2, 9), layer="0", channel=0)


def test_a_plain_pass_that_cannot_go_on_does_not_leave_the_model_waiting():
    """A future swallows the exceptions of its callbacks, and the model waits for what one does."""
    runs, waited = [], []

    def waiting(x):
        runs.append(1)
        done = threading.Event()

        def callback(future):
            # Other calls of torch than in the pass before.
            (torch.sin if len(runs) % 2 else torch.cos)(future.result())
            done.set()

        future = Future()
        future.set_result(x)  # so that the callback runs in this thread
        future.add_done_callback(callback)
        waited.append(not done.wait(0.5))
        return future.result().tanh().exp()

    found = Sonifier(nn.Sequential(Body(waiting)).eval()).sonify(
        noise(1, 2, 9), layer="0.tanh#1", channel=0, tap="output"
    )
    assert "it calls cos where it called sin" in found.verified.note
    assert not any(waited)


def test_half_precision_is_verified_in_single():
    model = nn.Sequential(nn.Conv1d(1, 4, 5), nn.ReLU()).to(torch.bfloat16).eval()
    found = Sonifier(model).sonify(noise(200).bfloat16(), layer="0", channel=1)
    assert found.verified.signal < 1e-5
    assert model[0].weight.dtype == torch.bfloat16


def test_a_model_that_writes_is_left_as_it_was_by_the_plain_pass():
    attack = planted("the map")
    model = attack.model()
    Sonifier(model).sonify(attack.x, layer="body", channel=0)
    assert not model.body.b.any()
    assert model.body.b.grad_fn is None


def test_a_user_s_own_rule_is_none_of_its_business():
    def carry(op, signal, emit):
        yield op["self"], emit(torch.mul, signal, 7)

    rules = {**RULES, torch.ops.aten.relu: Rule("gradient", carry, block=True)}
    found = Sonifier(network(), rules=rules).sonify(noise(300), layer="3", channel=0)
    assert found.verified.signal < 1e-12


@pytest.mark.parametrize("verify", [True, "twice", None])
def test_an_unknown_verify_is_refused(verify):
    with pytest.raises(InputError, match="expected 'once'"):
        Sonifier(network(), verify=verify)


def test_structure_is_of_ops_not_of_sizes():
    model = network()
    key = structure_of(capture(model, noise(1, 1, 50)).graph)
    assert key == structure_of(capture(model, noise(3, 1, 77)).graph)
    others = [nn.Sequential(*model[:3]), nn.Sequential(model[0], model[2], model[1], model[3])]
    assert key not in [structure_of(capture(other, noise(1, 1, 50)).graph) for other in others]


# --- random programs ------------------------------------------------------------------------------

STEPS = st.lists(
    st.builds(Step, st.sampled_from(OPS), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=9,
)
X = noise(*SHAPE, seed=2)
FAST = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def check_program(steps):
    """The gradient method is autograd's, and the maps are the plain model's."""

    def model():
        return nn.Sequential(Program(steps)).eval()

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            plain = model()(X.clone())
        seed = noise(*plain.shape, seed=7)
        expected = autograd(model(), X, seed)
    except RuntimeError:
        assume(False)
    sonifier = Sonifier(model(), verify=False)
    found = sonifier.maps(X, layer="0", tap="output", channel_axis=1)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
    try:
        carried = sonifier.deconvnet(X, "0", tap="output", method="gradient")(seed)
    except PathError:
        carried = torch.zeros_like(X)
    torch.testing.assert_close(carried, expected, rtol=1e-9, atol=1e-9)


@FAST
@given(STEPS)
def test_random_programs_with_memory(steps):
    check_program(steps)


@pytest.mark.slow
@settings(FAST, max_examples=5000)
@given(STEPS)
def test_many_random_programs_with_memory(steps):
    check_program(steps)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_capture_is_verified_in_any_mode_of_the_caller(mode):
    model = nn.Sequential(nn.Conv1d(1, 3, 5), nn.ReLU(inplace=True), nn.Conv1d(3, 2, 3)).double()
    sonifier = Sonifier(model.eval())
    with mode():
        sonifier.sonify(noise(1, 1, 200), layer="2", channel=1)
    verified = sonifier.verified["2"]
    assert verified.value < 1e-10
    assert verified.signal < 1e-10
