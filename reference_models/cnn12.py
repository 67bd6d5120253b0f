"""CNN12, the paper's raw-waveform encoder: figure A.1 with its module names, at any width."""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

FILTERS = (64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024, 2048)
KERNEL_SIZES = (7, 7, 5, 5, 5, 3, 3, 3, 3, 3, 3)
HALVING_BLOCKS = 8  # blocks 1 to 8 halve the time axis, blocks 9 to 11 keep it
EMBEDDING = 512
SHORTEST = 2370  # samples: the receptive field of one frame of block 11


class CNN12(nn.Module):
    """The encoder f_enc: eleven conv-relu-pool blocks, the mean over time, one linear layer.

    Args:
        width: Scales the number of filters of every convolution: 1.0 is the paper's CNN12, 2.0 its
            CNN12_x2, 1/8 runs on small machines. The embedding keeps its 512 numbers.
        pooling: "max" is the paper's. "stride" is the twin for section 3.2's claim: convolutions 1
            to 8 have stride 2 and no pooling after them. Both have the same parameters.

    Raises:
        ValueError: `width` leaves a convolution without a whole number of filters, or `pooling` is
            neither word.

    Source:
        Figure A.1 of the paper, whose `Activation(relu)` is `nn.ReLU` here. The paper does not say
        how its strided network was built: the twin is our reading.

    Example:
        >>> import torch
        >>> CNN12(width=1 / 8)(torch.zeros(2, 1, 8000)).shape
        torch.Size([2, 512])
    """

    def __init__(self, *, width: float = 1.0, pooling: Literal["max", "stride"] = "max"):
        super().__init__()
        self.features = _blocks(width, pooling)
        self.fc1 = nn.Sequential(
            OrderedDict(
                drop10=nn.Dropout(0.4),
                fc10=nn.Linear(self.features.conv11.out_channels, EMBEDDING),
            )
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """Returns the embeddings, (batch, 512).

        Args:
            waveform: (batch, 1, time), 8 kHz, scaled to peak 1, at least 2,370 samples long:
                `pad_to_shortest` makes it so.
        """
        return self.fc1(self.features(waveform).mean(dim=-1))


def _blocks(width: float, pooling: str) -> nn.Sequential:
    narrowest = FILTERS[0] * width
    if narrowest < 1 or narrowest % 1:
        raise ValueError(
            f"cannot build CNN12 with width={width}: conv1 would have {narrowest:g} filters, "
            f"expected a whole number of at least 1; use a multiple of 1/{FILTERS[0]}"
        )
    if pooling not in ("max", "stride"):
        raise ValueError(
            f"cannot build CNN12 with pooling={pooling!r}: expected 'max' (the paper's) or "
            "'stride' (stride-2 convolutions in its place); pass one of the two"
        )
    layers = OrderedDict()
    channels = 1
    for block, (filters, kernel_size) in enumerate(zip(FILTERS, KERNEL_SIZES, strict=True), 1):
        halving = pooling if block <= HALVING_BLOCKS else None
        stride = 2 if halving == "stride" else 1
        layers[f"conv{block}"] = nn.Conv1d(channels, int(filters * width), kernel_size, stride)
        layers[f"act{block}"] = nn.ReLU(inplace=True)
        if halving == "max":
            layers[f"mp{block}"] = nn.MaxPool1d(2)
        channels = int(filters * width)
    return nn.Sequential(layers)


def classifier(encoder: CNN12, *, classes: int) -> nn.Sequential:
    """Returns `encoder` and a linear `head` on top of it: waveforms to (batch, classes) logits.

    Source:
        Appendix A.3; the dropout before the encoder's last layer is figure A.1's.
    """
    return nn.Sequential(OrderedDict(encoder=encoder, head=nn.Linear(EMBEDDING, classes)))


class MeanOverTime(nn.Module):
    """The mean over the last axis."""

    def forward(self, maps: Tensor) -> Tensor:
        """Returns (batch, channels) of maps (batch, channels, time)."""
        return maps.mean(dim=-1)


def end_of_block(encoder: CNN12, block: int) -> str:
    """Returns the name of a block's last module: its pooling, or its activation."""
    pooling = f"mp{block}"
    return pooling if hasattr(encoder.features, pooling) else f"act{block}"


def probe(encoder: CNN12, *, layers: int, classes: int) -> nn.Sequential:
    """Returns the first blocks of `encoder`, their mean over time, and a linear `head` on it.

    Args:
        encoder: Its modules are used, not copied.
        layers: How many of its eleven blocks are kept.
        classes: Outputs of the head.

    Source:
        Appendix B: "incrementally increasing retained layers, followed by temporal average pooling
        and adding a classifier on top".
    """
    names = [name for name, _ in encoder.features.named_children()]
    last = names.index(end_of_block(encoder, layers))
    head = nn.Linear(encoder.features.get_submodule(f"conv{layers}").out_channels, classes)
    kept = encoder.features[: last + 1]
    return nn.Sequential(OrderedDict(features=kept, mean=MeanOverTime(), head=head))


def projection_head(*, normalised: bool = False) -> nn.Sequential:
    """Returns f_proj, from embeddings to the (batch, 512) vectors that SimCLR's loss compares.

    Args:
        normalised: Whether each of its inputs, hidden units and outputs is standardised over the
            batch. CNN12 has no normalisation: at first the embeddings of any two clips point the
            same way (their features are non-negative means), and the loss compares directions.

    Source:
        Section 3.1: one hidden layer of 512 units, 512 numbers out; the ReLU is SimCLR's. So is
        batch normalisation (in its released code), which the paper does not mention.
    """
    hidden, out = nn.Linear(EMBEDDING, EMBEDDING), nn.Linear(EMBEDDING, EMBEDDING)
    if not normalised:
        return nn.Sequential(hidden, nn.ReLU(), out)
    first, middle, last = (nn.BatchNorm1d(EMBEDDING) for _ in range(3))
    return nn.Sequential(first, hidden, middle, nn.ReLU(), out, last)


def pad_to_shortest(waveform: Tensor) -> Tensor:
    """Returns `waveform`, (..., time), with zeros after its end if it is below 2,370 samples."""
    return F.pad(waveform, (0, max(0, SHORTEST - waveform.shape[-1])))


def demo(*, regime: Literal["supervised", "contrastive"] = "supervised") -> nn.Module:
    """Returns a network that ships trained, width 1/8, in eval mode.

    The files beside its weights, `weights/*.json`, say how it was trained and how well it does.

    Args:
        regime: "supervised": the classifier of 35 rendered English words. "contrastive": the
            encoder that SimCLR made from recordings of Arabic words, as `arabic` returns it.

    Example:
        >>> import torch
        >>> demo()(torch.zeros(1, 1, 8000)).shape
        torch.Size([1, 35])
    """
    if regime == "contrastive":
        return arabic(regime)
    return _shipped("words", "supervised")


def arabic(regime: Literal["supervised", "contrastive"] = "supervised") -> nn.Module:
    """Returns a network that was trained on recordings of 30 Arabic words, as `demo` does.

    Args:
        regime: "supervised": the classifier. "contrastive": the encoder.
    """
    return _shipped(f"arabic-{regime}", regime)


def _shipped(name: str, regime: str) -> nn.Module:
    from reference_models.checkpoint import load_classifier, load_encoder  # which need CNN12

    load = load_encoder if regime == "contrastive" else load_classifier
    return load(Path(__file__).parent / "weights" / f"cnn12-w8-{name}.safetensors")
