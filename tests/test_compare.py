"""Ours in the form of Captum's, and both side by side: same numbers, and the truth on each row."""

import json
import subprocess
import sys
import warnings
from copy import deepcopy
from itertools import pairwise

import matplotlib.cm
import numpy as np
import pytest
import torch
from captum.attr import (
    NeuronDeconvolution,
    NeuronGradient,
    NeuronGuidedBackprop,
    NoiseTunnel,
    visualization,
)
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from torch import nn
from torch.nn import functional as F
from untouched import untouched

from deconv1d import ChannelError, InputError, LayerError, SilenceWarning, Sonifier, measure
from deconv1d.compare import (
    METHODS,
    ChannelModel,
    NeuronSonification,
    compare,
    infidelity,
    max_sensitivity,
    quantus_explain,
)
from deconv1d.compare.captum_methods import CAPTUM, CaptumTarget
from deconv1d.compare.comparison import Compared, Comparison
from deconv1d.evaluation.faithfulness import faithfulness
from deconv1d.table import Table

RATE = 8000


def convolution(inputs: int, channels: int, taps: int) -> nn.Conv1d:
    made = nn.Conv1d(inputs, channels, taps)
    nn.init.kaiming_normal_(made.weight)
    return made.double()


def modules(*, inplace: bool = False) -> nn.Sequential:
    """All that Captum needs: nn.ReLU and nn.MaxPool1d; blocks 0-2 and 3-5."""
    torch.manual_seed(0)
    first = [convolution(1, 4, 9), nn.ReLU(inplace), nn.MaxPool1d(2)]
    second = [convolution(4, 6, 5), nn.ReLU(inplace), nn.MaxPool1d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(6 * 146, 3)).double()


class Functional(nn.Module):
    """The same with functional code: the first block, and the second's pooling where told."""

    def __init__(self, *, ends_in_module: bool) -> None:
        super().__init__()
        self.inside, self.ends_in_module = modules(), ends_in_module

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.inside[0](x)), 2)
        x = self.inside[4](self.inside[3](x))
        return (self.inside[5](x) if self.ends_in_module else F.max_pool1d(x, 2)).mean(-1)


@pytest.fixture
def x() -> torch.Tensor:
    noise = torch.randn(2, 1, 600, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise / noise.abs().amax(-1, keepdim=True)


@pytest.fixture
def model() -> nn.Sequential:
    return modules()


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# --- ours in Captum's form -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("selector", [2, (2,), np.int64(2)], ids=str)
def test_a_channel_is_the_raw_sonification(model, x, selector, method):
    found = Sonifier(model).sonify(x, layer="3", channel=2, method=method)
    for layer in (model[3], "3"):
        ours = NeuronSonification(model, layer, method=method).attribute(x, selector)
        assert torch.equal(ours, found.raw)
    of_sonifier = NeuronSonification(Sonifier(model), model[3], method=method)
    assert torch.equal(of_sonifier.attribute(x, selector), found.raw)
    (alone,) = of_sonifier.attribute((x,), selector)
    assert torch.equal(alone, found.raw)


def map_of(model, x):
    return model[:6](x)


TARGETS = {
    "the map": (2, lambda a: (a[:, 2] * a[:, 2].detach()).sum(-1)),
    "a moment": ((2, 7), lambda a: a[:, 2, 7] * a[:, 2, 7].detach()),
    "moments": (
        (2, slice(3, 40, 5)),
        lambda a: (a[:, 2, 3:40:5] * a[:, 2, 3:40:5].detach()).sum(-1),
    ),
    "channels": (
        (slice(1, 3), slice(None)),
        lambda a: (a[:, 1:3] * a[:, 1:3].detach()).sum((1, 2)),
    ),
    "a function": (lambda a: a[:, 4].exp().mean(-1), lambda a: a[:, 4].exp().mean(-1)),
    "one number": (lambda a: a[:, 1].sum(), lambda a: a[:, 1].sum()),
}
THEIRS = {
    "deconvnet": NeuronDeconvolution,
    "guided": NeuronGuidedBackprop,
    "gradient": NeuronGradient,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", THEIRS)
def test_equals_captum_on_modules(model, x, target, method):
    ours, captums = TARGETS[target]
    sonified = NeuronSonification(model, model[3], method=method).attribute(x, ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = THEIRS[method](model, model[5]).attribute(x, neuron_selector=captums)
    assert sonified.abs().max() > 0
    close(sonified, theirs)


def test_channels_come_first_in_a_selector_wherever_the_model_has_them(x):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(10, 5).double()

        def forward(self, x):
            return F.relu(self.linear(x[:, 0].unfold(-1, 10, 10)))

    model = Last()
    ours = NeuronSonification(model, "linear", method="gradient").attribute(x, (3, 7))
    theirs = NeuronGradient(model, model.linear).attribute(
        x, neuron_selector=lambda a: F.relu(a[:, 7, 3]) * F.relu(a[:, 7, 3]).detach()
    )
    assert ours[..., 70:80].abs().max() > 0
    close(ours, theirs)


def test_the_tap_is_the_sonifiers(model, x):
    ours = NeuronSonification(model, "3", tap="output").attribute(x, 1)
    assert torch.equal(ours, Sonifier(model).sonify(x, layer="3", channel=1, tap="output").raw)


def test_what_else_the_model_takes(model, x):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = model

        def forward(self, x, scale, shift=0):
            return self.inside(x * scale + shift)

    scale, scaled = torch.tensor([2.0, 0.5]).double()[:, None, None], Scaled()
    for more, given in ((scale, x * scale), ((scale, 0.1), x * scale + 0.1)):
        ours = NeuronSonification(scaled, model[3]).attribute(x, 2, more)
        close(ours, NeuronSonification(model, model[3]).attribute(given, 2) * scale)


def test_model_and_process_are_untouched(x):
    model = modules(inplace=True)
    model.train()
    model[0].eval()
    with untouched(model):
        method = NeuronSonification(model, model[3])
        for selector in (2, (2, 7), lambda a: a[:, 2].sum(-1)):
            method.attribute(x, selector)
        infidelity(Sonifier(model), x, "3", 2)
        max_sensitivity(Sonifier(model), x, "3", 2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_function_is_differentiated_in_any_mode(model, x, mode):
    method = NeuronSonification(model, model[3])
    wanted = method.attribute(x, lambda a: a[:, 2].square().sum(-1))
    with mode():
        close(method.attribute(x, lambda a: a[:, 2].square().sum(-1)), wanted)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"neuron_selector": "all"}, InputError, "Unknown neuron_selector 'all': expected"),
        ({"neuron_selector": ()}, InputError, "Unknown neuron_selector"),
        ({"neuron_selector": [1, 2]}, InputError, "Unknown neuron_selector"),
        ({"neuron_selector": 6}, ChannelError, "Channel 6 is out of range"),
        ({"neuron_selector": (6, 0)}, InputError, "does not fit the map: expected .* 146"),
        ({"neuron_selector": (0, 1, 2)}, InputError, "does not fit the map"),
        ({"neuron_selector": lambda a: a[:, 1]}, InputError, "a scalar for each of 2 examples"),
        ({"neuron_selector": lambda a: 3}, InputError, "got int"),
        ({"neuron_selector": lambda a: a.sum().detach()}, InputError, "depends on the map"),
        ({"inputs": (1, 2)}, InputError, "Several inputs"),
        ({"attribute_to_neuron_input": True}, InputError, "the module before it"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_be_attributed_is_said(model, x, arguments, error, message):
    with pytest.raises(error, match=message):
        NeuronSonification(model, "3").attribute(**{"inputs": x, "neuron_selector": 1, **arguments})


def test_a_sonifier_calls_its_model_itself(model, x):
    with pytest.raises(InputError, match="forward="):
        NeuronSonification(Sonifier(model), "3").attribute(x, 1, 3)


def test_a_layer_of_another_model(model):
    for layer in (nn.ReLU(), model):
        with pytest.raises(LayerError, match="is not in the model"):
            NeuronSonification(model, layer)


# --- what Captum does with it --------------------------------------------------------------------


def test_noise_tunnel_takes_it(model, x):
    method = NeuronSonification(model, model[3])
    torch.manual_seed(3)
    smooth = NoiseTunnel(method).attribute(x, nt_samples=4, stdevs=0.1, neuron_selector=2)
    torch.manual_seed(3)
    noisy = x.repeat_interleave(4, 0)
    noisy = noisy + torch.normal(0, torch.full_like(noisy, 0.1, dtype=torch.float32))
    one_by_one = [method.attribute(clip[None], 2) for clip in noisy]
    close(smooth, torch.cat(one_by_one).reshape(2, 4, 1, 600).mean(1))


def test_visualize_timeseries_takes_it(model, x, monkeypatch):
    if not hasattr(matplotlib.cm, "get_cmap"):  # gone since 3.9, and Captum 0.9 calls it
        monkeypatch.setattr(matplotlib.cm, "get_cmap", matplotlib.colormaps.get_cmap, raising=False)
    raw = NeuronSonification(model, model[3]).attribute(x, 2)
    figure, _ = visualization.visualize_timeseries_attr(
        raw[0].T.numpy(), x[0].T.numpy(), use_pyplot=False
    )
    assert figure.axes


def test_infidelity_is_captums_on_the_facade_and_by_hand(model, x):
    sonifier, draws = Sonifier(model), torch.Generator().manual_seed(5)
    ours = infidelity(sonifier, x, "3", 2, noise=0.1, samples=6, random_state=5)
    whole = map_of(model, x)[:, 2].detach()

    def response(z, whole):
        return (map_of(model, z)[:, 2] * whole).sum(1) / whole.square().sum(1)

    change = 0.1 * torch.randn(12, 1, 600, generator=draws).double()  # peaks are 1
    perturbed = x.repeat_interleave(6, 0) - change
    raw = NeuronSonification(model, model[3]).attribute(x, 2)
    theirs = captum_infidelity(
        response,
        lambda z: (change, z - change),
        x,
        raw,
        additional_forward_args=whole,
        n_perturb_samples=6,
        normalize=True,
    )
    assert torch.equal(ours, theirs.detach())
    for example in range(2):
        mine = slice(6 * example, 6 * example + 6)
        with torch.no_grad():
            drop = 1 - response(perturbed[mine], whole[example : example + 1])
        said = (raw[example] * change[mine]).flatten(1).sum(1)
        level = (said * drop).mean() / said.square().mean()
        assert ours[example] == pytest.approx(float((level * said - drop).square().mean()))


def test_a_gradient_predicts_small_noise_and_a_deconvnet_less(model, x):
    sonifier = Sonifier(model)
    scores = [
        infidelity(sonifier, x, "3", 2, method=method, noise=1e-5)
        for method in ("gradient", "deconvnet")
    ]
    assert (scores[0] < 1e-4 * scores[1]).all()


def test_sensitivity_is_captums_on_the_facade_and_by_hand(model, x):
    draws = torch.Generator().manual_seed(5)
    ours = max_sensitivity(Sonifier(model), 3 * x, "3", 2, radius=0.1, samples=4, random_state=5)
    method = NeuronSonification(model, model[3])
    change = 0.3 * (2 * torch.rand(8, 1, 600, generator=draws) - 1).double()
    theirs = sensitivity_max(
        method.attribute, 3 * x, lambda z: z + change, n_perturb_samples=4, neuron_selector=2
    )
    close(ours, theirs)
    raw = method.attribute(3 * x, 2)
    moved = method.attribute(3 * x.repeat_interleave(4, 0) + change, 2)
    far = (moved - raw.repeat_interleave(4, 0)).flatten(1).norm(dim=1).reshape(2, 4)
    close(ours, far.amax(1) / raw.flatten(1).norm(dim=1))


def test_metrics_need_a_batch(model):
    for metric in (infidelity, max_sensitivity):
        with pytest.raises(InputError, match="need a batch"):
            metric(Sonifier(model), torch.randn(600), "3", 2)


# --- side by side --------------------------------------------------------------------------------


@pytest.fixture
def clip(x) -> torch.Tensor:
    return x[0, 0]


@pytest.fixture
def compared(model, clip):
    return compare(Sonifier(model, sample_rate=RATE), clip, "3", 2)


def test_every_method_has_a_row_and_a_sound_of_the_inputs_peak(compared, clip):
    assert [row.method for row in compared.methods] == list(METHODS)
    assert list(compared.sounds) == ["input", *METHODS]
    assert [row.note for row in compared.methods] == [""] * len(METHODS)
    for sound in compared.sounds.values():
        assert sound.shape == clip.shape
        assert float(sound.abs().max()) == pytest.approx(float(clip.abs().max()))


def test_the_same_method_has_the_same_numbers(compared):
    pairs = {
        "deconvnet": "NeuronDeconvolution",
        "guided": "NeuronGuidedBackprop",
        "gradient": "NeuronGradient",
    }
    for ours, theirs in pairs.items():
        close(compared.sounds[ours], compared.sounds[theirs])
        one, other = compared[ours], compared[theirs]
        for name in ("answer", "selectivity", "coherence", "minus_control", "sparsity"):
            assert getattr(one, name) == pytest.approx(getattr(other, name))
    different = [compared.sounds[name] for name in (*pairs, *CAPTUM[1:2], *CAPTUM[4:])]
    for one, other in pairwise(different):
        assert (one - other).abs().max() > 0.01


def test_the_numbers_of_a_row(compared, model, clip):
    sonifier, row = Sonifier(model, sample_rate=RATE), compared["guided"]
    found = sonifier.sonify(clip, layer="3", channel=2, method="guided")
    measured = faithfulness(sonifier, found)
    assert row.answer == pytest.approx(float(measured.mask_in / measured.activation))
    assert row.selectivity == pytest.approx(float(measured.selectivity))
    assert row.coherence == pytest.approx(float(found.coherence()))
    assert row.sparsity == pytest.approx(float(measure.gini(found.waveform)))
    assert row.seconds > 0


def test_coherence_is_shown_minus_that_of_random_seeds(model, clip, monkeypatch):
    from deconv1d.compare import side_by_side

    seeds = []

    def drawn(activation, draws):
        seeds.append(torch.rand(activation.shape, generator=draws).to(activation))
        return seeds[-1]

    monkeypatch.setattr(side_by_side, "random_seed", drawn)
    sonifier = Sonifier(model, sample_rate=RATE)
    row = compare(sonifier, clip, "3", 2, methods=["deconvnet"], draws=3)["deconvnet"]
    assert len(seeds) == 3
    controls = [
        float(sonifier.sonify(clip, layer="3", channel=2, seed=lambda _, s=s: s).coherence())
        for s in seeds
    ]
    assert row.minus_control == pytest.approx(row.coherence - np.mean(controls))


def test_path_and_occlusion_on_the_same_target(compared, model, clip):
    x = clip[None, None]
    whole = map_of(model, x)[:, 2].detach()
    total = 0
    nodes, weights = np.polynomial.legendre.leggauss(50)
    for place, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        z = (place * x).requires_grad_()
        (map_of(model, z)[:, 2] * whole).sum().backward()
        total = total + weight * z.grad
    path = (total / total.abs().max())[0, 0]  # Captum's nodes are less exact
    torch.testing.assert_close(
        compared.sounds["NeuronIntegratedGradients"], path, rtol=0, atol=1e-8
    )
    gate = torch.zeros_like(clip)
    for segment in range(50):
        inside = torch.arange(600) * 50 // 600 == segment
        without = torch.where(inside, 0, x)
        with torch.no_grad():
            lost = ((map_of(model, x) - map_of(model, without))[:, 2] * whole).sum()
        gate[inside] = lost.clamp(min=0)
    sound = clip * gate
    close(compared.sounds["NeuronFeatureAblation"], sound / sound.abs().max())


def test_segments_that_work_against_the_target_are_silent(model, clip):
    sonifier = Sonifier(model)
    found = sonifier.sonify(clip, layer="3", channel=2)
    target = CaptumTarget(sonifier, found, 2)
    for_it = target.attribute("NeuronFeatureAblation", found.activation)
    against = target.attribute("NeuronFeatureAblation", -found.activation)
    assert for_it.any()
    assert not (for_it * against).any()


def test_deep_lift_explains_the_difference_from_silence(compared, model, clip):
    """Rescale multipliers times the input add up to the target's difference (here to its level)."""
    sound = compared.sounds["NeuronDeepLift"]
    x = clip[None, None]
    whole = map_of(model, x)[:, 2].detach()
    sonifier = Sonifier(model)
    found = sonifier.sonify(clip, layer="3", channel=2)
    raw = CaptumTarget(sonifier, found, 2).attribute("NeuronDeepLift", found.activation)
    close(sound, raw / raw.abs().max())
    with torch.no_grad():
        difference = ((map_of(model, x) - map_of(model, 0 * x))[:, 2] * whole).sum()
    assert float((raw * clip).sum()) == pytest.approx(float(difference), rel=1e-6)


def test_functional_relus_degrade_and_say_so(clip):
    sonifier = Sonifier(Functional(ends_in_module=True), sample_rate=RATE)
    found = compare(sonifier, clip, "inside.3", 2)
    degraded = "plain gradient at 1 of 2 ops: no nn.ReLU module found there"
    assert found["NeuronDeconvolution"].note == degraded
    assert found["NeuronGuidedBackprop"].note == degraded
    lift = "plain gradient at 2 of 4 ops: no supported module found there"
    assert found["NeuronDeepLift"].note == lift
    for name in ("deconvnet", "NeuronGradient", "NeuronFeatureAblation"):
        assert found[name].note == ""
    far = found.sounds["deconvnet"] - found.sounds["NeuronDeconvolution"]
    assert far.abs().max() > 0.01
    close(found.sounds["gradient"], found.sounds["NeuronGradient"])


def test_all_functional_is_the_plain_gradient(clip):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = convolution(1, 4, 9), convolution(4, 6, 5)
            self.pool = nn.MaxPool1d(2)

        def forward(self, x):
            return self.pool(F.relu(self.two(F.relu(self.one(x)))))

    found = compare(Sonifier(Net().double(), sample_rate=RATE), clip, "two", 2)
    row = found["NeuronDeconvolution"]
    assert row.note == "plain gradient: no nn.ReLU module found there"
    close(found.sounds["NeuronDeconvolution"], found.sounds["gradient"])


def test_a_map_that_no_module_returns(clip):
    sonifier = Sonifier(Functional(ends_in_module=False), sample_rate=RATE)
    found = compare(sonifier, clip, "inside.3", 2)
    seen = "sees the layer's own output: no module returns the end of its block"
    assert found["NeuronGradient"].note == seen
    assert found["deconvnet"].note == ""
    own = sonifier.sonify(clip, layer="inside.3", channel=2, tap="output", method="gradient")
    close(found.sounds["NeuronGradient"], own.waveform)


def test_methods_that_fail_say_so(model, clip):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = convolution(1, 4, 9), convolution(4, 6, 5)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.two(self.relu(self.one(x))))

    found = compare(Sonifier(Twice().double(), sample_rate=RATE), clip, "two", 2)
    failed = found["NeuronDeepLift"]
    assert failed.note.startswith("failed: RuntimeError: A Module ReLU() was detected")
    assert failed.answer is None
    assert "NeuronDeepLift" not in found.sounds
    assert " - " in str(found)
    assert "all" not in str(found).split("NeuronDeepLift")[1].split("failed")[0]
    close(found.sounds["NeuronDeconvolution"], found.sounds["deconvnet"])


def test_a_script_fails_in_captums_rows_alone(model, clip):
    script = torch.jit.script(model)
    found = compare(Sonifier(script, sample_rate=RATE), clip, "convolution#2", 2)
    assert found["deconvnet"].note == ""
    for name in CAPTUM:
        assert found[name].note.startswith("failed: LayerError: Captum cannot see the map")


def test_models_in_place_of_any_output_and_called_by_forward(model, clip):
    class Dictionary(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = modules(inplace=True)

        def forward(self, x, scale):
            return {"logits": self.inside(scale * x)}

    other = Dictionary()
    sonifier = Sonifier(other, sample_rate=RATE, forward=lambda m, x: m(x, 1.0))
    found = compare(sonifier, clip, "inside.3", 2)
    wanted = compare(Sonifier(model, sample_rate=RATE), clip, "3", 2)
    assert [row.note for row in found.methods] == [""] * len(METHODS)
    for name, sound in wanted.sounds.items():
        close(found.sounds[name], sound)


class Counting(nn.Module):
    """Writes into a buffer whenever it runs, and fails where it is told to."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.register_buffer("runs", torch.zeros(()))
        self.last = None

    def forward(self, x):
        self.runs += 1
        self.last = x
        return self.inside(x)


def test_the_model_is_untouched_whatever_happens(clip):
    broken = modules(inplace=True)
    broken[4] = broken[1]  # DeepLIFT fails in the middle
    for inside in (modules(inplace=True), broken):
        model = Counting(inside)
        model.train()
        inside[0].eval()
        with untouched(model):
            found = compare(Sonifier(model, sample_rate=RATE), clip, "inside.3", 2)
        assert found["NeuronDeepLift"].note.startswith("failed") == (inside is broken)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_in_any_mode_and_dtype(model, clip, mode):
    wanted = compare(Sonifier(model, sample_rate=RATE), clip, "3", 2)
    with mode():
        found = compare(Sonifier(model, sample_rate=RATE), clip.float(), "3", 2)
    for name, sound in wanted.sounds.items():
        torch.testing.assert_close(found.sounds[name].double(), sound, rtol=0, atol=1e-4)


def test_a_chosen_few_in_their_order(model, clip):
    chosen = ["NeuronGradient", "deconvnet"]
    found = compare(Sonifier(model, sample_rate=RATE), clip, "3", methods=chosen)
    assert [row.method for row in found.methods] == chosen
    best = Sonifier(model).sonify(clip, layer="3", channel="most_active").channel
    assert found.channel == int(best)


def test_a_summary_says_in_words_what_the_numbers_come_to():
    def row(method, answer=None, minus_control=None):
        return Compared(method, answer=answer, minus_control=minus_control)

    def summary(*rows):
        return Comparison("3", 2, Table(rows), {}, RATE).summary

    assert summary(row("deconvnet", 0.5, 0.1), row("guided", 0.75, -0.1), row("Neuron")) == (
        "Of 3 methods 2 gave a sound. The channel responds most to that of guided: 0.75 of its "
        "response to the recording. The sound of guided is no more like the recording than the "
        "same method's random control: that likeness says nothing of the channel."
    )
    assert "random control" not in summary(row("deconvnet", 0.5, 0.1))
    assert summary(row("Neuron")) == "Of 1 methods 0 gave a sound."


def test_it_prints_plots_and_goes_into_json_and_html(compared):
    text = str(compared)
    assert all(method in text for method in METHODS)
    facts = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert [row["method"] for row in facts["methods"]] == list(METHODS)
    assert facts["methods"][0]["coherence"] == compared["deconvnet"].coherence
    html = compared._repr_html_()
    assert html.index(compared.summary.split(".")[0]) < html.index("<table>")
    assert html.count("<audio") == len(METHODS) + 1
    assert "<script" not in html
    titles = [axes.get_title(loc="left") for axes in compared.plot().axes]
    assert titles[: len(METHODS) + 1] == ["input", *METHODS]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"methods": ["deconvnet", "Saliency"]}, r"Unknown methods \['Saliency'\]: expected some"),
        ({"methods": []}, "Unknown methods"),
        ({"draws": 0}, "at least 1 draw"),
        ({"channel": [0, 1]}, "one channel and one clip"),
        ({"x": torch.randn(2, 1, 600).double()}, "one channel and one clip"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_be_compared_is_said(model, clip, more, message):
    given = {"x": clip, "layer": "3", "channel": 2, **more}
    with pytest.raises(InputError, match=message):
        compare(Sonifier(model, sample_rate=RATE), **given)


def test_no_rate_and_silence_are_errors(model, clip):
    with pytest.raises(InputError, match="sample rate"):
        compare(Sonifier(model), clip, "3", 2)
    quiet = Sonifier(nn.Sequential(nn.Conv1d(1, 2, 3, bias=False)).double(), sample_rate=RATE)
    with pytest.warns(SilenceWarning), pytest.raises(InputError, match="Silence has no comparis"):
        compare(quiet, torch.zeros_like(clip), "0", 0)


# --- in Quantus' form ----------------------------------------------------------------------------


def test_quantus_gets_the_raw_sonification_of_each_examples_channel(model, x):
    inputs, targets = torch.cat([x, x[:1]]).numpy(), np.array([2, 4, 5])
    sonifier = Sonifier(model)
    raw = quantus_explain(sonifier, "3")(model=model, inputs=inputs, targets=targets, device="cpu")
    assert isinstance(raw, np.ndarray)
    for clip, channel, ours in zip(inputs, targets, raw, strict=True):
        close(
            torch.from_numpy(ours), sonifier.sonify(clip[None], layer="3", channel=channel).raw[0]
        )


def test_a_copy_of_a_channel_model_is_explained_as_itself(model, x):
    original = ChannelModel(Sonifier(model), "3")
    close(original(x), map_of(model, x).mean(-1).detach())
    redrawn = deepcopy(original)
    redrawn.model[0].reset_parameters()
    explain = quantus_explain(Sonifier(model), "3")
    wanted = Sonifier(redrawn.model).sonify(x, layer="3", channel=2).raw
    close(torch.from_numpy(explain(redrawn, x, [2, 2])), wanted)
    assert not torch.allclose(torch.from_numpy(explain(original, x, [2, 2])), wanted)
    close(redrawn(x), map_of(redrawn.model, x).mean(-1).detach())


def test_quantus_runs_with_channels_as_targets(model, x):
    quantus = pytest.importorskip("quantus")
    sonifier = Sonifier(model.float())
    given = {
        "model": ChannelModel(sonifier, "3").eval(),
        "x_batch": x.float().numpy(),
        "y_batch": np.array([2, 4]),
        "a_batch": None,
        "explain_func": quantus_explain(sonifier, "3"),
    }
    sparse = quantus.Sparseness(disable_warnings=True, normalise=False)(**given)
    raw = np.abs(given["explain_func"](sonifier.model, x.float(), [2, 4]))
    wanted = measure.gini(torch.from_numpy(raw[:, 0]))
    assert sparse == pytest.approx(wanted.tolist(), abs=5e-3)  # theirs counts places differently
    redrawn = quantus.MPRT(disable_warnings=True, return_average_correlation=True)(**given)
    assert all(abs(score) < 1 for score in redrawn)


# --- without Captum ------------------------------------------------------------------------------


def test_without_captum_the_error_names_feature_extra_and_command():
    code = "import sys; sys.modules['captum'] = None; import deconv1d.compare"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("deconv1d.errors.DependencyError: Comparing with Captum")
    assert "pip install 'deconv1d[compare]'" in last
