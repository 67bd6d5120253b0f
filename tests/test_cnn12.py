"""CNN12 is figure A.1: its sizes, names and geometry, not its training."""

import pytest
import torch
from torch import Tensor, nn

from reference_models.cnn12 import CNN12, classifier, pad_to_shortest, projection_head

SMALL = 1 / 64

# Figure A.1: block -> (in channels, out channels, kernel size).
FIGURE = {
    1: (1, 64, 7),
    2: (64, 64, 7),
    3: (64, 128, 5),
    4: (128, 128, 5),
    5: (128, 256, 5),
    6: (256, 256, 3),
    7: (256, 512, 3),
    8: (512, 512, 3),
    9: (512, 1024, 3),
    10: (1024, 1024, 3),
    11: (1024, 2048, 3),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def meta(**settings) -> CNN12:
    """A network of shapes alone, so that the full widths cost nothing."""
    with torch.device("meta"):
        return CNN12(**settings)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def features_of(model: CNN12, samples: int) -> dict[str, Tensor]:
    """Every feature map that a waveform of this length makes, by layer name."""
    x, maps = torch.randn(1, 1, samples, device=model.fc1.fc10.weight.device), {}
    for name, layer in model.features.named_children():
        x = maps[name] = layer(x)
    return maps


@pytest.mark.parametrize("pooling", ["max", "stride"])
def test_parameter_counts_are_the_papers(pooling):
    encoder = meta(pooling=pooling)
    assert parameters(encoder) == 13_757_248
    with torch.device("meta"):
        assert parameters(classifier(encoder, classes=527)) == 14_027_599
        assert parameters(classifier(meta(width=2.0), classes=527)) == pytest.approx(
            53.2e6, rel=1e-3
        )


def test_has_6016_filters():
    convolutions = [m for m in meta().modules() if isinstance(m, nn.Conv1d)]
    assert sum(c.out_channels for c in convolutions) == 6016


def test_names_and_shapes_are_figure_a1s():
    shapes = {"fc1.fc10.weight": (512, 2048), "fc1.fc10.bias": (512,)}
    order = []
    for block, (inputs, outputs, kernel_size) in FIGURE.items():
        shapes[f"features.conv{block}.weight"] = (outputs, inputs, kernel_size)
        shapes[f"features.conv{block}.bias"] = (outputs,)
        order += [f"conv{block}", f"act{block}", f"mp{block}"][: 3 if block <= 8 else 2]
    model = meta()
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == shapes
    assert list(dict(model.features.named_children())) == order
    assert list(dict(model.fc1.named_children())) == ["drop10", "fc10"]


def test_layers_are_set_as_in_figure_a1():
    model = meta()
    for name, layer in model.features.named_children():
        if name.startswith("conv"):
            assert (layer.stride, layer.padding, layer.dilation) == ((1,), (0,), (1,))
        elif name.startswith("act"):
            assert isinstance(layer, nn.ReLU)
            assert layer.inplace
        else:
            assert (layer.kernel_size, layer.stride, layer.padding) == (2, 2, 0)
            assert not layer.ceil_mode
    assert model.fc1.drop10.p == 0.4


def test_lengths_before_the_pools_of_ten_seconds():
    maps = features_of(meta(), 80_000)
    lengths = [maps[f"act{block}"].shape[-1] for block in range(1, 12)]
    assert lengths == [79_994, 39_991, 19_991, 9_991, 4_991, 2_493, 1_244, 620, 308, 306, 304]


def test_shortest_input_is_2370_samples():
    model = CNN12(width=SMALL).eval()
    assert features_of(model, 2370)["act11"].shape[-1] == 1
    with pytest.raises(RuntimeError, match=r"size"):
        model(torch.zeros(1, 1, 2369))


@pytest.mark.parametrize("slope", [-1, 1])
def test_one_frame_sees_2370_samples(slope):
    # With positive weights and a falling (rising) ramp every pool takes its first (last) sample,
    # so that the path to the first (last) sample of the receptive field is alive.
    model = CNN12(width=SMALL).double()
    for parameter in model.parameters():
        parameter.data.abs_()
    x = (10 + slope * torch.linspace(0, 1, 4000, dtype=torch.float64)).requires_grad_()
    frame = 3
    model.features(x[None, None])[0, :, frame].sum().backward()
    seen = x.grad.nonzero()
    if slope < 0:
        assert seen.min() == 256 * frame
    else:
        assert seen.max() == 256 * frame + 2370 - 1


def test_embedding_is_the_mean_over_time_through_fc1():
    model = CNN12(width=SMALL).double().eval()
    x = torch.randn(2, 1, 3001, dtype=torch.float64)
    maps = model.features(x)
    weight, bias = model.fc1.fc10.weight, model.fc1.fc10.bias
    expected = maps.sum(dim=-1) / maps.shape[-1] @ weight.T + bias
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_dropout_acts_in_training_alone():
    model, x = CNN12(width=1 / 8), torch.randn(1, 1, 3000)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_stride_twin_halves_as_pooling_does_with_the_same_parameters():
    model, twin = meta(), meta(pooling="stride")
    assert [(n, p.shape) for n, p in model.named_parameters()] == [
        (n, p.shape) for n, p in twin.named_parameters()
    ]
    assert not any(isinstance(m, nn.MaxPool1d) for m in twin.modules())
    pooled, strided = features_of(model, 80_000), features_of(twin, 80_000)
    for block in range(1, 12):
        after_pooling = pooled.get(f"mp{block}", pooled[f"act{block}"])
        # A pool drops an odd last sample, a stride of 2 keeps it.
        assert 0 <= strided[f"act{block}"].shape[-1] - after_pooling.shape[-1] <= 2
        assert strided[f"act{block}"].shape[1] == after_pooling.shape[1]


def test_classifier_and_projection_head():
    model = classifier(CNN12(width=SMALL), classes=35).eval()
    x = torch.randn(3, 1, 2400)
    embedding = model.encoder(x)
    torch.testing.assert_close(model(x), model.head(embedding))
    assert model(x).shape == (3, 35)
    head = projection_head()
    assert head(embedding).shape == (3, 512)
    assert [m.out_features for m in head if isinstance(m, nn.Linear)] == [512, 512]
    assert (head[1](torch.tensor([-1.0])) == 0).all()


@pytest.mark.parametrize("samples", [0, 1, 2369, 2370, 2371])
def test_pad_to_shortest_adds_zeros_at_the_end_of_short_clips_only(samples):
    x = torch.ones(2, 1, samples)
    padded = pad_to_shortest(x)
    assert padded.shape[-1] == max(samples, 2370)
    assert torch.equal(padded[..., :samples], x)
    assert not padded[..., samples:].any()


@pytest.mark.parametrize("width", [0, -1, 0.3, 1 / 128, float("nan"), float("inf")])
def test_width_must_leave_whole_filters(width):
    with pytest.raises(ValueError, match=r"width=.* use a multiple of 1/64"):
        CNN12(width=width)


def test_unknown_pooling_is_an_error():
    with pytest.raises(ValueError, match=r"pooling='mean'.*'max'.*'stride'"):
        CNN12(width=SMALL, pooling="mean")


def test_a_normalised_head_tells_apart_what_all_clips_share():
    torch.manual_seed(0)
    embeddings = 50 + torch.randn(16, 512)  # all point the same way
    alike = torch.nn.functional.cosine_similarity(embeddings[:8], embeddings[8:])
    assert alike.min() > 0.99
    plain, normalised = (projection_head(normalised=said)(embeddings) for said in (False, True))
    assert torch.nn.functional.cosine_similarity(plain[:8], plain[8:]).min() > 0.99
    assert torch.nn.functional.cosine_similarity(normalised[:8], normalised[8:]).abs().max() < 0.5
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(512), rtol=0, atol=1e-5)
