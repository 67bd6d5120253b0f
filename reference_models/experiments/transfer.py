"""Figure 4: how well each layer's features serve other tasks, by the regime that made them."""

from reference_models.experiments.study import REGIMES, Network, Preset, finetuned, pretrained

NAME = "figure-4"
METRICS = {"fsd50k": "mAP", "words": "accuracy"}
FULL = (2, 6, 11)  # layers up to which the whole of a network is trained as well
EARLY, MIDDLE, DEEP, TOP = (1, 2, 3, 4), 6, (9, 10, 11), 11
WHOLE = 12  # stands for the encoder with its linear layer, the dashed lines


def networks(preset: Preset) -> list[Network]:
    """What figure 4 trains beside its probes: cut networks, and the whole ones of its lines."""
    return [
        finetuned(data, pretrained(regime), **changes)
        for data in METRICS
        for regime in REGIMES
        for changes in ({"frozen": True}, {}, *({"layers": layers} for layers in FULL))
    ]
