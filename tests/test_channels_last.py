"""What training computes on a CPU is what the model computes: outputs, gradients, statistics."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from reference_models.channels_last import quick
from reference_models.cnn12 import CNN12, classifier, probe, projection_head

MODELS = {
    "classifier": lambda encoder: classifier(encoder, classes=3),
    "some blocks": lambda encoder: probe(encoder, layers=4, classes=3),
    "projection": lambda encoder: nn.Sequential(
        OrderedDict(encoder=encoder, projection=projection_head(normalised=True))
    ),
}


def made(name: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name](CNN12(width=1 / 64, **settings)).double().train()


def waves(samples: int) -> Tensor:
    return torch.randn(3, 1, samples, dtype=torch.double)


def step(model: nn.Module, run: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, and what a step leaves in the model, when `run` computes it; with equal dropout."""
    model.zero_grad()
    torch.manual_seed(1)
    outputs = run(x)
    (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    return [outputs.detach(), *gradients, *(buffer.clone() for buffer in model.buffers())]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("samples", [2370, 2613, 4001])  # even and odd numbers of moments
def test_a_step_is_the_models(name, pooling, samples):
    model, x = made(name, pooling=pooling), waves(samples)
    twin = quick(model)
    assert [id(p) for p in twin.parameters()] == [id(p) for p in model.parameters()]
    by_twin = step(model, twin, x)
    model.load_state_dict(made(name, pooling=pooling).state_dict())  # statistics as at first
    torch.testing.assert_close(by_twin, step(model, model, x))


def test_of_equal_neighbours_the_first_has_the_gradient():
    conv = nn.Conv1d(2, 1, 1, bias=False, dtype=torch.double)
    blocks = nn.Sequential(conv, nn.ReLU(), nn.MaxPool1d(2))
    nn.init.constant_(conv.weight, 1.0)
    x = torch.tensor([[[3.0, 2.0, -1.0, -2.0, 4.0], [1.0, 2.0, 0.0, 1.0, 0.0]]]).double()
    model = nn.Module()
    model.features = blocks
    gradients = []
    for run in (model.features, quick(model).features):
        wave = x.clone().requires_grad_()
        run(wave).sum().backward()
        gradients.append(wave.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0][0, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_what_is_trained_is_the_model():
    model = made("classifier")
    twin, x = quick(model), waves(3000)
    before = model.head.weight.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    twin(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)
    torch.testing.assert_close(twin.eval()(x), model.eval()(x))


@pytest.mark.parametrize("other", [nn.MaxPool1d(3), nn.Sigmoid()])
def test_other_blocks_than_cnn12_s_are_refused(other):
    model = nn.Module()
    model.features = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), other)
    with pytest.raises(TypeError, match="channels last"):
        quick(model).features(torch.randn(1, 1, 20))


def test_elsewhere_the_model_is_its_own_twin():
    with torch.device("meta"):
        model = classifier(CNN12(width=1 / 64), classes=3)
    assert quick(model) is model
